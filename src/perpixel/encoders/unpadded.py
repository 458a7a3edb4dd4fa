"""Networks with unpadded layers, such as Inception: the smallest image that they take."""

from __future__ import annotations

import copy

import torch
from torch import nn

MOST_MULTIPLES = 16


def least_side(net: nn.Module, in_channels: int, multiple: int) -> int:
    """The smallest multiple of `multiple` that `net` takes as a side of its image; `multiple` where nothing is lost.

    It is found by trying, without values, and only for networks with layers that cut pixels off.
    """
    if not any(_loses_pixels(part) for part in net.modules()):
        return multiple
    probe = copy.deepcopy(net).to("meta").eval()
    for number in range(1, MOST_MULTIPLES):
        side = number * multiple
        try:
            with torch.no_grad():
                probe(torch.empty(1, in_channels, side, side, device="meta"))
        except (RuntimeError, ValueError):
            continue
        return side
    return multiple


def _loses_pixels(part: nn.Module) -> bool:
    """Windows that overlap and have no padding; subclasses, as TensorFlow's "same" convolutions, pad by themselves."""
    if type(part) not in (nn.Conv2d, nn.MaxPool2d):
        return False
    kernel, stride, padding = (_first(getattr(part, name)) for name in ("kernel_size", "stride", "padding"))
    return padding == 0 and kernel > stride


def _first(value: object) -> int:
    """Of (rows, columns), or of one number for both; "same" padding counts as some."""
    found = value[0] if isinstance(value, tuple) else value
    return found if isinstance(found, int) else 1
