"""Model + image or volume -> label map or objects: bundles, the predictors, sliding windows, tiles, many files."""

from perpixel.inference.bundle import BundleConfig, ObjectForm, VolumeForm, find_bundle, load_bundle, save_bundle
from perpixel.inference.components import LARGEST_ONLY, ComponentRule, choose_rules, clean_components
from perpixel.inference.instance_files import predict_instance_files
from perpixel.inference.instance_predictor import Detector, InstancePredictor
from perpixel.inference.instance_tiles import merge_tiles
from perpixel.inference.instance_views import Tile, tile_image
from perpixel.inference.load import (
    AnyPredictor,
    load,
    load_for_images,
    make_predictor,
    object_predictor,
    volume_predictor,
)
from perpixel.inference.predictor import MIRRORS, Prediction, Predictor
from perpixel.inference.regrid import Regrid
from perpixel.inference.sliding import WindowResult, sliding_window
from perpixel.inference.volumes import VolumePredictor, prepare_volume

__all__ = [
    "LARGEST_ONLY",
    "MIRRORS",
    "AnyPredictor",
    "BundleConfig",
    "ComponentRule",
    "Detector",
    "InstancePredictor",
    "ObjectForm",
    "Prediction",
    "Predictor",
    "Regrid",
    "Tile",
    "VolumeForm",
    "VolumePredictor",
    "WindowResult",
    "choose_rules",
    "clean_components",
    "find_bundle",
    "load",
    "load_bundle",
    "load_for_images",
    "make_predictor",
    "merge_tiles",
    "object_predictor",
    "predict_instance_files",
    "prepare_volume",
    "save_bundle",
    "sliding_window",
    "tile_image",
    "volume_predictor",
]
