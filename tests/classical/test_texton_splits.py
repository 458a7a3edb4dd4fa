"""Pixel splits: values by hand, borders, compiled and torch form alike."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from perpixel.classical.texton_growth import Grown
from perpixel.classical.texton_splits import (
    COLUMNS,
    check_splits,
    draw_splits,
    find_leaves,
    find_leaves_by_torch,
    leaves_loop,
    padded,
    split_values,
    values_at,
)
from perpixel.classical.texton_trees import Trees
from perpixel.errors import InputError

#                   channel 0          channel 1
CHANNELS = [[[1, 2, 3], [4, 5, 6]], [[10, 20, 30], [40, 50, 60]]]
# kind, row, col, channel of A, row, col, channel of B; at pixel (0, 1) of value 2 and 20.
CASES = [
    ((0, 0, 0, 0, 0, 0, 0), 2),
    ((0, 1, 1, 1, 0, 0, 0), 60),
    ((1, 0, -1, 0, 1, 0, 1), 1 + 50),
    ((2, 0, -1, 0, 1, 0, 1), 1 - 50),
    ((3, 0, -1, 0, 1, 0, 1), 49),
    ((2, 1, 1, 1, 0, -1, 0), 60 - 1),
    ((0, -1, 0, 0, 0, 0, 0), 2),  # above the border: the nearest pixel
    ((0, 1, -1, 1, 0, 0, 0), 40),
]


def channels() -> torch.Tensor:
    return padded(torch.tensor(CHANNELS, dtype=torch.int16), 1)


def random_trees(channels: int, patch: int, depth: int = 5, trees: int = 3) -> Trees:
    """Full trees of random splits."""
    random = np.random.default_rng(0)
    inner, nodes = 2**depth - 1, 2 ** (depth + 1) - 1
    own = np.arange(nodes)
    children = np.where(own[:, None] < inner, np.stack([2 * own + 1, 2 * own + 2], 1), own[:, None])
    starts = np.arange(trees) * nodes
    forest = Grown(
        np.arange(nodes * trees), random.integers(-2000, 2000, nodes * trees),
        np.concatenate([children + start for start in starts]), starts,
    )  # fmt: skip
    made = Trees(COLUMNS, 4, depth)
    probs = random.dirichlet(np.ones(4), nodes * trees)
    made.store(forest, draw_splits(nodes * trees, channels, patch, random), probs)
    return made


@pytest.mark.parametrize(("split", "value"), CASES)
def test_values_by_hand(split: tuple[int, ...], value: int) -> None:
    row, col = torch.tensor([1]), torch.tensor([2])  # (0, 1) in the padded image
    assert split_values(channels(), row, col, torch.tensor(split)).tolist() == [value]
    found = values_at(channels().numpy(), row.numpy(), col.numpy(), np.array([split], np.int16))
    assert found.tolist() == [[value]]


def test_random_splits_stay_in_the_patch_and_use_all_kinds() -> None:
    made = draw_splits(2000, 3, 5, np.random.default_rng(0))
    assert set(made[:, 0]) == {0, 1, 2, 3}
    assert set(made[:, [1, 2, 4, 5]].reshape(-1)) == {-2, -1, 0, 1, 2}
    assert set(made[:, [3, 6]].reshape(-1)) == {0, 1, 2}
    check_splits(torch.from_numpy(made), 3, 5)
    for patch, count in ((3, 3), (5, 2)):
        with pytest.raises(InputError, match=f"a patch of {patch} pixels and {count} channels"):
            check_splits(torch.from_numpy(made), count, patch)


@pytest.mark.parametrize("size", [(1, 1), (3, 70), (40, 37)])
def test_both_forms_find_the_same_leaves(size: tuple[int, int]) -> None:
    if leaves_loop() is None:
        pytest.skip("numba is missing")
    trees = random_trees(2, 7)
    image = torch.randint(-3000, 3000, (2, *size), generator=torch.Generator().manual_seed(0)).to(torch.int16)
    expected = find_leaves_by_torch(padded(image, 3), trees, 3)
    assert expected.shape == (3, *size)
    assert torch.equal(find_leaves(padded(image, 3), trees, 3, threads=2), expected)
    assert (trees.below[expected.long(), 0] == expected).all()
