"""The tests of the first forest: one or two pixels of the patch around a pixel, against a threshold.

    value  A        sum  A + B        difference  A - B        absolute difference  |A - B|

A and B are pixels of the patch, each read in a channel of its own. No filter bank is computed, which is what makes
textons fast. A split is a row of seven whole numbers: kind, and row, column and channel of A and B, rows and columns
relative to the pixel. Beyond the border the nearest pixel of the image counts.

Shotton, Johnson, Cipolla, "Semantic texton forests for image categorization and segmentation", CVPR 2008.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from torch import Tensor

from perpixel.classical.texton_trees import Trees
from perpixel.compiled import Workers, compile_loop
from perpixel.errors import InputError

VALUE, SUM, DIFFERENCE, ABSOLUTE = range(4)
COLUMNS = 7
# Rows whose leaves one thread finds at a time.
_BAND = 32


def draw_splits(count: int, channels: int, patch: int, random: np.random.Generator) -> np.ndarray:
    """(count, 7) int16 random splits of a `patch` of that side; all kinds alike often."""
    reach = patch // 2
    kind = random.integers(0, 4, (count, 1))
    at = random.integers(-reach, reach + 1, (count, 2, 2))
    channel = random.integers(0, channels, (count, 2, 1))
    pixels = np.concatenate([at, channel], axis=2).reshape(count, 6)
    return np.concatenate([kind, pixels], axis=1).astype(np.int16)


def check_splits(splits: Tensor, channels: int, patch: int) -> None:
    """Refuse splits that look outside of the patch or the channels.

    Raises:
        InputError
    """
    kind, at, channel = splits[:, 0], splits[:, [1, 2, 4, 5]].int(), splits[:, [3, 6]]
    if len(splits) and not (
        ((kind >= 0) & (kind <= ABSOLUTE)).all()
        and (at.abs() <= patch // 2).all()
        and ((channel >= 0) & (channel < channels)).all()
    ):
        raise InputError(
            f"the splits of a texton forest look outside of a patch of {patch} pixels and {channels} channels: "
            "the file is damaged, or belongs to a forest with other options"
        )


def padded(channels: Tensor, reach: int) -> Tensor:
    """(C, H, W) -> (C, H + 2 reach, W + 2 reach): the nearest pixel goes on beyond the border."""
    height, width = channels.shape[1:]
    rows = torch.arange(-reach, height + reach, device=channels.device).clamp(0, height - 1)
    cols = torch.arange(-reach, width + reach, device=channels.device).clamp(0, width - 1)
    return channels[:, rows][:, :, cols]


def split_values(channels: Tensor, rows: Tensor, cols: Tensor, splits: Tensor) -> Tensor:
    """What splits (..., 7) int64 see at pixels; int32.

    Args:
        channels: (C, H', W') int16, padded.
        rows, cols: (...) int64 of the pixels in it.
    """
    height, width = channels.shape[1:]
    flat = channels.reshape(-1)
    kind, row_a, col_a, channel_a, row_b, col_b, channel_b = splits.unbind(-1)
    a = flat[(channel_a * height + rows + row_a) * width + cols + col_a].int()
    b = flat[(channel_b * height + rows + row_b) * width + cols + col_b].int()
    sign = (kind == SUM).int() - (kind >= DIFFERENCE).int()
    value = a + sign * b
    return torch.where(kind == ABSOLUTE, value.abs(), value)


def values_at(channels: np.ndarray, rows: np.ndarray, cols: np.ndarray, splits: np.ndarray) -> np.ndarray:
    """(splits, n) int16: what every split sees at n pixels.

    Args:
        channels: (C, H', W') int16, padded. rows, cols: (n,) int64 of the pixels in it.
    """
    out = np.empty((len(splits), len(rows)), np.int16)
    loop = _values_loop()
    if loop:
        loop(np.ascontiguousarray(channels), rows, cols, splits.astype(np.int64), out)
        return out
    given = torch.from_numpy(channels), torch.from_numpy(rows), torch.from_numpy(cols)
    for number, split in enumerate(torch.from_numpy(splits).long()):
        out[number] = split_values(*given, split).numpy()
    return out


def find_leaves(channels: Tensor, trees: Trees, reach: int, threads: int = 1) -> Tensor:
    """Leaf of every pixel in every tree, as (T, H, W) int32, by compiled loops.

    Args:
        channels: (C, H + 2 reach, W + 2 reach) int16, padded, on the CPU.
    """
    height, width = channels.shape[1] - 2 * reach, channels.shape[2] - 2 * reach
    splits, rows, cols = trees.splits.numpy().astype(np.int64), channels.shape[1], channels.shape[2]
    # Where the two pixels lie from the first of the patch, in the flat image.
    first = (splits[:, 3] * rows + splits[:, 1] + reach) * cols + splits[:, 2] + reach
    second = (splits[:, 6] * rows + splits[:, 4] + reach) * cols + splits[:, 5] + reach
    out = np.empty((len(trees.roots), height, width), np.int32)
    loop = leaves_loop()
    assert loop is not None
    flat = channels.contiguous().numpy().reshape(-1)
    arrays = splits[:, 0], first, second, trees.thresholds.numpy(), trees.below.numpy(), trees.roots.numpy()

    def band(number: int) -> None:
        loop(flat, cols, *arrays, number * _BAND, min(height, (number + 1) * _BAND), out)

    with Workers(threads) as workers:
        workers.run(band, -(-height // _BAND))
    return torch.from_numpy(out)


def find_leaves_by_torch(channels: Tensor, trees: Trees, reach: int) -> Tensor:
    """`find_leaves` in torch operations, on any device."""
    height, width = channels.shape[1] - 2 * reach, channels.shape[2] - 2 * reach
    rows = torch.arange(reach, reach + height, device=channels.device)[:, None]
    cols = torch.arange(reach, reach + width, device=channels.device)[None]
    leaves = [
        trees.descend(
            root.long().expand(height, width), lambda splits: split_values(channels, rows, cols, splits)
        ).int()
        for root in trees.roots
    ]
    return torch.stack(leaves)


@cache
def _values_loop() -> Callable[..., None] | None:
    return compile_loop(_values)


def _values(channels, rows, cols, splits, out):  # type: ignore[no-untyped-def]
    _, height, width = channels.shape
    flat = channels.reshape(-1)
    for s in range(len(splits)):
        kind = splits[s, 0]
        first = (splits[s, 3] * height + splits[s, 1]) * width + splits[s, 2]
        second = (splits[s, 6] * height + splits[s, 4]) * width + splits[s, 5]
        sign = (1 if kind == 1 else 0) - (1 if kind >= 2 else 0)
        for i in range(len(rows)):
            at = rows[i] * width + cols[i]
            value = np.int32(flat[at + first]) + sign * np.int32(flat[at + second])
            out[s, i] = abs(value) if kind == 3 else value


@cache
def leaves_loop() -> Callable[..., None] | None:
    """The loop of `find_leaves`; None without numba."""
    return compile_loop(_leaves)


def _leaves(flat, width, kinds, first, second, thresholds, children, roots, begin, end, out):  # type: ignore[no-untyped-def]
    for row in range(begin, end):
        for tree in range(len(roots)):
            for col in range(out.shape[2]):
                at = row * width + col
                node = np.int64(roots[tree])
                while children[node, 0] != node:
                    kind = kinds[node]
                    value = np.int64(flat[at + first[node]])
                    if kind != 0:
                        other = np.int64(flat[at + second[node]])
                        value = value + other if kind == 1 else value - other
                        if kind == 3:
                            value = abs(value)
                    node = np.int64(children[node, 1 if value > thresholds[node] else 0])
                out[tree, row, col] = node
