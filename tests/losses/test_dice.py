from __future__ import annotations

import pytest
import torch

from perpixel.errors import InputError
from perpixel.losses import Dice, soft_dice


def pixels(*rows: list[float]) -> torch.Tensor:
    """Logits (1, K, 1, N) whose softmax at pixel n is rows[n]."""
    return torch.tensor(rows).log().T[None, :, None]


def test_by_hand() -> None:
    logits = pixels([0.8, 0.2], [0.4, 0.6], [0.5, 0.5])
    target = torch.tensor([[[0, 1, 1]]])
    first = 2 * 0.8 / (1.7 + 1)
    second = 2 * (0.6 + 0.5) / (1.3 + 2)
    assert soft_dice(logits, target, smooth=0).item() == pytest.approx(1 - (first + second) / 2)


def test_the_squared_form_by_hand() -> None:
    logits = pixels([0.8, 0.2], [0.4, 0.6])
    target = torch.tensor([[[0, 1]]])
    first = 2 * 0.8 / (0.64 + 0.16 + 1)
    second = 2 * 0.6 / (0.04 + 0.36 + 1)
    assert soft_dice(logits, target, smooth=0, squared=True).item() == pytest.approx(1 - (first + second) / 2)


def test_smooth_stands_above_and_below() -> None:
    logits = pixels([0.8, 0.2])
    target = torch.tensor([[[0]]])
    first = (2 * 0.8 + 1) / (0.8 + 1 + 1)
    absent = 1 / (0.2 + 1)
    assert soft_dice(logits, target, smooth=1).item() == pytest.approx(1 - first)
    both = soft_dice(logits, target, smooth=1, classes="all")
    assert both.item() == pytest.approx(1 - (first + absent) / 2)


def test_a_class_empty_in_both_costs_nothing_with_smooth_and_one_without() -> None:
    logits = torch.tensor([200.0, 0.0, 0.0]).view(1, 3, 1, 1)
    target = torch.zeros(1, 1, 1).long()
    assert soft_dice(logits, target, classes="all").item() == pytest.approx(0, abs=1e-6)
    assert soft_dice(logits, target, classes="all", smooth=0).item() == pytest.approx(2 / 3)
    assert soft_dice(logits, target, classes="present", smooth=0).item() == pytest.approx(0, abs=1e-6)


def test_one_channel_is_class_one_of_two() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 1, 4, 3, generator=generator)
    target = torch.randint(0, 2, (2, 4, 3), generator=generator)
    two = torch.cat([torch.zeros_like(logits), logits], dim=1)
    for options in ({}, {"batch": False}, {"squared": True}):
        torch.testing.assert_close(
            soft_dice(logits, target, **options), soft_dice(two, target, include_background=False, **options)
        )


def test_a_ratio_of_the_batch_is_that_of_one_long_image() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 4, 3, generator=generator)
    target = torch.randint(0, 3, (2, 4, 3), generator=generator)
    long = torch.cat(list(logits), dim=1)[None]
    torch.testing.assert_close(soft_dice(logits, target), soft_dice(long, torch.cat(list(target))[None]))
    each = [soft_dice(logits[i : i + 1], target[i : i + 1]) for i in range(2)]
    torch.testing.assert_close(soft_dice(logits, target, batch=False), (each[0] + each[1]) / 2)


def test_a_sample_that_is_all_ignored_leaves_the_mean() -> None:
    logits = torch.randn(2, 3, 4, 3, generator=torch.Generator().manual_seed(0))
    target = torch.zeros(2, 4, 3).long()
    target[1] = 255
    for classes in ("present", "all"):
        both = soft_dice(logits, target, ignore_index=255, batch=False, classes=classes)
        torch.testing.assert_close(both, soft_dice(logits[:1], target[:1], classes=classes))


def test_errors() -> None:
    with pytest.raises(InputError, match="classes is 'some': give 'present' or 'all'"):
        Dice(classes="some")
    with pytest.raises(InputError, match="smooth is -1: give 0 or more"):
        Dice(smooth=-1)
    with pytest.raises(InputError, match="classes is 'none'"):
        soft_dice(torch.zeros(1, 2, 2, 2), torch.zeros(1, 2, 2).long(), classes="none")
