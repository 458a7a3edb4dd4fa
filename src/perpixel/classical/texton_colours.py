"""What the split functions of a texton forest compare: CIELab of a colour image, in whole numbers.

With whole numbers from the first step on, every sum, difference and comparison is exact: a pixel takes the same way
through a tree on any device, by any form, in any order of the work.

CIELab as CIE 15 defines it, for sRGB (IEC 61966-2-1) under D65. L, a and b are stored in units of 100 / 4096; gamma and
cube root are tables of 4096 and 65536 entries. Other channel counts are compared as they are, in units of 1 / 4096.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

UNIT = 4096
# The sum of two values still fits 16 bits.
LARGEST = 2**14 - 1
_GAMMA_STEPS, _LINEAR_STEPS, _WEIGHT = 4095, 65535, 2**14
_SRGB_TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)


def _linear_table() -> np.ndarray:
    """(4096,) int32 in 0..65535: light of an sRGB value."""
    value = np.arange(_GAMMA_STEPS + 1) / _GAMMA_STEPS
    light = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    return np.rint(light * _LINEAR_STEPS).astype(np.int32)


def _root_table() -> np.ndarray:
    """(3, 65536) int32: 116 f - 16, 500 f and 200 f of CIELab's f, in units."""
    share = np.arange(_LINEAR_STEPS + 1) / _LINEAR_STEPS
    f = np.where(share > (6 / 29) ** 3, np.cbrt(share), share * (29 / 6) ** 2 / 3 + 4 / 29)
    return np.rint(np.stack([1.16 * f - 0.16, 5 * f, 2 * f]) * UNIT).astype(np.int32)


def _weights() -> np.ndarray:
    """(3, 3) whole numbers, each row adding up to 2^14: X, Y, Z over those of white."""
    rows = np.rint(_SRGB_TO_XYZ / _SRGB_TO_XYZ.sum(1, keepdims=True) * _WEIGHT).astype(np.int64)
    rows[:, 1] += _WEIGHT - rows.sum(1)
    return rows


class Colours(nn.Module):
    """Image (C, H, W) float32 -> (C, H, W) int16 for the split functions.

    Args:
        lab: whether three channels are RGB in 0..1, to become CIELab; values outside count as the nearest within.
    """

    linear: Tensor
    roots: Tensor

    def __init__(self, in_channels: int, lab: bool) -> None:
        super().__init__()
        self.lab = lab and in_channels == 3
        self.rows = _weights().tolist()
        self.register_buffer("linear", torch.from_numpy(_linear_table()), persistent=False)
        self.register_buffer("roots", torch.from_numpy(_root_table()), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """image (C, H, W) float32 -> (C, H, W) int16; NaN counts as 0."""
        image = torch.nan_to_num(image.float())
        if not self.lab:
            return (image * UNIT).round().clamp(-LARGEST, LARGEST).to(torch.int16)
        red, green, blue = self.linear[(image.clamp(0, 1) * _GAMMA_STEPS).round().long()]
        x, y, z = (
            (red * a + green * b + blue * c + _WEIGHT // 2).div(_WEIGHT, rounding_mode="floor").long()
            for a, b, c in self.rows
        )
        lightness, a_root, b_root = self.roots
        lab = torch.stack([lightness[y], a_root[x] - a_root[y], b_root[y] - b_root[z]])
        return lab.to(torch.int16)
