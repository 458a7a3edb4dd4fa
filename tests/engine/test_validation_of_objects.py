"""Scores of a validation: perfect, half and empty."""

from __future__ import annotations

import numpy as np
import pytest

from perpixel.engine.object_scores import score_objects
from perpixel.labels import Instances


def squares(*places: int, scores: list[float] | None = None) -> Instances:
    instance_map = np.zeros((12, 60), np.uint16)
    for number, place in enumerate(places, 1):
        instance_map[2:10, place : place + 8] = number
    given = None if scores is None else dict(enumerate(scores, 1))
    return Instances.from_label_map(instance_map, scores=given)


def test_truth_scores_one() -> None:
    pairs = [(squares(1, 20, scores=[0.9, 0.8]), squares(1, 20)), (squares(30, scores=[0.7]), squares(30))]
    scores = score_objects(pairs, num_classes=2)
    assert all(value == pytest.approx(1) for value in scores.values())


def test_one_found_one_missed_one_false() -> None:
    scores = score_objects([(squares(1, 40, scores=[0.9, 0.8]), squares(1, 20))], num_classes=2)
    assert scores["matching_ap50"] == pytest.approx(1 / 3)
    assert scores["f1_50"] == scores["precision_50"] == scores["recall_50"] == scores["pq"] == pytest.approx(0.5)
    # 51 of the 101 recalls are reached.
    assert scores["mask_ap"] == pytest.approx(51 / 101)


def test_nothing_at_all() -> None:
    nothing = squares(scores=[])
    assert set(score_objects([(nothing, squares())], num_classes=2).values()) == {None}
