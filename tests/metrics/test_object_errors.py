"""Errors of objects, worked out by hand on rows of pixels."""

from __future__ import annotations

import numpy as np
import pytest

from perpixel.errors import InputError
from perpixel.labels import Instances, Runs
from perpixel.metrics import object_errors
from perpixel.metrics.object_errors import ALONE, HIT, LEFT_OUT, MERGED, SPLIT


def objects(*bounds: tuple[int, int], length: int = 20, **more: object) -> Instances:
    """One object a pair, from a pixel to before another, in an image of one row."""
    masks = np.zeros((len(bounds), 1, length), bool)
    for mask, (first, end) in zip(masks, bounds):
        mask[0, first:end] = True
    return Instances.of(Runs.from_masks(masks, (1, length)), **more)


CASES = {
    "exact": ([(0, 5), (8, 12)], [(0, 5), (8, 12)], [HIT, HIT], [HIT, HIT]),
    "nothing": ([], [], [], []),
    "missed": ([(0, 5)], [(0, 5), (8, 12)], [HIT], [HIT, ALONE]),
    "false": ([(0, 5), (15, 18)], [(0, 5)], [HIT, ALONE], [HIT]),
    "merged, neither matched": ([(0, 10)], [(0, 4), (6, 10)], [MERGED], [MERGED, MERGED]),
    "merged, one matched": ([(0, 10)], [(0, 7), (8, 10)], [MERGED], [HIT, MERGED]),
    "split, neither matched": ([(0, 4), (6, 10)], [(0, 10)], [SPLIT, SPLIT], [SPLIT]),
    "split, one matched": ([(0, 7), (8, 10)], [(0, 10)], [HIT, SPLIT], [SPLIT]),
    "too large, holds one": ([(0, 10)], [(3, 7)], [ALONE], [ALONE]),
    "too small, alone": ([(3, 7)], [(0, 10)], [ALONE], [ALONE]),
    "touches both": ([(3, 8)], [(0, 5), (6, 11)], [ALONE], [ALONE, ALONE]),
}


@pytest.mark.parametrize("name", CASES)
def test_by_hand(name: str) -> None:
    pred, target, pred_states, target_states = CASES[name]
    found = object_errors(objects(*pred), objects(*target))
    assert found.pred.tolist() == pred_states and found.target.tolist() == target_states


def test_classes_and_crowds() -> None:
    target = objects((0, 4), (8, 16), classes=[1, 1], is_crowd=[False, True])
    pred = objects((0, 4), (0, 4), (9, 12), (14, 19), classes=[1, 2, 1, 1])
    found = object_errors(pred, target)
    assert found.pred.tolist() == [HIT, ALONE, LEFT_OUT, ALONE] and found.target.tolist() == [HIT, LEFT_OUT]
    assert found.counts() == {
        "true": 1, "predicted": 3, "matched": 1, "missed": 0, "false": 2, "merged": 0, "split": 0,
    }  # fmt: skip
    assert found.ratios.tolist() == [1] and found.pairs.tolist() == [[0, 0]]


def test_sizes_differ() -> None:
    with pytest.raises(InputError, match=r"\(1, 20\) and target \(1, 21\) differ"):
        object_errors(objects((0, 4)), objects((0, 4), length=21))
