"""Bring one map to the size of another without resampling: crop it, pad it with zeros, or mirror it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from perpixel.errors import InputError


def crop_like(maps: Tensor, like: Tensor, offset: int | tuple[int, int] | None = None) -> Tensor:
    """Cut (B, C, H, W) `maps` to the height and width of `like`; a view, no copy.

    Args:
        offset: rows and columns left out at the top and at the left, as Caffe's Crop layer; None cuts the centre.
    Raises:
        InputError: `maps` is smaller than `like` plus the offset.
    """
    height, width = like.shape[-2:]
    if offset is None:
        top, left = (maps.shape[-2] - height) // 2, (maps.shape[-1] - width) // 2
    else:
        top, left = (offset, offset) if isinstance(offset, int) else offset
    if top < 0 or left < 0 or top + height > maps.shape[-2] or left + width > maps.shape[-1]:
        raise InputError(
            f"map of {maps.shape[-2]}x{maps.shape[-1]} cannot be cropped to {height}x{width} at offset "
            f"({top}, {left}): it must be at least {top + height}x{left + width}"
        )
    return maps[..., top : top + height, left : left + width]


def pad_to_like(maps: Tensor, like: Tensor) -> Tensor:
    """Add rows and columns of zeros at the end of (B, C, H, W) `maps` until it has the size of `like`.

    Raises:
        InputError: `maps` is larger than `like`.
    """
    rows, cols = like.shape[-2] - maps.shape[-2], like.shape[-1] - maps.shape[-1]
    if rows < 0 or cols < 0:
        raise InputError(
            f"map of {maps.shape[-2]}x{maps.shape[-1]} cannot be padded to {like.shape[-2]}x{like.shape[-1]}: crop it"
        )
    return F.pad(maps, (0, cols, 0, rows)) if rows or cols else maps


def pad_to_multiple(image: Tensor, multiple: int, remainder: int = 0) -> Tensor:
    """Add rows and columns of zeros at the end of (B, C, H, W) until both sides are multiples of `multiple`.

    Zero is the mean colour of a normalised image, and what the convolutions pad with anyway.

    Args:
        remainder: what the sides leave over, as 1 in DeepLab's sizes 8k + 1.
    """
    rows, cols = (remainder - image.shape[-2]) % multiple, (remainder - image.shape[-1]) % multiple
    return F.pad(image, (0, cols, 0, rows)) if rows or cols else image


def pad_to_least(image: Tensor, least: int) -> Tensor:
    """Add rows and columns of zeros at the end of (B, C, H, W) until no side is shorter than `least`."""
    rows, cols = max(0, least - image.shape[-2]), max(0, least - image.shape[-1])
    return F.pad(image, (0, cols, 0, rows)) if rows or cols else image


def fit_like(maps: Tensor, like: Tensor) -> Tensor:
    """Cut or pad (B, C, H, W) `maps` at the end of each side to the height and width of `like`."""
    return pad_to_like(maps[..., : like.shape[-2], : like.shape[-1]], like)


def mirror_to(image: Tensor, size: tuple[int, int], margin: int) -> Tensor:
    """Mirror (B, C, H, W) by `margin` at the top and left and up to `size` in all, however small the image is."""
    for axis, total in zip((-2, -1), size):
        side = image.shape[axis]
        period = max(1, 2 * (side - 1))
        places = torch.arange(-margin, total - margin, device=image.device) % period
        image = image.index_select(axis, torch.minimum(places, period - places).clamp_max(side - 1))
    return image
