"""Bags of semantic textons: counts against direct ones, the hierarchy, both forms alike."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from perpixel.classical.texton_bags import (
    draw_bag_nodes,
    make_bags,
    make_bags_by_torch,
    node_members,
    pixels_of,
    prior_scale,
    prior_table,
    whole_bag,
    window_around,
)
from perpixel.classical.texton_growth import Grown
from perpixel.classical.texton_trees import Trees
from perpixel.compiled import can_compile

#            0                 6
#         1     2           7     8
#             3   4
# Node 5 is a tree of its own, without any split.
CHILDREN = [[1, 2], [1, 1], [3, 4], [3, 3], [4, 4], [5, 5], [7, 8], [7, 7], [8, 8]]
ROOTS = [0, 5, 6]
LEAVES = ([1, 3, 4], [5], [7, 8])
COUNTED = torch.tensor([1, 2, 4, 8], dtype=torch.int32)


def trees() -> Trees:
    made = Trees(1, 2, 3)
    nodes = len(CHILDREN)
    zeros, first = np.zeros(nodes, int), np.linspace(0, 1, nodes)
    grown = Grown(np.arange(nodes), zeros, np.array(CHILDREN), np.array(ROOTS))
    made.store(grown, zeros[:, None], np.stack([first, 1 - first], 1))
    return made


def leaves(height: int, width: int) -> torch.Tensor:
    random = np.random.default_rng(0)
    return torch.from_numpy(np.stack([random.choice(own, (height, width)) for own in LEAVES]).astype(np.int32))


def passes(leaf: torch.Tensor, node: int) -> torch.Tensor:
    """Whether a pixel's way to its leaf leads over `node`."""
    below = [node]
    for each in below:
        below += [child for child in CHILDREN[each] if child != each]
    return torch.isin(leaf, torch.tensor(below)).any(0)


def test_each_node_knows_the_counted_ones_above_it() -> None:
    members = node_members(trees(), COUNTED)
    # Places in COUNTED; 4 fills. Node 4 lies below 2.
    assert members.tolist() == [
        [4, 4, 4], [0, 4, 4], [1, 4, 4], [1, 4, 4], [1, 2, 4], [4, 4, 4], [4, 4, 4], [4, 4, 4], [3, 4, 4],
    ]  # fmt: skip


def test_children_sum_to_their_parent_and_roots_are_left_out() -> None:
    bag = whole_bag(leaves(7, 9), trees())
    assert bag[ROOTS].tolist() == [0, 0, 0]
    assert bag[2] == pytest.approx(float(bag[3] + bag[4])) and 0 < bag[2] < 1
    assert float(bag[1] + bag[2]) == pytest.approx(1) and float(bag[7] + bag[8]) == pytest.approx(1)
    assert float(bag[1]) == pytest.approx(float((leaves(7, 9)[0] == 1).float().mean()))


@pytest.mark.parametrize("form", ["compiled", "torch"])
@pytest.mark.parametrize("size", [(1, 1), (5, 30), (33, 18)])
def test_integral_images_against_direct_counts(form: str, size: tuple[int, int]) -> None:
    forest, seen, cell = trees(), leaves(*size), 4
    window = window_around(size, (0, size[0], 0, size[1]), cell, 8)
    arguments = (
        pixels_of(seen, window, 4),
        prior_table(forest),
        node_members(forest, COUNTED),
        len(COUNTED),
        window,
        cell,
    )
    if form == "compiled" and not can_compile():
        pytest.skip("numba is missing")
    bags = make_bags(*arguments, 2) if form == "compiled" else make_bags_by_torch(*arguments)
    priors = sum(forest.probs[leaf.long()] * prior_scale(3) for leaf in seen).permute(2, 0, 1)
    assert (bags.priors - priors).abs().max() <= 1.5
    full = torch.cat([bags.priors, torch.stack([passes(seen, int(node)) for node in COUNTED])]).int()
    lines, across = bags.planes.shape[1:]
    for top, bottom in ((0, lines - 1), (lines // 2, lines - 1), (0, lines // 2)):
        for left, right in ((0, across - 1), (across // 3, across // 2)):
            planes = bags.planes
            found = planes[:, bottom, right] - planes[:, top, right] - planes[:, bottom, left] + planes[:, top, left]
            direct = full[:, top * cell : bottom * cell, left * cell : right * cell].sum((1, 2))
            assert found.tolist() == direct.tolist()


def test_both_forms_make_the_same_bags_of_a_part() -> None:
    if not can_compile():
        pytest.skip("numba is missing")
    forest, seen = trees(), leaves(50, 41)
    window = window_around((50, 41), (16, 32, 8, 41), 4, 8)
    assert window[4:] == (2, 11, 0, 11)
    arguments = (
        pixels_of(seen, window, 4),
        prior_table(forest),
        node_members(forest, COUNTED),
        len(COUNTED),
        window,
        4,
    )
    one, other = make_bags(*arguments, 1), make_bags_by_torch(*arguments)
    assert torch.equal(one.planes, other.planes) and torch.equal(one.priors, other.priors)


def test_nodes_are_drawn_by_their_pixels() -> None:
    counts, is_root = np.array([900, 800, 50, 0, 50, 400]), np.array([True, False, False, False, False, False])
    assert draw_bag_nodes(counts, is_root, 9, np.random.default_rng(0)).tolist() == [1, 2, 4, 5]
    drawn = [draw_bag_nodes(counts, is_root, 2, np.random.default_rng(seed)).tolist() for seed in range(50)]
    assert drawn.count([1, 5]) > 25 and all(0 not in each and 3 not in each for each in drawn)
