"""Bilinear interpolation to the size of another map, with the alignment of the corners always said."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def resize_like(maps: Tensor, like: Tensor, *, align_corners: bool) -> Tensor:
    """Interpolate (B, C, H, W) bilinearly to the height and width of `like`; the map itself where they agree.

    Args:
        align_corners: True puts the centres of the corner pixels on each other (Caffe-era models, TensorFlow's
            DeepLab), False the outer corners of the corner pixels (torchvision). Weights are trained for one of them.
    """
    return resize_to(maps, (like.shape[-2], like.shape[-1]), align_corners=align_corners)


def resize_to(maps: Tensor, size: tuple[int, int], *, align_corners: bool) -> Tensor:
    """Interpolate (B, C, H, W) bilinearly to (height, width); see `resize_like`."""
    if maps.shape[-2:] == size:
        return maps
    return F.interpolate(maps, size, mode="bilinear", align_corners=align_corners)
