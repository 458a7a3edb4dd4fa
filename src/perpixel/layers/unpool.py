"""Max-pooling that remembers where each maximum stood, and unpooling that puts values back there.

    3 5 | 0 1                                           0 5 | 0 1
    2 4 | 1 0    pool    5 1            1 1    unpool   0 0 | 0 0
    ----+----    --->    7 8  at places 2 3    --->     ----+----
    1 0 | 2 3                                           0 0 | 0 0
    7 6 | 5 8                                           7 0 | 0 8

A place is a number inside its 2x2 window, not an index into the whole map as torch's, so it fits a byte, and both steps
are comparisons and copies: they export to ONNX as standard operations, are compiled, and give the same bits every time
on a GPU, where `torch.nn.functional.max_unpool2d` does none of the three.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

WINDOW = 2
PLACES = WINDOW * WINDOW


def max_pool_places(maps: Tensor) -> tuple[Tensor, Tensor]:
    """The maximum of every 2x2 window, and where in the window it stood: (B, C, H, W) -> two (B, C, H', W').

    H' = ceil(H / 2): at an odd side the last windows hang over the end, as Caffe's and SegNet's do, and never choose
    what lies outside.

    Returns:
        (values, places): values of the dtype of `maps`; places uint8, 0 top left, 1 top right, 2 bottom left, 3 bottom
        right, the first one where several are highest. A window with a NaN has the value NaN and the place 3.
    """
    rows, cols = maps.shape[-2] % WINDOW, maps.shape[-1] % WINDOW
    if rows or cols:
        maps = F.pad(maps, (0, cols, 0, rows), value=float("-inf"))
    values = F.max_pool2d(maps, WINDOW)
    # How many of the first three cells have been passed without meeting the maximum.
    is_past = maps[..., 0::2, 0::2] != values
    places = is_past.to(torch.uint8)
    for row, col in ((0, 1), (1, 0)):
        is_past = is_past & (maps[..., row::2, col::2] != values)
        places = places + is_past.to(torch.uint8)
    return values, places


def unpool_places(values: Tensor, places: Tensor, size: tuple[int, int]) -> Tensor:
    """Each value at its place in a 2x2 window, zeros at the other three: (B, C, H', W') -> (B, C, *size).

    Gradients flow back from the places alone. The result is stored channels last, the layout in which whole rows of
    channels are copied at once. Values that are not finite turn the other three cells into NaN.

    Args:
        values, places: as from `max_pool_places`; the values may have been changed since.
        size: (height, width) of the map before it was pooled, which an odd side cannot tell.
    """
    height, width = size
    values, places = values.permute(0, 2, 3, 1), places.permute(0, 2, 3, 1)  # (B, H', W', C)
    B, rows, cols, C = values.shape
    cells = [values * (places == place) for place in range(PLACES)]
    lines = [torch.cat(cells[:WINDOW], dim=3), torch.cat(cells[WINDOW:], dim=3)]  # (B, H', W', 2C): left, then right
    maps = torch.stack(lines, dim=2).reshape(B, WINDOW * rows, WINDOW * cols, C)
    return maps.permute(0, 3, 1, 2)[..., :height, :width]
