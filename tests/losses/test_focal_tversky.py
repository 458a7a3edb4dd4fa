from __future__ import annotations

import pytest
import torch

from perpixel.errors import InputError
from perpixel.losses import FocalTversky, focal_tversky, tversky


def test_by_hand() -> None:
    # class 0: TP 0.8, FP 0.4, FN 0.2; class 1: TP 0.6, FP 0.2, FN 0.4
    logits = torch.tensor([[0.8, 0.4], [0.2, 0.6]]).log()[None, :, None]
    first, second = 0.8 / (0.8 + 0.3 * 0.4 + 0.7 * 0.2), 0.6 / (0.6 + 0.3 * 0.2 + 0.7 * 0.4)
    expected = ((1 - first) ** 0.75 + (1 - second) ** 0.75) / 2
    assert focal_tversky(logits, torch.tensor([[[0, 1]]]), smooth=0).item() == pytest.approx(expected)


def test_gamma_one_changes_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 4, 3, generator=generator)
    target = torch.randint(0, 3, (2, 4, 3), generator=generator)
    torch.testing.assert_close(focal_tversky(logits, target, gamma=1), tversky(logits, target))


def test_a_perfect_answer_costs_nothing_and_has_a_bounded_slope() -> None:
    target = torch.tensor([[[0, 1]]])
    logits = (60 * torch.eye(2)[target].movedim(-1, 1)).requires_grad_()
    loss = focal_tversky(logits, target)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-7)
    assert logits.grad is not None and logits.grad.abs().max() < 1


def test_the_straight_part_joins_the_curve() -> None:
    probability = torch.linspace(1 - 4e-6, 1, 9, dtype=torch.float64)[:-1]
    costs = [
        focal_tversky(torch.stack([p.log(), (1 - p).log()]).view(1, 2, 1, 1), torch.zeros(1, 1, 1).long(), smooth=0)
        for p in probability
    ]
    steps = -torch.stack(costs).diff()
    assert (steps > 0).all() and steps.max() < 2 * steps.min()


def test_errors() -> None:
    with pytest.raises(InputError, match="smooth is -1: give 0 or more"):
        FocalTversky(smooth=-1)
    with pytest.raises(InputError, match="gamma is 0: give a positive number"):
        FocalTversky(gamma=0)
