"""The fully connected CRF: class probabilities refined along the edges of the image."""

from perpixel.inference.crf.dense import dense_crf
from perpixel.inference.crf.exact import exact_crf
from perpixel.inference.crf.settings import PRESETS, CrfSettings
from perpixel.inference.crf.torch_form import DenseCRF

__all__ = ["PRESETS", "CrfSettings", "DenseCRF", "dense_crf", "exact_crf"]
