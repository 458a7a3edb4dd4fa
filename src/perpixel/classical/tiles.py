"""An image's features tile by tile: a tile bounds the memory, and no pixel's features depend on where tiles end."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
import torch
from torch import Tensor

from perpixel.classical.features import FilterBank, mirrored
from perpixel.classical.forms import TorchForm, array_form

Span = tuple[int, int]
# Pixels of a tile along the axes: long rows, since those are what a processor reads fast.
_TILES = {2: (64, 512), 3: (32, 64, 64)}
# Features of a tile that are held together, in numbers: a tile is halved until they fit.
_MOST_NUMBERS = 1 << 24


def tiles(shape: Sequence[int], num_features: int) -> list[tuple[Span, ...]]:
    """Parts of an image of this spatial shape: (begin, end) along every axis."""
    sides = [min(side, most) for side, most in zip(shape, _TILES[len(shape)])]
    while num_features * np.prod(sides) > _MOST_NUMBERS and max(sides) > 1:
        longest = sides.index(max(sides))
        sides[longest] = (sides[longest] + 1) // 2
    axes = [
        [(begin, min(begin + side, size)) for begin in range(0, size, side)] for side, size in zip(sides, shape)
    ]  # fmt: skip
    return list(product(*axes))


def tile_features(image: np.ndarray, tile: tuple[Span, ...], bank: FilterBank) -> np.ndarray:
    """Features of the pixels of a tile.

    Args:
        image: (C, *spatial) float32, the whole image.
    Returns:
        (C * F, N) float32, channel by channel, the pixels in the order of the tile.
    """
    dims, form = len(tile), array_form()
    count = int(np.prod([end - begin for begin, end in tile]))
    planes = len(bank.names(dims))
    features = np.empty((len(image) * planes, count), np.float32)
    where = [mirrored(begin - bank.halo, end + bank.halo, size) for (begin, end), size in zip(tile, image.shape[1:])]
    for channel, plane in enumerate(image):  # one channel at a time: all that is computed on the way is small
        padded = plane[np.ix_(*where)][None]
        own = features[channel * planes : (channel + 1) * planes]
        if form is not None:
            with np.errstate(over="ignore", invalid="ignore"):  # of huge values; trees take infinity and NaN
                for row, values in zip(own, bank.planes(padded, form)):
                    row[:] = values.reshape(-1)
        else:
            for row, found in zip(own, bank.planes(torch.from_numpy(padded), TorchForm())):
                row[:] = found.numpy().reshape(-1)
    return features


def tensor_features(image: Tensor, bank: FilterBank, tile: tuple[Span, ...] | None = None) -> Tensor:
    """The same in torch operations, traceable where no tile is named: (C, *spatial) -> (C * F, N)."""
    padded, halo = image, bank.halo
    for axis in range(1, image.ndim):
        size = image.shape[axis]
        begin, end = tile[axis - 1] if tile else (0, size)
        at = torch.arange(begin - halo, end + halo, device=image.device)
        at = at.remainder(torch.full_like(at, 2 * size))  # by a number, ONNX cannot where the size is left open
        padded = padded.index_select(axis, torch.minimum(at, 2 * size - 1 - at))
    return torch.stack(bank.planes(padded, TorchForm()), 1).flatten(2).flatten(0, 1)
