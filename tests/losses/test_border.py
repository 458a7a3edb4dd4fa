from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from perpixel.errors import InputError
from perpixel.labels import gap_weights
from perpixel.losses import BorderCrossEntropy, border_cross_entropy, border_weights, cross_entropy


def example(shape: tuple[int, ...] = (2, 9, 8)) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(shape[0], 3, *shape[1:], generator=generator)
    return logits, torch.randint(0, 3, shape, generator=generator)


def test_by_hand() -> None:
    # Two pixels of class 1 with one of class 0 between them: d1 = d2 = 1.
    probs = torch.tensor([[0.5, 0.2, 0.4], [0.5, 0.8, 0.6]])
    target = torch.tensor([[[1, 0, 1]]])
    extra = 10 * math.exp(-4 / 50)
    expected = -(math.log(0.5) + (1 + extra) * math.log(0.2) + math.log(0.6)) / (3 + extra)
    assert border_cross_entropy(probs.log()[None, :, None], target).item() == pytest.approx(expected)
    weights = torch.tensor([2.0, 3.0])
    expected = -(3 * math.log(0.5) + (2 + extra) * math.log(0.2) + 3 * math.log(0.6)) / (8 + extra)
    loss = border_cross_entropy(probs.log()[None, :, None], target, class_weights=weights)
    assert loss.item() == pytest.approx(expected)


def test_without_extra_weight_it_is_the_cross_entropy() -> None:
    logits, target = example()
    target[0, 2] = 255
    weights = torch.tensor([1.0, 2.0, 0.5])
    for settings in ({}, {"class_weights": weights}):
        plain = cross_entropy(logits, target, ignore_index=255, **settings)
        torch.testing.assert_close(border_cross_entropy(logits, target, w0=0, ignore_index=255, **settings), plain)


def test_weights_of_known_instances_are_taken() -> None:
    """Two touching objects of one class are one connected part, but not where their numbers are known."""
    logits, target = torch.zeros(1, 2, 3, 5), torch.zeros(1, 3, 5).long()
    target[0, 1, :] = 1
    instances = np.zeros((3, 5), np.int32)
    instances[1] = [1, 1, 2, 2, 2]
    border_map = torch.from_numpy(gap_weights(instances))[None]
    assert not border_weights(target).any() and border_map.max() > 5
    logits[:, 1] = -torch.arange(5.0)
    known = border_cross_entropy(logits, target, border_map=border_map)
    assert known.item() != pytest.approx(border_cross_entropy(logits, target).item(), rel=1e-3)


def test_ignored_pixels_are_no_objects() -> None:
    target = torch.tensor([[[1, 0, 255, 0, 1]]])
    weights = border_weights(target, ignore_index=255)[0, 0]
    torch.testing.assert_close(weights[1], torch.tensor(10 * math.exp(-16 / 50)))


def test_edges_weigh_more_than_their_surroundings_in_every_class() -> None:
    target = torch.zeros(1, 1, 20).long()
    target[..., 10:] = 2
    weights = border_weights(target, around="edges", sigma=2)[0, 0]
    assert weights.argmax().item() in (9, 10) and weights[9] == weights[10]
    assert (weights[10:].diff() < 0).all()


def test_volumes() -> None:
    target = torch.zeros(1, 5, 5, 5).long()
    target[0, 0], target[0, 4] = 1, 1
    weights = border_weights(target)[0]
    torch.testing.assert_close(weights[2], torch.full((5, 5), 10 * math.exp(-16 / 50)))


def test_errors() -> None:
    logits, target = example()
    with pytest.raises(InputError, match=r"border_map \(2, 9, 7\) does not fit the target \(2, 9, 8\)"):
        border_cross_entropy(logits, target, border_map=torch.zeros(2, 9, 7))
    with pytest.raises(InputError, match="around is 'cells': give 'objects' or 'edges'"):
        BorderCrossEntropy(around="cells")
    with pytest.raises(InputError, match="width 0 of the borders"):
        BorderCrossEntropy(sigma=0)
