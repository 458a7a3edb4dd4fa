"""Model + image or volume -> label map: bundles, the predictors, sliding windows, many files."""

from perpixel.inference.bundle import BundleConfig, VolumeForm, find_bundle, load_bundle, save_bundle
from perpixel.inference.components import LARGEST_ONLY, ComponentRule, choose_rules, clean_components
from perpixel.inference.load import load, load_for_images, make_predictor, volume_predictor
from perpixel.inference.predictor import MIRRORS, Prediction, Predictor
from perpixel.inference.regrid import Regrid
from perpixel.inference.sliding import WindowResult, sliding_window
from perpixel.inference.volumes import VolumePredictor, prepare_volume

__all__ = [
    "LARGEST_ONLY",
    "MIRRORS",
    "BundleConfig",
    "ComponentRule",
    "Prediction",
    "Predictor",
    "Regrid",
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
    "prepare_volume",
    "save_bundle",
    "sliding_window",
    "volume_predictor",
]
