from __future__ import annotations

import pytest
import torch

from perpixel.errors import InputError
from perpixel.losses import Tversky, soft_dice, soft_iou, tversky


def pixels(*rows: list[float]) -> torch.Tensor:
    """Logits (1, K, 1, N) whose softmax at pixel n is rows[n]."""
    return torch.tensor(rows).log().T[None, :, None]


def example() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 4, 3, generator=generator)
    return logits, torch.randint(0, 3, (2, 4, 3), generator=generator)


def test_by_hand() -> None:
    logits = pixels([0.8, 0.2], [0.4, 0.6], [0.5, 0.5])
    target = torch.tensor([[[0, 1, 1]]])
    # class 0: TP 0.8, FP 0.4 + 0.5, FN 0.2; class 1: TP 0.6 + 0.5, FP 0.2, FN 0.4 + 0.5
    first = 0.8 / (0.8 + 0.3 * 0.9 + 0.7 * 0.2)
    second = 1.1 / (1.1 + 0.3 * 0.2 + 0.7 * 0.9)
    assert tversky(logits, target, smooth=0).item() == pytest.approx(1 - (first + second) / 2)


def test_half_and_half_is_dice_and_one_and_one_is_iou() -> None:
    logits, target = example()
    for options in ({}, {"batch": False}, {"classes": "all"}, {"include_background": False}):
        half = tversky(logits, target, fp_weight=0.5, fn_weight=0.5, smooth=0, **options)
        torch.testing.assert_close(half, soft_dice(logits, target, smooth=0, **options))
        whole = tversky(logits, target, fp_weight=1, fn_weight=1, smooth=0.1, **options)
        torch.testing.assert_close(whole, soft_iou(logits, target, smooth=0.1, **options))


def test_a_missed_pixel_is_dearer_than_a_false_one() -> None:
    missed, false = pixels([0.5, 0.5], [0.999, 0.001]), pixels([0.001, 0.999], [0.5, 0.5])
    target = torch.tensor([[[1, 0]]])
    dear = [tversky(logits, target, include_background=False).item() for logits in (missed, false)]
    assert dear[0] > dear[1]
    swapped = {"fp_weight": 0.7, "fn_weight": 0.3, "include_background": False}
    cheap = [tversky(logits, target, **swapped).item() for logits in (missed, false)]
    assert cheap[0] < cheap[1]


def test_errors() -> None:
    with pytest.raises(InputError, match=r"fp_weight is -0\.1: give 0 or more"):
        Tversky(fp_weight=-0.1)
    with pytest.raises(InputError, match="classes is 'some'"):
        Tversky(classes="some")
