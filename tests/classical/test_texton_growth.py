"""Trees grown from tables of values: gains by hand and by brute force, weights, shares, threads."""

from __future__ import annotations

import numpy as np
import pytest

from perpixel.classical.texton_growth import (
    LEAST,
    Grown,
    Growth,
    best_of_tests,
    class_weights,
    grow_forest,
    node_probs,
    search_loop,
)


def table(seed: int = 0, tests: int = 12, pixels: int = 300) -> tuple[np.ndarray, np.ndarray]:
    """Values, of which test 3 tells the three classes apart best, and labels."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 3, pixels).astype(np.int16)
    values = random.integers(-100, 100, (tests, pixels)).astype(np.int16)
    values[3] = labels * 40 + random.integers(0, 30, pixels)
    return values, labels


def grown(threads: int = 1, seed: int = 0, depth: int = 4) -> Grown:
    values, labels = table()
    shares = [np.arange(0, 300, 2), np.arange(1, 300, 2), np.arange(300)]
    return grow_forest(values, labels, np.ones(3), shares, Growth(depth, 6, 3), seed=seed, threads=threads)


def test_information_gain_by_hand() -> None:
    # 8 of class 0 at value 0, 8 of class 1 at value 9: one bit, log 2.
    values = np.repeat([0, 9], 8).astype(np.int16)[None]
    labels = np.repeat([0, 1], 8).astype(np.int16)
    pixels, picks = np.arange(16, dtype=np.int32), np.array([[0.1]], np.float32)
    gain, test, threshold = best_of_tests(values, labels, np.ones(2), pixels, np.zeros(1, np.int32), picks)
    assert (test, threshold) == (0, 0) and gain == pytest.approx(np.log(2))
    # Class 1 counts three times: H(1/4, 3/4).
    gain, *_ = best_of_tests(values, labels, np.array([1.0, 3]), pixels, np.zeros(1, np.int32), picks)
    assert gain == pytest.approx(np.log(4) - 0.75 * np.log(3))


def test_a_split_that_leaves_too_few_is_none() -> None:
    values = np.array([[0] * (LEAST - 1) + [9] * 10], np.int16)
    labels = (values[0] > 0).astype(np.int16)
    arguments = values, labels, np.ones(2), np.arange(len(labels), dtype=np.int32), np.zeros(1, np.int32)
    for search in (best_of_tests, search_loop() or best_of_tests):
        assert search(*arguments, np.zeros((1, 1), np.float32))[0] == -1


@pytest.mark.parametrize("seed", range(3))
def test_the_gain_chosen_is_the_largest_of_all(seed: int) -> None:
    values, labels = table(seed)
    random = np.random.default_rng(seed)
    pixels = random.permutation(300)[:200].astype(np.int32)
    tests, picks = random.integers(0, 12, 8).astype(np.int32), random.random((8, 4), dtype=np.float32)
    weights = np.array([0.2, 0.5, 0.3])

    def entropy(chosen: np.ndarray) -> float:
        masses = np.bincount(labels[chosen], minlength=3) * weights
        shares = masses[masses > 0] / masses.sum()
        return float(-(shares * np.log(shares)).sum())

    best = (-1.0, -1, 0)
    for test, pick in zip(tests, picks):
        value = values[test, pixels]
        for threshold in value[(pick * np.float32(200)).astype(int)]:
            sides = pixels[value > threshold], pixels[value <= threshold]
            if min(map(len, sides)) < LEAST:
                continue
            heavy = [weights[labels[side]].sum() for side in sides]
            gain = entropy(pixels) - sum(h * entropy(side) for h, side in zip(heavy, sides)) / sum(heavy)
            best = max(best, (gain, test, threshold))
    for search in (best_of_tests, search_loop() or best_of_tests):
        found = search(values, labels, weights, pixels, tests, picks)
        assert found[0] == pytest.approx(best[0]) and tuple(found[1:]) == best[1:]


def test_the_telling_test_is_the_root() -> None:
    values, labels = table()
    forest = grow_forest(values, labels, np.ones(3), [np.arange(300)], Growth(2, 200, 8), seed=0, threads=1)
    assert forest.tests[0] == 3 and len(forest.tests) > 3
    found = node_probs(forest, [forest.leaves(values, 0)], labels, np.ones(3))[forest.leaves(values, 0)].argmax(1)
    assert (found == labels).mean() > 0.9


def test_children_come_after_their_parents_and_trees_in_a_row() -> None:
    forest = grown()
    own = np.arange(len(forest.tests))
    inner = forest.children[:, 0] != own
    assert (forest.children[inner] > own[inner, None]).all()
    assert sorted([*forest.children[inner].reshape(-1), *forest.roots]) == own.tolist()


@pytest.mark.parametrize("depth", [1, 3])
def test_no_tree_is_deeper_than_asked(depth: int) -> None:
    assert len(grown(depth=depth).tests) <= 3 * (2 ** (depth + 1) - 1)


def test_threads_change_nothing_and_seeds_do() -> None:
    one, four, other = grown(), grown(threads=4), grown(seed=1)
    for name in ("tests", "thresholds", "children", "roots"):
        assert np.array_equal(getattr(one, name), getattr(four, name))
    assert not np.array_equal(one.tests, other.tests)


def test_growth_stops_when_told() -> None:
    values, labels = table()
    answers = iter([False, True])
    forest = grow_forest(
        values, labels, np.ones(3), [np.arange(300)], Growth(9, 6, 3), seed=0, threads=1, is_over=lambda: next(answers)
    )
    assert len(forest.tests) == 3


def test_weights_balance_the_classes() -> None:
    counts, drawn = np.array([900, 100, 0]), np.array([90, 50, 0])
    equal = class_weights(counts, drawn, 1.0)
    assert (equal * drawn).tolist() == pytest.approx([0.5, 0.5, 0])
    assert (class_weights(counts, drawn, 0.0) * drawn).tolist() == pytest.approx([0.9, 0.1, 0])
    assert (class_weights(counts, drawn, 0.5) * drawn).tolist() == pytest.approx([0.75, 0.25, 0])


def test_node_probs_are_weighted_shares() -> None:
    # Root 0 with leaves 1 and 2; tree of one node 3.
    forest = Grown(np.zeros(4, int), np.zeros(4, int), np.array([[1, 2], [1, 1], [2, 2], [3, 3]]), np.array([0, 3]))
    labels = np.array([0, 0, 0, 1])
    leaves = [np.array([1, 1, 2, 2]), np.array([3, 3, 3, -1])]
    probs = node_probs(forest, leaves, labels, np.array([1.0, 3]))
    assert probs.tolist() == [[0.5, 0.5], [1, 0], [0.25, 0.75], [1, 0]]


def test_a_node_without_pixels_has_its_parent_s_distribution() -> None:
    forest = Grown(np.zeros(3, int), np.zeros(3, int), np.array([[1, 2], [1, 1], [2, 2]]), np.array([0]))
    probs = node_probs(forest, [np.array([1, 1])], np.array([0, 1]), np.ones(2))
    assert probs[2].tolist() == [0.5, 0.5]
