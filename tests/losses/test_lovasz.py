from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from perpixel.errors import InputError
from perpixel.losses import jaccard_weights, lovasz_hinge, lovasz_softmax


def straightforward_weights(errors: Tensor, truth: Tensor) -> Tensor:
    """Jaccard loss of the first k pixels wrong, k = 1..N, and its differences, in the order of the pixels."""
    order = torch.sort(errors, descending=True, stable=True).indices
    hits = truth[order].double()
    total = hits.sum()
    losses = 1 - (total - hits.cumsum(0)) / (total + (1 - hits).cumsum(0))
    losses[1:] = losses.diff()
    return torch.zeros_like(losses).scatter_(0, order, losses)


def example(channels: int, classes: int, shape: tuple[int, ...] = (2, 6, 5)) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(shape[0], channels, *shape[1:], generator=generator)
    return logits, torch.randint(0, classes, shape, generator=generator)


def test_weights_by_hand() -> None:
    # Worst first: a false one, a missed one, a false one; two pixels of the class. Loss 1/3, 2/3, 3/4, at last 1.
    errors, truth = torch.tensor([0.7, 0.9, 0.5, 0.1]), torch.tensor([True, False, False, True])
    torch.testing.assert_close(jaccard_weights(errors, truth), torch.tensor([1 / 3, 1 / 3, 1 / 12, 1 / 4]))


def test_softmax_by_hand() -> None:
    logits = torch.tensor([[0.3, 0.9, 0.5], [0.7, 0.1, 0.5]]).log()[None, :, None]
    target = torch.tensor([[[0, 0, 1]]])
    # Class 0: errors 0.7 (missed), 0.5 (false), 0.1 (missed): losses 1/2, 2/3, 1.
    first = 0.7 / 2 + 0.5 * (2 / 3 - 1 / 2) + 0.1 / 3
    # Class 1: errors 0.7 (false), 0.5 (missed), 0.1 (false): losses 1/2, 1, 1.
    second = 0.7 / 2 + 0.5 / 2
    assert lovasz_softmax(logits, target).item() == pytest.approx((first + second) / 2)


def test_hinge_by_hand() -> None:
    logits = torch.tensor([2.0, -1.0, 0.5]).view(1, 1, 1, 3)
    target = torch.tensor([[[1, 1, 0]]])
    # Errors -1 (cut to 0), 2 (missed), 1.5 (false): losses 1/2, 2/3.
    assert lovasz_hinge(logits, target).item() == pytest.approx(2 / 2 + 1.5 / 6)
    two = torch.cat([-logits / 2, logits / 2], dim=1)
    torch.testing.assert_close(lovasz_hinge(two, target), lovasz_hinge(logits, target))


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 1.0])
def test_weights_are_the_steps_of_the_jaccard_loss(share: float) -> None:
    generator = torch.Generator().manual_seed(1)
    errors = torch.rand(5000, generator=generator)
    truth = torch.rand(5000, generator=generator) < share
    weights = jaccard_weights(errors, truth)
    torch.testing.assert_close(weights.double(), straightforward_weights(errors, truth), rtol=1e-5, atol=1e-9)
    assert weights.sum().item() == pytest.approx(1, abs=1e-4)


def test_hard_answers_cost_one_minus_their_iou() -> None:
    """On the corners of the cube the extension is the Jaccard loss itself."""
    generator = torch.Generator().manual_seed(0)
    pred, target = (torch.randint(0, 3, (2, 7, 6), generator=generator) for _ in range(2))
    logits = 200 * F.one_hot(pred, 3).movedim(-1, 1).float()
    ious = [((pred == k) & (target == k)).sum() / ((pred == k) | (target == k)).sum() for k in range(3)]
    assert lovasz_softmax(logits, target).item() == pytest.approx(1 - sum(float(iou) for iou in ious) / 3)


def test_one_channel_is_class_one_of_two() -> None:
    logits, target = example(1, 2)
    two = torch.cat([torch.zeros_like(logits), logits], dim=1)
    torch.testing.assert_close(lovasz_softmax(logits, target), lovasz_softmax(two, target, include_background=False))


def test_the_order_of_the_pixels_does_not_matter() -> None:
    logits, target = example(3, 3)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(2))
    mixed, mixed_target = logits.flatten(2)[:, :, order], target.flatten(1)[:, order]
    torch.testing.assert_close(
        lovasz_softmax(mixed[..., None], mixed_target[..., None]), lovasz_softmax(logits, target)
    )


def test_an_order_of_the_batch_is_that_of_one_long_image() -> None:
    logits, target = example(3, 3)
    long, long_target = torch.cat(list(logits), dim=1)[None], torch.cat(list(target))[None]
    torch.testing.assert_close(lovasz_softmax(logits, target), lovasz_softmax(long, long_target))
    each = [lovasz_softmax(logits[i : i + 1], target[i : i + 1]) for i in range(2)]
    torch.testing.assert_close(lovasz_softmax(logits, target, batch=False), (each[0] + each[1]) / 2)
    logits, target = example(1, 2)
    long, long_target = torch.cat(list(logits), dim=1)[None], torch.cat(list(target))[None]
    torch.testing.assert_close(lovasz_hinge(logits, target, batch=True), lovasz_hinge(long, long_target))
    each = [lovasz_hinge(logits[i : i + 1], target[i : i + 1]) for i in range(2)]
    torch.testing.assert_close(lovasz_hinge(logits, target), (each[0] + each[1]) / 2)


def test_an_absent_class_costs_its_highest_probability_where_all_count() -> None:
    logits, target = example(3, 2)
    probs = logits.softmax(1)
    present = lovasz_softmax(logits, target)
    expected = (2 * present + probs[:, 2].max()) / 3
    torch.testing.assert_close(lovasz_softmax(logits, target, classes="all"), expected)
    one = torch.tensor([-3.0, 0.5, -0.2]).view(1, 1, 1, 3)
    assert lovasz_hinge(one, torch.zeros(1, 1, 3).long()).item() == pytest.approx(1.5)


@torch.no_grad()
def test_steps_keep_their_digits_in_large_images() -> None:
    generator = torch.Generator().manual_seed(0)
    errors = torch.rand(400_000, generator=generator)
    truth = torch.rand(400_000, generator=generator) < 0.5
    exact = straightforward_weights(errors, truth)
    assert (jaccard_weights(errors, truth).double() / exact.clamp_min(1e-30) - 1)[truth].abs().max() < 1e-5


def test_more_classes_than_two_are_refused_by_the_hinge() -> None:
    with pytest.raises(InputError, match=r"logits \(1, 3, 2, 2\): the binary losses take two classes"):
        lovasz_hinge(torch.zeros(1, 3, 2, 2), torch.zeros(1, 2, 2).long())
