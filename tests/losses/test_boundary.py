from __future__ import annotations

import pytest
import torch

from perpixel.errors import InputError
from perpixel.losses import Boundary, boundary_loss


def test_by_hand() -> None:
    probs = torch.tensor([[0.9, 0.6, 0.3, 0.2], [0.1, 0.4, 0.7, 0.8]])
    target = torch.tensor([[[0, 1, 1, 1]]])
    # Class 1: distances 0.5 outside; -0.5, -1.5, -2.5 inside. Class 0 has the opposite ones.
    first = (0.1 * 0.5 + 0.6 * 0.5 + 0.3 * 1.5 + 0.2 * 2.5) / 4
    assert boundary_loss(probs.log()[None, :, None], target).item() == pytest.approx(first)
    one = (probs[1] / probs[0]).log().view(1, 1, 1, 4)
    assert boundary_loss(one, target).item() == pytest.approx(first)


def test_a_perfect_answer_costs_nothing() -> None:
    target = torch.randint(0, 3, (2, 6, 7), generator=torch.Generator().manual_seed(0))
    assert boundary_loss(99 * torch.eye(3)[target].movedim(-1, 1), target).item() == pytest.approx(0, abs=1e-6)


def test_what_is_wrong_far_away_costs_more() -> None:
    target = torch.zeros(1, 1, 30).long()
    target[..., 10:14] = 1
    costs = []
    for place in (15, 20, 28):
        pred = target.clone()
        pred[..., place] = 1
        costs.append(boundary_loss(99 * torch.eye(2)[pred].movedim(-1, 1), target).item())
    # 1.5, 6.5 and 14.5 px from the edge, one pixel of 30.
    assert costs == pytest.approx([1.5 / 30, 6.5 / 30, 14.5 / 30])


def test_a_class_that_fills_the_sample_or_is_absent_has_no_edge() -> None:
    logits = torch.randn(1, 2, 4, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    for classes in ("present", "all"):
        loss = boundary_loss(logits, torch.zeros(1, 4, 4).long(), classes=classes)
        loss.backward()
        assert loss.item() == 0
    assert logits.grad is not None and (logits.grad == 0).all()


def test_errors() -> None:
    with pytest.raises(InputError, match="classes is 'some'"):
        Boundary(classes="some")
