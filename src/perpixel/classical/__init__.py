"""Forests of decision trees, what labelled pixels before deep nets: a first result in seconds, without a GPU."""

from perpixel.classical.pixel_forest import PixelForest
from perpixel.classical.texton_forest import TextonForest

__all__ = ["PixelForest", "TextonForest"]
