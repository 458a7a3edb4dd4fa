"""Skeletons: lines worked by hand, and topology that stays: parts, holes and cavities."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from perpixel.errors import InputError
from perpixel.metrics import match_f1, match_precision, match_recall, skeleton, skeleton_counts, skeletonise


@pytest.fixture(params=["numba", "python"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "python":
        monkeypatch.setattr(skeleton, "_compiled_thin", lambda: None)


@pytest.mark.usefixtures("backend")
def test_a_bar_becomes_its_middle_line() -> None:
    mask = np.zeros((9, 20), bool)
    mask[2:7, 2:18] = True
    thin = skeletonise(mask)
    rows, cols = np.nonzero(thin)
    assert set(rows) == {4} and len(cols) == cols.max() - cols.min() + 1 == 12


@pytest.mark.usefixtures("backend")
def test_lines_points_and_rings_stay() -> None:
    mask = np.zeros((9, 9), bool)
    mask[1, 1:8] = True  # a line keeps its ends
    mask[3, 3] = True  # a point
    mask[5:8, 2:5] = True
    mask[6, 3] = False  # a ring
    thin = skeletonise(mask)
    assert thin[1, 1:8].all() and thin[3, 3]
    assert thin[5:8, 2:5].sum() == 4 and not thin[6, 3]  # its corners are no ends and no links
    assert skeletonise(np.zeros((3, 3), bool)).sum() == 0


def parts_and_holes(mask: np.ndarray) -> tuple[int, int]:
    corners = np.ones((3,) * mask.ndim)
    return ndimage.label(mask, corners)[1], ndimage.label(np.pad(~mask, 1, constant_values=True))[1]


@pytest.mark.parametrize("shape", [(60, 70), (18, 20, 22), (1, 30)])
def test_the_topology_stays_and_what_is_thin_stays_thin(shape: tuple[int, ...]) -> None:
    for seed in range(4):
        noise = np.random.default_rng(seed).normal(size=shape)
        mask = ndimage.gaussian_filter(noise, 1.3) > 0
        thin = skeletonise(mask)
        assert (thin <= mask).all() and (shape[0] == 1 or thin.sum() < mask.sum())
        assert parts_and_holes(thin) == parts_and_holes(mask)
        assert (skeletonise(thin) == thin).all()


def test_a_hollow_ball_stays_hollow() -> None:
    grid = np.mgrid[:13, :13, :13] - 6
    radius = np.sqrt((grid**2).sum(0))
    assert parts_and_holes(skeletonise(radius < 5)) == (1, 1)
    assert skeletonise(radius < 5).sum() <= 3
    shell = skeletonise((radius < 6) & (radius > 2))
    assert parts_and_holes(shell) == (1, 2)


def test_cldice_by_hand() -> None:
    target, pred = np.zeros((2, 7, 12), int)
    target[3, 1:11] = 1  # ten pixels of a line
    pred[3, 1:6] = 1  # its first half ...
    pred[0, 1:6] = 1  # ... and one that is not there
    counts = skeleton_counts(pred, target, label=1)
    assert counts.tolist() == [10, 5, 10, 5]
    assert (match_precision(counts), match_recall(counts), match_f1(counts)) == (0.5, 0.5, 0.5)


def test_width_hardly_counts_but_a_gap_does() -> None:
    target, wide, cut = np.zeros((3, 20, 40), int)
    target[9:12, 2:38] = 1
    wide[7:14, 2:38] = 1
    cut[9:12, 2:38] = 1
    cut[:, 15:25] = 0
    assert match_f1(skeleton_counts(wide, target, label=1)) == 1
    assert match_f1(skeleton_counts(cut, target, label=1)) < 0.9


def test_ignored_pixels_and_missing_classes() -> None:
    target = np.zeros((5, 9), int)
    target[2, :] = 1
    pred = target.copy()
    pred[2, 5:] = 0
    target[:, 5:] = 255
    assert skeleton_counts(pred, target, label=1, ignore_index=255).tolist() == [5, 5, 5, 5]
    empty = skeleton_counts(np.zeros((4, 4), int), np.zeros((4, 4), int), label=1)
    assert empty.sum() == 0 and np.isnan(match_f1(empty))
    assert match_f1(skeleton_counts(np.eye(4, dtype=int), np.zeros((4, 4), int), label=1)) == 0


def test_errors() -> None:
    with pytest.raises(InputError, match=r"mask of shape \(4,\), dtype bool: give a bool array"):
        skeletonise(np.ones(4, bool))
    with pytest.raises(InputError, match="dtype int64"):
        skeletonise(np.ones((4, 4), np.int64))
    with pytest.raises(InputError, match=r"label is 2: give one of the classes 0\.\.1"):
        skeleton_counts(np.zeros((4, 4), int), np.zeros((4, 4), int), label=2)
