"""Tests on rectangles: values by hand, borders, both forms alike, and thresholds that survive their shortening."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from perpixel.classical.texton_bags import PRIOR_SUM, Bags, window_around
from perpixel.classical.texton_growth import Grown
from perpixel.classical.texton_regions import (
    COLUMNS,
    PART,
    check_regions,
    draw_regions,
    find_region_probs,
    find_region_probs_by_torch,
    parts_of,
    region_values,
    region_values_at,
    shifts_of,
)
from perpixel.classical.texton_trees import Trees
from perpixel.compiled import can_compile
from perpixel.errors import InputError

CELL, REACH = 2, 8


def bags_of(priors: np.ndarray, counts: np.ndarray, part: tuple[int, int, int, int] | None = None) -> Bags:
    """Bags of (K, H, W) priors and (M, H, W) counts, made directly."""
    _, height, width = priors.shape
    window = window_around((height, width), part or (0, height, 0, width), CELL, REACH)
    rows, cols = slice(window.top * CELL, window.bottom * CELL), slice(window.left * CELL, window.right * CELL)
    whole = np.concatenate([priors, counts])[:, rows, cols]
    lines, across = window.bottom - window.top, window.right - window.left
    blank = np.zeros((len(whole), lines * CELL, across * CELL), np.int64)
    blank[:, : whole.shape[1], : whole.shape[2]] = whole
    cells = blank.reshape(len(whole), lines, CELL, across, CELL).sum((2, 4))
    planes = np.zeros((len(whole), lines + 1, across + 1), np.int32)
    planes[:, 1:, 1:] = cells.cumsum(1).cumsum(2)
    shown = np.ascontiguousarray(priors[:, rows, cols]).astype(np.int16)
    return Bags(torch.from_numpy(planes), torch.from_numpy(shown), window, CELL)


def small() -> Bags:
    """One class, 0..35 in a 6 x 6 image, and one counted node, everywhere."""
    return bags_of(np.arange(36).reshape(1, 6, 6), np.ones((1, 6, 6), int))


# plane, row, col, cells high, cells wide; at pixel (3, 2), which lies in the cell of rows 2..3 and columns 2..3.
CASES = [
    ((0, 0, 0, 0, 0), 20),
    ((0, -1, 2, 0, 0), 16),
    ((0, 0, 8, 0, 0), 23),  # beyond the border: the nearest pixel
    ((0, 0, 0, 1, 1), 14 + 15 + 20 + 21),
    ((0, -2, -2, 1, 1), 0 + 1 + 6 + 7),
    ((1, -8, -8, 8, 8), 36),  # cut to the image
    ((1, 0, 0, 1, 4), 8),
    ((1, 6, 0, 1, 1), 0),
]


@pytest.mark.parametrize(("split", "value"), CASES)
def test_values_by_hand(split: tuple[int, ...], value: int) -> None:
    at = torch.tensor([3]), torch.tensor([2])
    assert region_values(small(), *at, torch.tensor(split)).tolist() == [value]
    found = region_values_at(small(), at[0].numpy(), at[1].numpy(), np.array([split], np.int16), np.zeros(1, int))
    assert found.tolist() == [[value]]


def test_drawn_rectangles_stay_within_reach() -> None:
    made = draw_regions(3000, 3, 7, 4, 20, np.random.default_rng(0))
    check_regions(torch.from_numpy(made), 10, 3, 4, 20)
    assert set(made[:, 0]) == set(range(10)) and (made[:, 3] == 0).mean() == pytest.approx(0.1, abs=0.03)
    assert (made[:, 0] < 3).mean() == pytest.approx(0.1 + 0.9 * 0.75, abs=0.05)
    for planes, reach in ((9, 20), (10, 16)):
        with pytest.raises(InputError, match=f"beyond {reach} pixels or at more than {planes} planes"):
            check_regions(torch.from_numpy(made), planes, 3, 4, reach)


def test_without_counted_nodes_rectangles_ask_for_classes() -> None:
    assert set(draw_regions(500, 3, 0, 4, 20, np.random.default_rng(0))[:, 0]) == {0, 1, 2}


def test_shortened_values_fit_16_bits() -> None:
    splits = np.array([[0, 0, 0, 24, 48], [5, 0, 0, 24, 48], [5, 0, 0, 1, 1], [0, 0, 0, 0, 0]], np.int16)
    shifts = shifts_of(splits, 2, 4)
    largest = np.array([24 * 48 * 16 * PRIOR_SUM, 24 * 48 * 16, 16, PRIOR_SUM])
    assert (largest >> shifts < 2**15).all() and shifts[1:].tolist() == [0, 0, 0] and largest[0] >> shifts[0] >= 2**14


def test_both_forms_answer_alike() -> None:
    if not can_compile():
        pytest.skip("numba is missing")
    random, depth = np.random.default_rng(0), 4
    inner, nodes = 2**depth - 1, 2 ** (depth + 1) - 1
    own = np.arange(nodes)
    children = np.where(own[:, None] < inner, np.stack([2 * own + 1, 2 * own + 2], 1), own[:, None])
    splits = draw_regions(nodes, 2, 3, CELL, REACH, random)
    thresholds = np.array([random.integers(0, max(2, 8 * high * wide)) for *_, high, wide in splits])
    forest = Trees(COLUMNS, 2, depth)
    forest.store(Grown(own, thresholds, children, np.array([0])), splits, random.dirichlet(np.ones(2), nodes))
    priors, counts = random.integers(0, 20, (2, 37, 29)), random.integers(0, 2, (3, 37, 29))
    whole = find_region_probs_by_torch(bags_of(priors, counts), forest)
    assert len(whole[0].unique()) > 3
    assert torch.equal(find_region_probs(bags_of(priors, counts), forest, threads=2), whole)
    # A part of the image answers as it does within the whole.
    part = bags_of(priors, counts, (12, 20, 11, 29))
    assert torch.equal(find_region_probs(part, forest), whole[:, 12:20, 11:29])
    assert torch.equal(find_region_probs_by_torch(part, forest), whole[:, 12:20, 11:29])


def test_parts_cover_the_image_once() -> None:
    seen = np.zeros((PART + 3, 2 * PART), int)
    for row0, row1, col0, col1 in parts_of(*seen.shape):
        seen[row0:row1, col0:col1] += 1
    assert (seen == 1).all()
