"""Runs of pixels down the columns, and COCO's text of them."""

from __future__ import annotations

import numpy as np
import pytest

from perpixel.errors import InputError
from perpixel.labels import Runs, counts_of_text, merge_spans, rle, spans_of_counts, spans_of_mask, text_of_counts

# Two columns on in an image of 6 x 8: 36 off, 12 on; worked by hand: 36 = 4 + 1 * 32 -> 'T1', 12 -> '<'.
BY_HAND = ("T1<", [36, 12])


def random_masks(seed: int, count: int = 40, size: tuple[int, int] = (13, 9)) -> np.ndarray:
    rng = np.random.default_rng(seed)
    masks = rng.random((count, *size)) < rng.random((count, 1, 1))
    masks[0], masks[1] = False, True
    return masks


def test_by_hand() -> None:
    assert counts_of_text(BY_HAND[0]).tolist() == BY_HAND[1]
    assert text_of_counts(BY_HAND[1]) == BY_HAND[0]
    mask = np.zeros((3, 3), bool)
    mask[1:, 0] = mask[0, 1] = mask[1, 2] = True  # down the columns: .##  #..  .#.
    runs = Runs.from_masks([mask])
    assert runs.spans.tolist() == [[1, 4], [7, 8]]  # the first goes over the end of a column
    assert runs.counts(0) == [1, 3, 3, 1, 1]
    assert runs.areas.tolist() == [4] and runs.boxes.tolist() == [[0, 0, 3, 3]]
    assert runs.centroids[0] == pytest.approx([(0.5 + 0.5 + 1.5 + 2.5) / 4, (1.5 + 2.5 + 0.5 + 1.5) / 4])


def test_masks_come_back() -> None:
    masks = random_masks(0)
    runs = Runs.from_masks(masks)
    for index, mask in enumerate(masks):
        assert (runs.mask(index) == mask).all()
        crop, (row, col) = runs.crop(index)
        assert crop.sum() == mask.sum() == runs.areas[index]
        assert (mask[row : row + crop.shape[0], col : col + crop.shape[1]] == crop).all()
        x0, y0, x1, y1 = runs.boxes[index]
        assert crop.shape == (y1 - y0, x1 - x0)
        assert (spans_of_counts(runs.counts(index), runs.size) == runs.of(index)).all()
        assert (counts_of_text(runs.text(index)) == runs.counts(index)).all()


def test_taking_objects() -> None:
    masks = random_masks(1)
    runs = Runs.from_masks(masks)
    for chosen in ([], [3], [5, 0, 5, 2], np.arange(40) % 3 == 0):
        taken = runs.take(np.array(chosen, bool if np.asarray(chosen).dtype == bool else np.int64))
        wanted = masks[np.array(chosen, dtype=bool if np.asarray(chosen).dtype == bool else int)]
        assert len(taken) == len(wanted)
        assert all((taken.mask(index) == mask).all() for index, mask in enumerate(wanted))


@pytest.mark.parametrize("compiled", [True, False])
def test_texts_in_one_go(compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not compiled:
        monkeypatch.setattr(rle, "compile_loop", lambda loop: None)
        rle._compiled_reader.cache_clear()
    try:
        runs = Runs.from_masks(random_masks(2))
        texts = [runs.text(index) for index in range(len(runs))]
        read = Runs.from_texts(texts, runs.size)
        assert (read.spans == runs.spans).all() and (read.starts == runs.starts).all()
        assert len(Runs.from_texts([], (4, 4))) == 0
        # A count of 0 in the middle: two runs that meet are one.
        assert Runs.from_texts([text_of_counts([2, 3, 0, 4, 1])], (5, 2)).spans.tolist() == [[2, 9]]
        for text, message in (
            ("~", "hold the character '~'"),
            ("T", "end in the middle of a count"),
            (text_of_counts([3, 4]), r"add up to 7, the image has 5 x 2 = 10 pixels"),
            ("o" * 40 + "0", "a count of more than 64 bits"),
            (text_of_counts([8, -2, 4]), "add up to 10"),
            ("é", "hold the character"),
        ):
            with pytest.raises(InputError, match=message):
                Runs.from_texts([text_of_counts([10]), text], (5, 2))
    finally:
        rle._compiled_reader.cache_clear()


def test_crops_at_any_place() -> None:
    mask = np.ones((3, 4), bool)
    for corner in ((0, 0), (2, 3), (-1, -2), (4, 5), (-5, 0), (0, 40)):
        rows, cols = np.nonzero(mask)
        rows, cols = rows + corner[0], cols + corner[1]
        inside = (rows >= 0) & (cols >= 0) & (rows < 6) & (cols < 7)
        wanted = np.zeros((6, 7), bool)
        wanted[rows[inside], cols[inside]] = True
        spans = spans_of_mask(mask, corner, (6, 7))
        assert (Runs.join((6, 7), [spans]).mask(0) == wanted).all()


def test_unions() -> None:
    assert merge_spans([[5, 7], [0, 2], [6, 9], [2, 3], [4, 4]]).tolist() == [[0, 3], [5, 9]]
    assert merge_spans(np.zeros((0, 2))).shape == (0, 2)
    assert merge_spans([[0, 9], [1, 2], [8, 12]]).tolist() == [[0, 12]]


def test_nothing_at_all() -> None:
    none = Runs.join((4, 5), [])
    assert len(none) == 0 and none.boxes.shape == (0, 4) and none.areas.shape == (0,)
    empty = Runs.from_masks(np.zeros((2, 4, 5), bool))
    assert empty.boxes.tolist() == [[0] * 4] * 2 and empty.text(0) == text_of_counts([20])
    assert empty.crop(0)[0].shape == (0, 0) and np.isnan(empty.centroids).all()
    with pytest.raises(InputError, match=r"masks of shape \(4, 5\)"):
        Runs.from_masks(np.zeros((4, 5), bool))


def test_pycocotools_writes_and_reads_the_same() -> None:
    oracle = pytest.importorskip("pycocotools.mask", reason="pycocotools is the oracle: pip install pycocotools")
    masks = random_masks(3, size=(37, 51))
    runs = Runs.from_masks(masks)
    for index, mask in enumerate(masks):
        theirs = oracle.encode(np.asfortranarray(mask.astype(np.uint8)))
        assert theirs["counts"].decode() == runs.text(index)
        assert oracle.area(theirs) == runs.areas[index]
        x0, y0, x1, y1 = runs.boxes[index]
        assert oracle.toBbox(theirs).tolist() == [x0, y0, x1 - x0, y1 - y0]
