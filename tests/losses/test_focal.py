from __future__ import annotations

import math

import pytest
import torch

from perpixel.errors import InputError
from perpixel.losses import Focal, binary_cross_entropy, binary_focal, cross_entropy, focal


def example(channels: int, classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, channels, 3, 4, generator=generator)
    return logits, torch.randint(0, classes, (2, 3, 4), generator=generator)


def test_binary_by_hand() -> None:
    # p = 3/4 with y = 1, and p = 3/4 with y = 0
    logits = torch.full((1, 1, 1, 2), math.log(3.0))
    target = torch.tensor([[[1, 0]]])
    expected = -(0.25 * 0.25**2 * math.log(0.75) + 0.75 * 0.75**2 * math.log(0.25)) / 2
    assert binary_focal(logits, target).item() == pytest.approx(expected)


def test_multi_class_by_hand() -> None:
    logits = torch.tensor([0.5, 0.3, 0.2]).log().view(1, 3, 1, 1)
    target = torch.tensor([[[1]]])
    assert focal(logits, target, gamma=3).item() == pytest.approx(-(0.7**3) * math.log(0.3))
    weighted = focal(logits, target, gamma=3, alpha=torch.tensor([1.0, 2.0, 5.0]))
    assert weighted.item() == pytest.approx(-2 * 0.7**3 * math.log(0.3))


def test_without_gamma_and_with_alpha_a_half_it_is_half_the_binary_cross_entropy() -> None:
    logits, target = example(1, 2)
    half = binary_focal(logits, target, gamma=0, alpha=0.5)
    torch.testing.assert_close(half, binary_cross_entropy(logits, target) / 2)


def test_without_gamma_it_is_the_cross_entropy() -> None:
    logits, target = example(5, 5)
    torch.testing.assert_close(focal(logits, target, gamma=0), cross_entropy(logits, target))


def test_one_channel_equals_two_with_a_zero() -> None:
    logits, target = example(1, 2)
    two = torch.cat([torch.zeros_like(logits), logits], dim=1)
    for loss in (Focal(alpha=0.3), Focal(class_weights=torch.tensor([0.5, 4.0]))):
        torch.testing.assert_close(loss(logits, target), loss(two, target))


def test_dividing_by_the_positives() -> None:
    logits, target = example(1, 2)
    share = (target == 1).float().mean()
    torch.testing.assert_close(
        binary_focal(logits, target, divide_by="positives"), binary_focal(logits, target) / share
    )


def test_defaults_of_the_module() -> None:
    logits, target = example(1, 2)
    torch.testing.assert_close(Focal()(logits, target), binary_focal(logits, target, gamma=2, alpha=0.25))
    logits, target = example(3, 3)
    torch.testing.assert_close(Focal()(logits, target), focal(logits, target, gamma=2))
    weights = torch.tensor([1.0, 2.0, 3.0])
    torch.testing.assert_close(Focal(alpha=(1, 2, 3))(logits, target), focal(logits, target, alpha=weights))


def test_a_slope_of_a_sure_pixel_is_finite_below_gamma_one() -> None:
    logits = torch.tensor([60.0, 0.0]).view(1, 2, 1, 1).requires_grad_()
    focal(logits, torch.zeros(1, 1, 1).long(), gamma=0.5).backward()
    assert logits.grad is not None and logits.grad.isfinite().all()


def test_errors() -> None:
    with pytest.raises(InputError, match="gamma is -1: give 0 or more"):
        Focal(gamma=-1)
    with pytest.raises(InputError, match="alpha is 3: give a share between 0 and 1"):
        Focal(alpha=3)
    with pytest.raises(InputError, match="divide_by is 'all': give 'valid' or 'positives'"):
        Focal(divide_by="all")
    with pytest.raises(InputError, match=r"class_weights has shape \(2,\) for logits of 3 channels"):
        Focal(alpha=0.25)(torch.zeros(1, 3, 2, 2), torch.zeros(1, 2, 2).long())
    with pytest.raises(InputError, match="the binary loss takes one channel"):
        binary_focal(torch.zeros(1, 3, 2, 2), torch.zeros(1, 2, 2).long())
