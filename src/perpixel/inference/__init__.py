"""Model + image -> label map: bundles, the predictor, sliding windows, many files."""

from perpixel.inference.bundle import BundleConfig, find_bundle, load_bundle, save_bundle
from perpixel.inference.predictor import MIRRORS, Prediction, Predictor, load
from perpixel.inference.sliding import WindowResult, sliding_window

__all__ = [
    "MIRRORS",
    "BundleConfig",
    "Prediction",
    "Predictor",
    "WindowResult",
    "find_bundle",
    "load",
    "load_bundle",
    "save_bundle",
    "sliding_window",
]
