"""Label maps as pictures."""

from __future__ import annotations

import numpy as np

from perpixel.labels import ClassInfo, ClassTable, colourise, error_map, overlay
from perpixel.labels.classes import VOID_COLOUR
from perpixel.labels.pictures import CORRECT, WRONG

TABLE = ClassTable((ClassInfo("background", (1, 1, 1), (0,)), ClassInfo("cell", (200, 100, 0), (1,))))
IMAGE = np.full((5, 5, 3), 100, np.uint8)
LABELS = np.zeros((5, 5), np.uint8)
LABELS[1:4, 1:4] = 1
LABELS[4, 4] = 255


def test_colourise() -> None:
    picture = colourise(LABELS, TABLE)
    assert picture.dtype == np.uint8 and picture.shape == (5, 5, 3)
    assert [picture[i, i].tolist() for i in (0, 2, 4)] == [[1, 1, 1], [200, 100, 0], list(VOID_COLOUR)]


def test_colourise_many_classes() -> None:
    many = ClassTable(tuple(ClassInfo(str(i), (i % 256, i // 256, 7), (i,)) for i in range(300)))
    assert colourise(np.array([[299, 65535]], np.uint16), many).tolist() == [[[43, 1, 7], list(VOID_COLOUR)]]


def test_overlay_mixes_inside_and_draws_the_outline() -> None:
    picture = overlay(IMAGE, LABELS, TABLE, alpha=0.5)
    assert picture.dtype == np.uint8
    assert picture[2, 2].tolist() == [150, 100, 50]
    assert picture[1, 1].tolist() == [200, 100, 0]
    # Background and ignored pixels stay as they are.
    assert (picture[0] == 100).all() and picture[4, 4].tolist() == [100, 100, 100]


def test_overlay_without_outline_leaves_its_input() -> None:
    before = IMAGE.copy()
    picture = overlay(IMAGE, LABELS, TABLE, alpha=1.0, outline=False)
    assert picture[1, 1].tolist() == picture[2, 2].tolist() == [200, 100, 0]
    assert np.array_equal(IMAGE, before)


def test_error_map() -> None:
    pred, target = np.array([[0, 1, 1]]), np.array([[0, 0, 255]])
    assert error_map(pred, target, 255).tolist() == [[list(CORRECT), list(WRONG), list(VOID_COLOUR)]]
    assert error_map(pred, target)[0, 2].tolist() == list(WRONG)
