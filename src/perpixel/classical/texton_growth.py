"""Trees grown from tables of test values, by randomised tests and information gain; used by both texton forests.

What a test looks at (two pixels, or a rectangle) is not known here. `grow_forest` gets the values of a pool of random
tests at all training pixels, and at each node tries some tests of the pool, each with a few thresholds. (The paper
draws new tests at each node; a pool needs the images only once, whatever their number.)

Gain of a split: E(all) - E(left) - E(right) over the weight of all, where E = W log W - sum_c w_c log w_c.

References: Geurts, Ernst, Wehenkel, "Extremely randomized trees", 2006; Shotton et al., CVPR 2008.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np

from perpixel.compiled import Workers, compile_loop

# A node is not split where a child would get fewer training pixels.
LEAST = 5
# Gains below are rounding.
_LEAST_GAIN = 1e-9


@dataclass(frozen=True)
class Growth:
    """How a forest grows.

    Args:
        depth: of a tree; a root alone has depth 0.
        tests: of the pool, tried at each node.
        thresholds: tried for each test: the values that it has at random pixels of the node.
    """

    depth: int
    tests: int
    thresholds: int


@dataclass
class Grown:
    """A forest as arrays, node by node, those of a tree in a row, children after their parents.

    tests, thresholds: (N,); a value above the threshold goes right. children: (N, 2), a leaf is its own. roots: (T,).
    """

    tests: np.ndarray
    thresholds: np.ndarray
    children: np.ndarray
    roots: np.ndarray

    def leaves(self, values: np.ndarray, tree: int) -> np.ndarray:
        """(N,) leaf of each training pixel in one tree; values (tests, N)."""
        pixels = np.arange(values.shape[1])
        node = np.full(values.shape[1], self.roots[tree])
        while True:
            right = values[self.tests[node], pixels] > self.thresholds[node]
            below = self.children[node, right.astype(np.int64)]
            if np.array_equal(below, node):
                return node
            node = below


def class_weights(counts: np.ndarray, drawn: np.ndarray, balance: float) -> np.ndarray:
    """(K,) float64 weight of a training pixel of each class; 0 for classes without any.

    Args:
        counts: (K,) labelled pixels of each class.
        drawn: (K,) those that training takes.
        balance: 1 gives all classes the same weight in all, 0 the share that they have of the labelled pixels.
    """
    shares = np.where(counts > 0, np.maximum(counts, 1.0) ** (1 - balance), 0)
    return shares / shares.sum() / np.maximum(drawn, 1)


def node_probs(grown: Grown, leaves: list[np.ndarray], labels: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(N, K) float32 class distributions of leaves and inner nodes from training pixels.

    A node that got none has its parent's.

    Args:
        leaves: of each tree, (n,) node of each pixel; those below 0 are left out.
        labels: (n,) classes.
    """
    nodes, classes = len(grown.tests), len(weights)
    sums = np.zeros((nodes, classes))
    for reached in leaves:
        taken = reached >= 0
        keys = reached[taken].astype(np.int64) * classes + labels[taken]
        sums += np.bincount(keys, minlength=nodes * classes).reshape(nodes, classes)
    inner = np.flatnonzero(grown.children[:, 0] != np.arange(nodes))
    for node in inner[::-1]:
        sums[node] = sums[grown.children[node]].sum(0)
    sums *= weights
    for node in inner:
        for child in grown.children[node]:
            if not sums[child].any():
                sums[child] = sums[node]
    return (sums / sums.sum(1, keepdims=True)).astype(np.float32)


def grow_forest(
    values: np.ndarray,
    labels: np.ndarray,
    weights: np.ndarray,
    shares: list[np.ndarray],
    growth: Growth,
    *,
    seed: int,
    threads: int,
    is_over: Callable[[], bool] | None = None,
    on_tree: Callable[[int], None] | None = None,
) -> Grown:
    """A forest of one tree for each of `shares`. The same seed gives the same, with any number of threads.

    Args:
        values: (tests, n) int16 of the pool at n training pixels.
        labels: (n,) int16 classes.
        weights: (K,) of a pixel of each class.
        shares: of each tree, numbers of the training pixels that it sees.
        is_over: asked after each level; where it answers yes, the nodes open then stay leaves.
        on_tree: called with the number of each finished tree.
    """
    trees = []
    with Workers(threads) as workers:
        for number, share in enumerate(shares):
            random = np.random.default_rng([seed, number])
            trees.append(_grow_tree(values, labels, weights, share, growth, random, workers, is_over))
            if on_tree:
                on_tree(number)
    sizes = np.cumsum([0, *(len(tree.tests) for tree in trees)])
    return Grown(
        np.concatenate([tree.tests for tree in trees]),
        np.concatenate([tree.thresholds for tree in trees]),
        np.concatenate([tree.children + start for tree, start in zip(trees, sizes)]),
        sizes[:-1],
    )


@dataclass
class _Node:
    """Pixels begin..end of the order belong to it."""

    number: int
    begin: int
    end: int


def _grow_tree(
    values: np.ndarray, labels: np.ndarray, weights: np.ndarray, share: np.ndarray, growth: Growth,
    random: np.random.Generator, workers: Workers, is_over: Callable[[], bool] | None,
) -> Grown:  # fmt: skip
    order, scratch = random.permutation(share).astype(np.int32), np.empty(len(share), np.int32)
    tests, thresholds, children = [0], [0], [[0, 0]]
    level = [_Node(0, 0, len(order))]
    for _ in range(growth.depth):
        level = [node for node in level if node.end - node.begin >= 2 * LEAST]
        if not level or (is_over and is_over()):
            break
        below: list[_Node] = []
        for node, (gain, test, threshold) in zip(
            level, _best_splits(values, labels, weights, order, level, growth, random, workers)
        ):
            if gain <= _LEAST_GAIN:
                continue
            middle = _divide(values[test], order, scratch, node, threshold)
            tests[node.number], thresholds[node.number] = test, threshold
            left = len(tests)
            children[node.number] = [left, left + 1]
            below += [_Node(left, node.begin, middle), _Node(left + 1, middle, node.end)]
            tests, thresholds = [*tests, 0, 0], [*thresholds, 0, 0]
            children += [[left, left], [left + 1, left + 1]]
        level = below
    return Grown(np.array(tests), np.array(thresholds), np.array(children), np.array([0]))


def _divide(values: np.ndarray, order: np.ndarray, scratch: np.ndarray, node: _Node, threshold: int) -> int:
    """Bring the pixels of a node that go left before those that go right, orders kept; where the right ones begin."""
    own = order[node.begin : node.end]
    right = values[own] > threshold
    middle = node.end - int(right.sum())
    scratch[node.begin : middle], scratch[middle : node.end] = own[~right], own[right]
    order[node.begin : node.end] = scratch[node.begin : node.end]
    return middle


def _best_splits(
    values: np.ndarray, labels: np.ndarray, weights: np.ndarray, order: np.ndarray, level: list[_Node], growth: Growth,
    random: np.random.Generator, workers: Workers,
) -> list[tuple[float, int, int]]:  # fmt: skip
    """(gain, test, threshold) of each node of a level."""
    # All is drawn before the threads start, so that their number does not matter.
    tests = random.integers(0, len(values), (len(level), growth.tests)).astype(np.int32)
    picks = random.random((len(level), growth.tests, growth.thresholds), dtype=np.float32)
    pieces = max(1, 16 // len(level))
    edges = np.linspace(0, growth.tests, min(pieces, growth.tests) + 1).astype(int)
    search = search_loop() or best_of_tests

    def one(task: int) -> tuple[float, int, int]:
        number, piece = divmod(task, len(edges) - 1)
        node, some = level[number], slice(edges[piece], edges[piece + 1])
        gain, test, threshold = search(
            values, labels, weights, order[node.begin : node.end], tests[number, some], picks[number, some]
        )
        return float(gain), int(test), int(threshold)

    found = workers.run(one, len(level) * (len(edges) - 1))
    # Of equal gains the first test wins.
    return [
        max(found[start : start + len(edges) - 1], key=lambda each: each[0])
        for start in range(0, len(found), len(edges) - 1)
    ]


def best_of_tests(
    values: np.ndarray,
    labels: np.ndarray,
    weights: np.ndarray,
    pixels: np.ndarray,
    tests: np.ndarray,
    picks: np.ndarray,
) -> tuple[float, int, int]:
    """The best of some tests at a node: (gain, test, threshold); a gain of -1 where nothing can be split.

    Args:
        values: (tests of the pool, n) int16. labels: (n,) int16. weights: (K,).
        pixels: (m,) int32 training pixels of the node.
        tests: (t,) int32 of the pool.
        picks: (t, thresholds) float32 in 0..1: at which of the pixels a threshold is read.
    """
    best, own = (-1.0, 0, 0), labels[pixels]
    whole = np.bincount(own, minlength=len(weights))
    impurity, weight = _impurity(whole * weights), (whole * weights).sum()
    for test, pick in zip(tests, picks):
        value = values[test, pixels]
        for threshold in np.sort(value[(pick * np.float32(len(pixels))).astype(np.int64).clip(max=len(pixels) - 1)]):
            right = np.bincount(own[value > threshold], minlength=len(weights))
            if min(right.sum(), len(pixels) - right.sum()) < LEAST:
                continue
            parts = _impurity(right * weights) + _impurity((whole - right) * weights)
            gain = (impurity - parts) / weight
            if gain > best[0]:
                best = (float(gain), int(test), int(threshold))
    return best


def _impurity(masses: np.ndarray) -> float:
    """W log W - sum_c w_c log w_c, the entropy times the weight."""
    own, total = masses[masses > 0], masses.sum()
    return float(total * np.log(total) - (own * np.log(own)).sum()) if total > 0 else 0.0


@cache
def search_loop() -> Callable[..., tuple[float, int, int]] | None:
    """`best_of_tests`, compiled; None without numba."""
    return compile_loop(_search)


def _search(values, labels, weights, pixels, tests, picks):  # type: ignore[no-untyped-def]
    count, classes, steps = len(pixels), len(weights), picks.shape[1]
    own = np.empty(count, np.int16)
    whole = np.zeros(classes, np.int64)
    for i in range(count):
        own[i] = labels[pixels[i]]
        whole[own[i]] += 1
    total, impurity = 0.0, 0.0
    for k in range(classes):
        mass = whole[k] * weights[k]
        total += mass
        if mass > 0:
            impurity -= mass * np.log(mass)
    impurity += total * np.log(total)
    best_gain, best_test, best_threshold = -1.0, 0, 0
    thresholds = np.empty(steps, np.int16)
    seen, keys = np.empty(count, np.int16), np.empty(count, np.uint16)
    # Two tables, for every other pixel each: adding to the same count twice in a row has to wait.
    counts = np.empty((2, (steps + 1) * classes), np.int32)
    right = np.empty(classes, np.int64)
    gains = np.empty(steps)
    for t in range(len(tests)):
        row = values[tests[t]]
        for i in range(count):
            seen[i] = row[np.uint32(pixels[i])]
            keys[i] = own[i]
        for s in range(steps):
            thresholds[s] = seen[min(int(picks[t, s] * np.float32(count)), count - 1)]
        thresholds.sort()
        # Place in the table: class, and how many thresholds lie below. Plain loops, which become vector code.
        for s in range(steps):
            threshold = thresholds[s]
            for i in range(count):
                keys[i] += np.uint16(classes) if seen[i] > threshold else np.uint16(0)
        counts[:] = 0
        for i in range(count // 2):
            counts[0, keys[2 * i]] += 1
            counts[1, keys[2 * i + 1]] += 1
        if count % 2:
            counts[0, keys[count - 1]] += 1
        right[:] = 0
        for s in range(steps - 1, -1, -1):
            size, heavy, light, parts = 0, 0.0, 0.0, 0.0
            for k in range(classes):
                place = (s + 1) * classes + k
                right[k] += counts[0, place] + counts[1, place]
                size += right[k]
                mass, rest = right[k] * weights[k], (whole[k] - right[k]) * weights[k]
                heavy += mass
                light += rest
                if mass > 0:
                    parts -= mass * np.log(mass)
                if rest > 0:
                    parts -= rest * np.log(rest)
            gains[s] = -1.0
            if min(size, count - size) >= LEAST:
                gains[s] = (impurity - parts - heavy * np.log(heavy) - light * np.log(light)) / total
        for s in range(steps):
            if gains[s] > best_gain:
                best_gain, best_test, best_threshold = gains[s], tests[t], thresholds[s]
    return best_gain, best_test, best_threshold
