"""What evaluation measures: the same to the last bit however images are shared out between processes."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest

from perpixel.engine.measures import Measures
from perpixel.errors import InputError
from perpixel.labels import ClassTable
from perpixel.metrics import compute_scores, confusion_matrix

CLASSES = ClassTable.from_json({"classes": ["ground", "pole", "cell"], "ignore_values": [255]})
SETTINGS: dict[str, Any] = {"thin": ["pole"], "objects": "cell"}


def images(count: int) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """(pred, target, confidence) of images of 24 x 30, a tenth of it not labelled."""
    rng = np.random.default_rng(0)
    made = []
    for _ in range(count):
        pred, target = np.kron(rng.integers(0, 3, (2, 6, 10)), np.ones((4, 3), int)).astype(np.uint8)
        target[rng.random(target.shape) < 0.1] = CLASSES.ignore_index
        made.append((pred, target, rng.random(target.shape).astype(np.float32)))
    return made


def scores_of(measures: Measures, matrix: np.ndarray) -> dict[str, Any]:
    result: dict[str, Any] = {**compute_scores(matrix).to_json(CLASSES.names), "intervals": {}}
    measures.add_to(result, seed=0)
    return result


def measured(some: list[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> tuple[Measures, np.ndarray]:
    measures, matrix = Measures(CLASSES, **SETTINGS), np.zeros((3, 3), np.int64)
    for pred, target, confidence in some:
        measures.add(pred, target, confidence)
        matrix += confusion_matrix(pred, target, num_classes=3, ignore_index=CLASSES.ignore_index)
    return measures, matrix


def test_any_sharing_out_gives_the_same_scores() -> None:
    made = images(9)
    whole = scores_of(*measured(made))
    assert whole["scores"]["bf_score"] and whole["objects"]["v_rand"] and whole["thin"][0]["cldice"]
    rng = np.random.default_rng(1)
    for seed in range(6):
        order = np.arange(9) if seed % 2 else rng.permutation(9)
        shares = np.array_split(order, np.sort(rng.integers(0, 9, seed)))
        total, counts = measured([])
        for share in shares:
            part, matrix = measured([made[i] for i in share])
            total.take(pickle.loads(pickle.dumps(part)))  # as from another process
            counts += matrix
        found = scores_of(total, counts)
        if seed % 2:
            assert found == whole
        else:
            found["intervals"] = copy.copy(whole["intervals"])
            assert found == whole


def test_what_was_measured_differently_is_not_added_up() -> None:
    with pytest.raises(InputError, match="measures differ"):
        Measures(CLASSES).take(Measures(CLASSES, tolerance=3))


def test_image_rows() -> None:
    measures, _ = measured(images(2))
    assert set(measures.columns(1)) == {"bf_score", "hd95"}
    assert Measures(CLASSES, boundary=False).columns(0) == {}
