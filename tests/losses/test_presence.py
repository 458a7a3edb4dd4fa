from __future__ import annotations

import math

import pytest
import torch

from perpixel.losses import presence_loss


def softplus(value: float) -> float:
    return math.log1p(math.exp(value))


def test_by_hand() -> None:
    logits = torch.tensor([[2.0, -1.0, 0.5], [0.0, 3.0, -2.0]])
    target = torch.tensor([[[0, 2], [2, 2]], [[1, 1], [255, 255]]])
    first = (softplus(-2.0) + softplus(-1.0) + softplus(-0.5)) / 3  # classes 0 and 2 occur, 1 does not
    second = (softplus(0.0) + softplus(-3.0) + softplus(-2.0)) / 3  # class 1 alone
    assert presence_loss(logits, target, ignore_index=255).item() == pytest.approx((first + second) / 2)


def test_one_logit_is_class_one() -> None:
    logits = torch.tensor([[1.0], [1.0]])
    target = torch.tensor([[[0, 1]], [[0, 0]]])
    assert presence_loss(logits, target).item() == pytest.approx((softplus(-1.0) + softplus(1.0)) / 2)


def test_a_sample_without_a_valid_pixel_is_left_out() -> None:
    logits = torch.tensor([[1.0, 2.0], [-3.0, 4.0]], requires_grad=True)
    target = torch.tensor([[[0]], [[255]]])
    alone = presence_loss(logits[:1], target[:1])
    torch.testing.assert_close(presence_loss(logits, target, ignore_index=255), alone)
    nothing = presence_loss(logits, torch.full_like(target, 255), ignore_index=255)
    nothing.backward()
    assert nothing.item() == 0
    assert logits.grad is not None and (logits.grad == 0).all()


def test_half_precision_is_left() -> None:
    logits = torch.tensor([[1.5, -2.0]], dtype=torch.bfloat16)
    target = torch.zeros(1, 2, 2).long()
    assert presence_loss(logits, target).dtype == torch.float32
    torch.testing.assert_close(presence_loss(logits, target), presence_loss(logits.float(), target))
