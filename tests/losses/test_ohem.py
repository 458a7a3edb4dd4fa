from __future__ import annotations

import math

import pytest
import torch

from perpixel.errors import InputError
from perpixel.losses import OHEM, cross_entropy, ohem_cross_entropy
from perpixel.losses.ohem import smallest_kept

PROBS = [0.9, 0.8, 0.6, 0.3, 0.1]


def pixels(*own: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (1, 2, 1, N) whose softmax gives the pixels' own class, 0, the probabilities `own`; and their target."""
    probs = torch.tensor(own)
    return torch.stack([probs, 1 - probs]).log()[None, :, None], torch.zeros(1, 1, len(own)).long()


def mean(*probs: float) -> float:
    return -sum(math.log(prob) for prob in probs) / len(probs)


def test_by_hand() -> None:
    logits, target = pixels(*PROBS)
    for settings, expected in (
        ({"threshold": 0.7, "min_kept": 1}, mean(0.6, 0.3, 0.1)),
        ({"threshold": 0.05, "min_kept": 2}, mean(0.3, 0.1)),
        ({"threshold": 0.05, "min_kept": 0.5}, mean(0.6, 0.3, 0.1)),
        ({"threshold": 0.7, "min_kept": 4}, mean(0.8, 0.6, 0.3, 0.1)),
        ({}, mean(*PROBS)),
    ):
        assert ohem_cross_entropy(logits, target, **settings).item() == pytest.approx(expected), settings


def test_the_share_is_of_valid_pixels() -> None:
    logits, target = pixels(*PROBS, 0.01, 0.01)
    target[..., 5:] = 255
    loss = ohem_cross_entropy(logits, target, threshold=0.05, min_kept=0.4, ignore_index=255)
    assert loss.item() == pytest.approx(mean(0.3, 0.1))


def test_class_weights_weigh_the_mean_and_choose_nothing() -> None:
    logits, target = pixels(0.9, 0.6, 0.3)
    target[..., 2] = 1  # its own probability is 0.7
    loss = ohem_cross_entropy(logits, target, threshold=0.75, min_kept=1, class_weights=torch.tensor([1.0, 9.0]))
    assert loss.item() == pytest.approx(-(math.log(0.6) + 9 * math.log(0.7)) / 10)


def test_ties_are_kept_together() -> None:
    logits, target = pixels(0.3, 0.3, 0.3, 0.9)
    assert ohem_cross_entropy(logits, target, threshold=0.05, min_kept=1).item() == pytest.approx(mean(0.3))


def test_a_threshold_of_one_is_the_cross_entropy() -> None:
    logits, target = pixels(*PROBS)
    torch.testing.assert_close(
        ohem_cross_entropy(logits, target, threshold=1, min_kept=1), cross_entropy(logits, target)
    )


def test_smallest_kept() -> None:
    costs, valid = torch.tensor([3.0, 9.0, 1.0, 5.0]), torch.tensor([True, False, True, True])
    assert [smallest_kept(costs, valid, kept).item() for kept in (1, 2, 3, 50, 0.3, 0.34)] == [5, 3, 1, 1, 5, 3]
    assert smallest_kept(costs, torch.zeros(4, dtype=torch.bool), 2).item() == 0


def test_errors() -> None:
    with pytest.raises(InputError, match="threshold is 0: give a probability above 0"):
        OHEM(threshold=0)
    with pytest.raises(InputError, match="min_kept is 0: give a number of pixels, or a share below 1"):
        OHEM(min_kept=0)
