"""CIELab in whole numbers: known colours, OpenCV as the oracle."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from perpixel.classical.texton_colours import LARGEST, UNIT, Colours

# sRGB, and its CIELab under D65 as published colour tables give it.
KNOWN = [
    ((0, 0, 0), (0, 0, 0)),
    ((1, 1, 1), (100, 0, 0)),
    ((1, 0, 0), (53.24, 80.09, 67.20)),
    ((0, 1, 0), (87.73, -86.18, 83.18)),
    ((0, 0, 1), (32.30, 79.19, -107.86)),
    ((0.5, 0.5, 0.5), (53.39, 0, 0)),
]


def lab_of(image: np.ndarray) -> np.ndarray:
    """(C, H, W) in 0..1 -> CIELab as usually written."""
    return Colours(3, True)(torch.from_numpy(image.astype(np.float32))).numpy() * (100 / UNIT)


@pytest.mark.parametrize(("rgb", "lab"), KNOWN)
def test_known_colours(rgb: tuple[float, ...], lab: tuple[float, ...]) -> None:
    assert lab_of(np.array(rgb).reshape(3, 1, 1)).reshape(3) == pytest.approx(lab, abs=0.05)


def test_grey_has_no_colour_at_all() -> None:
    grey = np.broadcast_to(np.linspace(0, 1, 256, dtype=np.float32), (3, 1, 256))
    assert not lab_of(grey)[1:].any()


def test_opencv_gives_the_same() -> None:
    image = np.random.default_rng(0).random((32, 32, 3)).astype(np.float32)
    expected = cv2.cvtColor(image, cv2.COLOR_RGB2LAB).transpose(2, 0, 1)
    assert np.abs(lab_of(image.transpose(2, 0, 1)) - expected).max() < 0.35  # OpenCV interpolates a table too


def test_values_outside_count_as_the_nearest_within() -> None:
    image = np.array([[-0.5, 0], [1, 1.5]]).reshape(1, 2, 2).repeat(3, 0)
    made = lab_of(image)
    assert (made[:, :, 0] == made[:, :, 1]).all()


@pytest.mark.parametrize(("channels", "lab"), [(1, True), (3, False), (4, True)])
def test_other_channels_are_compared_as_they_are(channels: int, lab: bool) -> None:
    image = torch.tensor([0.0, 0.5, -1.0, 100.0, torch.nan]).reshape(1, 1, 5).expand(channels, 1, 5)
    made = Colours(channels, lab)(image)
    assert made.dtype == torch.int16 and made[channels - 1, 0].tolist() == [0, UNIT // 2, -UNIT, LARGEST, 0]
