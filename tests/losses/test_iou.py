from __future__ import annotations

import pytest
import torch

from perpixel.errors import InputError
from perpixel.losses import IoU, soft_dice, soft_iou


def pixels(*rows: list[float]) -> torch.Tensor:
    """Logits (1, K, 1, N) whose softmax at pixel n is rows[n]."""
    return torch.tensor(rows).log().T[None, :, None]


def test_by_hand() -> None:
    logits = pixels([0.8, 0.2], [0.4, 0.6], [0.5, 0.5])
    target = torch.tensor([[[0, 1, 1]]])
    first = 0.8 / (1.7 + 1 - 0.8)
    second = 1.1 / (1.3 + 2 - 1.1)
    assert soft_iou(logits, target, smooth=0).item() == pytest.approx(1 - (first + second) / 2)
    assert soft_iou(logits, target, smooth=0, include_background=False).item() == pytest.approx(1 - second)


def test_smooth_stands_above_and_below() -> None:
    logits = pixels([0.8, 0.2])
    target = torch.tensor([[[0]]])
    first, absent = (0.8 + 1) / (1 + 1), 1 / (0.2 + 1)
    assert soft_iou(logits, target, smooth=1).item() == pytest.approx(1 - first)
    assert soft_iou(logits, target, smooth=1, classes="all").item() == pytest.approx(1 - (first + absent) / 2)


def test_one_ratio_is_that_of_dice() -> None:
    """IoU = D / (2 - D) for a single class and ratio."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 1, 4, 3, generator=generator)
    target = torch.randint(0, 2, (2, 4, 3), generator=generator)
    dice = 1 - soft_dice(logits, target, smooth=0)
    torch.testing.assert_close(1 - soft_iou(logits, target, smooth=0), dice / (2 - dice))


def test_a_ratio_of_each_sample() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 3, 4, 3, generator=generator)
    target = torch.randint(0, 3, (3, 4, 3), generator=generator)
    target[2] = 255
    each = [soft_iou(logits[i : i + 1], target[i : i + 1]) for i in range(2)]
    torch.testing.assert_close(soft_iou(logits, target, batch=False, ignore_index=255), (each[0] + each[1]) / 2)


def test_errors() -> None:
    with pytest.raises(InputError, match="classes is 'some': give 'present' or 'all'"):
        IoU(classes="some")
    with pytest.raises(InputError, match="smooth is -1: give 0 or more"):
        IoU(smooth=-1)
