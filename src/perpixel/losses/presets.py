"""Sums of losses that papers give a name."""

from __future__ import annotations

from torch import Tensor

from perpixel.losses.focal import Focal
from perpixel.losses.iou import IoU
from perpixel.losses.ms_ssim import MSSSIM
from perpixel.losses.sum import WeightedSum


def hybrid(*, class_weights: Tensor | None = None, ignore_index: int | None = None) -> WeightedSum:
    """UNet 3+'s loss, "focal+msssim+iou": pixels, patches and whole classes, weighed alike."""
    terms = [
        Focal(class_weights=class_weights, ignore_index=ignore_index),
        MSSSIM(ignore_index=ignore_index),
        IoU(ignore_index=ignore_index),
    ]
    return WeightedSum(terms, [1.0, 1.0, 1.0])
