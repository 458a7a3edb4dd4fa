"""Contours and bands: values worked by hand, the literal definitions, and tables that add up."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from perpixel.errors import InputError
from perpixel.metrics import band_counts, boundary, boundary_iou, contour_counts, match_f1


@pytest.fixture(params=["numba", "numpy"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "numpy":
        monkeypatch.setattr(boundary, "_compiled_match", lambda: None)


def square(top: int, left: int, side: int = 4, size: int = 12) -> np.ndarray:
    label_map = np.zeros((size, size), np.uint8)
    label_map[top : top + side, left : left + side] = 1
    return label_map


@pytest.mark.usefixtures("backend")
def test_contours_by_hand() -> None:
    # A 4x4 square has 12 contour pixels; moved by one column its upper and lower side (4 each) and its left and right
    # one (2 each) keep 3 + 3 upper and lower pixels; the rim of the right side is new.
    target, pred = square(4, 4), square(4, 5)
    exact = contour_counts(pred, target, num_classes=2, tolerance=0)
    assert exact[1].tolist() == [12, 6, 12, 6]
    assert match_f1(exact)[1] == pytest.approx(0.5)
    assert contour_counts(pred, target, num_classes=2, tolerance=1)[1].tolist() == [12, 12, 12, 12]
    # The background's contour: the 16 pixels that share a side with the square.
    assert exact[0, 0] == exact[0, 2] == 16


@pytest.mark.usefixtures("backend")
def test_the_tolerance_is_a_round_one_and_holds_its_rim() -> None:
    target, pred = np.zeros((2, 20, 20), np.uint8)
    target[5, 5], pred[8, 9] = 1, 1  # 3 down, 4 right: 5 apart
    assert contour_counts(pred, target, num_classes=2, tolerance=5)[1].tolist() == [1, 1, 1, 1]
    assert contour_counts(pred, target, num_classes=2, tolerance=4.99)[1].tolist() == [1, 0, 1, 0]


@pytest.mark.usefixtures("backend")
def test_neither_the_frame_nor_unlabelled_pixels_make_contours() -> None:
    target = np.zeros((6, 6), np.uint8)
    target[:, 3:] = 1
    counts = contour_counts(target, target, num_classes=3, tolerance=1)
    assert counts.tolist() == [[6, 6, 6, 6], [6, 6, 6, 6], [0, 0, 0, 0]]
    target[:, 3] = 255  # the line between the classes is not known
    pred = np.where(target == 255, np.uint8(2), target)
    assert contour_counts(pred, target, num_classes=3, ignore_index=255, tolerance=1).sum() == 0


def test_the_default_tolerance_is_three_quarters_of_a_per_cent_of_the_diagonal() -> None:
    target, pred = np.zeros((2, 300, 400), np.uint8)  # 0.75 % of 500 is 3.75
    target[100:200, 100:200], pred[100:200, 103:203] = 1, 1
    assert match_f1(contour_counts(pred, target, num_classes=2)).tolist() == [1, 1]
    pred = np.roll(pred, 1, axis=1)
    assert match_f1(contour_counts(pred, target, num_classes=2))[1] < 1


def literal_contours(pred: np.ndarray, target: np.ndarray, label: int, reach: float) -> list[int]:
    """Four counts of one class, by distances between all pairs of contour pixels."""
    points = []
    for mask in (pred == label, target == label):
        rows = []
        for place in np.argwhere(mask):
            steps = [
                tuple(place + sign * np.eye(mask.ndim, dtype=int)[a]) for a in range(mask.ndim) for sign in (-1, 1)
            ]
            inside = [s for s in steps if all(0 <= c < n for c, n in zip(s, mask.shape))]
            if any(not mask[s] for s in inside):
                rows.append(place)
        points.append(np.array(rows).reshape(-1, mask.ndim))
    counts = []
    for ours, theirs in ((points[0], points[1]), (points[1], points[0])):
        apart = ((ours[:, None] - theirs[None]) ** 2).sum(-1) if len(theirs) else np.full((len(ours), 1), np.inf)
        counts += [len(ours), int((apart.min(1) <= reach**2).sum()) if len(ours) else 0]
    return counts


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([(9, 11), (1, 12), (5, 4, 6)]), st.sampled_from([0, 1, 1.5, 3]))
def test_contours_are_the_definition_s(seed: int, shape: tuple[int, ...], reach: float) -> None:
    rng = np.random.default_rng(seed)
    pred, target = rng.integers(0, 3, (2, *shape))
    counts = contour_counts(pred, target, num_classes=3, tolerance=reach)
    assert counts.tolist() == [literal_contours(pred, target, label, reach) for label in range(3)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(boundary, "_MAX_STEPS", -1)
        assert (contour_counts(pred, target, num_classes=3, tolerance=reach) == counts).all()
    match = boundary._match_numpy
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(boundary, "_compiled_match", lambda: match)
        assert (contour_counts(pred, target, num_classes=3, tolerance=reach) == counts).all()


def test_bands_by_hand() -> None:
    # Bands of width 1 of two 4x4 squares one column apart: rims of 12 pixels that share 6.
    counts = band_counts(square(4, 5), square(4, 4), num_classes=2, width=1)
    assert counts[1].tolist() == [6, 12, 12]
    assert boundary_iou(counts)[1] == pytest.approx(6 / 18)
    assert boundary_iou(np.zeros((2, 3))).tolist() == pytest.approx([np.nan, np.nan], nan_ok=True)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([(12, 17), (6, 7, 8)]), st.integers(1, 4))
def test_bands_are_repeated_erosions_after_a_frame_of_zeros(seed: int, shape: tuple[int, ...], width: int) -> None:
    rng = np.random.default_rng(seed)
    blobs = ndimage.zoom(rng.integers(0, 3, (2, *(2,) * len(shape))), (1, *(n / 2 for n in shape)), order=0)
    counts = band_counts(blobs[0], blobs[1], num_classes=3, width=width)
    for label in range(3):
        bands = []
        for blob in blobs:
            mask = np.pad(blob == label, 1)
            core = ndimage.binary_erosion(mask, np.ones((3,) * mask.ndim), iterations=width)
            bands.append(mask & ~core)
        assert counts[label].tolist() == [(bands[0] & bands[1]).sum(), bands[0].sum(), bands[1].sum()]


def test_bands_with_unlabelled_pixels_and_many_classes() -> None:
    target = np.full((9, 9), 300)
    target[:, 6:] = 65535
    pred = np.full((9, 9), 300)
    counts = band_counts(pred, target, num_classes=301, ignore_index=65535, width=1)
    assert counts[300].tolist() == [
        9 * 2 + 4 * 2,
        9 * 2 + 4 * 2,
        9 * 2 + 4 * 2,
    ]  # the rim of the 9 x 6 that is labelled
    assert counts.sum() == counts[300].sum()


def test_the_default_width_is_two_per_cent_of_the_diagonal() -> None:
    target = np.zeros((30, 40), np.uint8)  # 2 % of 50 is 1
    assert (band_counts(target, target, num_classes=1) == band_counts(target, target, num_classes=1, width=1)).all()
    target = np.zeros((60, 80), np.uint8)
    assert (band_counts(target, target, num_classes=1) == band_counts(target, target, num_classes=1, width=2)).all()


def test_a_better_outline_scores_better() -> None:
    target = square(20, 20, 20, 64)
    f1 = [match_f1(contour_counts(square(20, 20 + k, 20, 64), target, num_classes=2, tolerance=1))[1] for k in range(6)]
    iou = [boundary_iou(band_counts(square(20, 20 + k, 20, 64), target, num_classes=2))[1] for k in range(6)]
    assert f1 == sorted(f1, reverse=True) and iou == sorted(iou, reverse=True)
    assert f1[0] == iou[0] == 1


def test_flipping_and_transposing_change_nothing() -> None:
    rng = np.random.default_rng(0)
    pred, target = np.kron(rng.integers(0, 4, (2, 6, 8)), np.ones((5, 5), int))
    for count in (contour_counts, band_counts):
        here = count(pred, target, num_classes=4)
        assert (count(pred[::-1, ::-1], target[::-1, ::-1], num_classes=4) == here).all()
        assert (count(pred.T, target.T, num_classes=4) == here).all()


def test_errors() -> None:
    good = np.zeros((4, 4), np.uint8)
    with pytest.raises(InputError, match=r"pred \(4, 4\) and target \(4, 5\) differ in shape"):
        contour_counts(good, np.zeros((4, 5), int), num_classes=2)
    with pytest.raises(InputError, match=r"target holds 7, outside 0\.\.1 \(2 classes\).*ignore_index"):
        band_counts(good, good + 7, num_classes=2)
    with pytest.raises(InputError, match=r"pred is float64"):
        band_counts(good * 1.0, good, num_classes=2)
    with pytest.raises(InputError, match=r"pred has shape \(4,\)"):
        band_counts([0, 0, 0, 0], [0, 0, 0, 0], num_classes=2)
    with pytest.raises(InputError, match="tolerance is -1"):
        contour_counts(good, good, num_classes=2, tolerance=-1)
    with pytest.raises(InputError, match="width is 0"):
        band_counts(good, good, num_classes=2, width=0)
    with pytest.raises(InputError, match="num_classes is 0"):
        band_counts(good, good, num_classes=0)
