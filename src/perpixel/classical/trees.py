"""A forest as arrays: taken over from scikit-learn, checked, and asked for probabilities.

Every tree is written level by level, the two children of a node side by side; trees follow each other:

    node         0      1    2      3    4         child of inner node n: the first of its two, counted from the root
    is           inner  leaf inner  leaf leaf      of the whole forest's array; of a leaf: -1 - row of the table
    child        1      -1   3      -2   -1        x <= threshold goes to the first, x > threshold to the second

So the children of the k-th inner node of a tree stand at 1 + 2 k and 2 + 2 k: whether a file's arrays are a forest is
one comparison, and a walk through arrays that pass it must end.

Leaves say with which probability a pixel is of which class; distributions that occur more than once are stored once.
Probabilities are averaged in whole numbers of 2^31 / trees steps (an error below 1e-7 at 100 trees), so that neither
the order of the trees nor the number of threads matters.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from perpixel.compiled import can_compile
from perpixel.errors import InputError

# Numbers (trees x pixels) that the torch form holds at a time.
_AT_ONCE = 1 << 22
# How far a stored distribution's sum may lie from one.
_SUM_TOLERANCE = 1e-3


class Trees(NamedTuple):
    """M nodes of T trees over F features, and R distributions over K classes. See the module for what they mean.

    Attributes:
        feature: (M,) int16; 0 at a leaf.
        threshold: (M,) float32; 0 at a leaf.
        child: (M,) int32.
        roots: (T,) int32, ascending from 0.
        table: (R, K) float32, rows that sum to one.
    """

    feature: np.ndarray
    threshold: np.ndarray
    child: np.ndarray
    roots: np.ndarray
    table: np.ndarray

    @property
    def units(self) -> int:
        """What a probability of one counts for in the sum over the trees."""
        return (2**31 - 1) // len(self.roots)

    @property
    def depth(self) -> int:
        """Tests on the longest way from a root to a leaf."""
        deepest, nodes = 0, self.roots.astype(np.int64)
        while len(nodes := self.child[nodes][self.child[nodes] >= 0].astype(np.int64)):
            deepest, nodes = deepest + 1, np.concatenate([nodes, nodes + 1])
        return deepest

    def counted_table(self) -> np.ndarray:
        """(R, K) int32: the table in units."""
        return np.rint(self.table.astype(np.float64) * self.units).astype(np.int32)

    def evaluate(self, features: np.ndarray) -> np.ndarray:
        """Class probabilities.

        Args:
            features: (F, N) float32. NaN goes to the first child.
        Returns:
            (K, N) float32, the mean over the trees.
        """
        if can_compile():
            from perpixel.classical.tree_walk import PackedTrees

            sums = PackedTrees(self).walk(features)
        else:
            sums = walk_tensors(self.tensors("cpu"), torch.from_numpy(features)).numpy()
        return (sums / (float(self.units) * len(self.roots))).astype(np.float32)

    def tensors(self, device: torch.device | str) -> TreeTensors:
        """The form in which torch walks through them."""
        return tree_tensors(*(torch.from_numpy(each).to(device) for each in self), depth=self.depth)


class TreeTensors(NamedTuple):
    """What `walk_tensors` takes: the depth, arrays of nodes (M,), roots (T,), and the table (R, K) in units."""

    depth: int
    feature: Tensor
    limits: Tensor
    onward: Tensor
    roots: Tensor
    rows: Tensor
    table: Tensor


def tree_tensors(
    feature: Tensor, threshold: Tensor, child: Tensor, roots: Tensor, table: Tensor, *, depth: int
) -> TreeTensors:
    """What `walk_tensors` takes, from the arrays of `Trees` as tensors; traceable."""
    leaf, index = child < 0, torch.arange(len(child), device=child.device)
    units = (2**31 - 1) // len(roots)
    return TreeTensors(
        depth,
        feature.long(),
        torch.where(leaf, torch.inf, threshold),  # nothing is above: a leaf leads to itself
        torch.where(leaf, index, child.long()),
        roots.long(),
        torch.where(leaf, -1 - child.long(), 0),
        (table.double() * float(units)).round().int(),
    )


def from_sklearn(forest: Any, num_classes: int) -> Trees:
    """The trees of a fitted RandomForestClassifier whose classes are ids 0..num_classes - 1, not all of them perhaps.

    A float32 feature meets each threshold as it meets scikit-learn's float64 one.
    """
    parts = [_level_by_level(each.tree_) for each in forest.estimators_]
    sizes = [len(part[0]) for part in parts]
    roots = np.cumsum([0, *sizes[:-1]])
    feature, threshold, child, values = (np.concatenate(column) for column in zip(*parts))
    child = np.where(child >= 0, child + np.repeat(roots, sizes), child)
    leaf = child < 0
    shares = np.zeros((int(leaf.sum()), num_classes))
    shares[:, np.asarray(forest.classes_, np.int64)] = values[leaf] / values[leaf].sum(1, keepdims=True)
    table, rows = _distinct(shares.astype(np.float32))
    child[leaf] = -1 - rows
    return Trees(
        np.where(leaf, 0, feature).astype(np.int16), np.where(leaf, 0, _down(threshold)).astype(np.float32),
        child.astype(np.int32), roots.astype(np.int32), table,
    )  # fmt: skip


def _level_by_level(tree: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """feature, threshold, child (from the tree's own root; -1 at leaves), values of one scikit-learn tree."""
    left, right = tree.children_left, tree.children_right
    levels = [np.zeros(1, np.int64)]
    while len(inner := levels[-1][left[levels[-1]] >= 0]):
        levels.append(np.stack([left[inner], right[inner]], 1).ravel())
    order = np.concatenate(levels)
    is_inner = left[order] >= 0
    child = np.where(is_inner, 2 * np.cumsum(is_inner) - 1, -1)
    return tree.feature[order], tree.threshold[order], child, tree.value[order, 0]


def _down(threshold: np.ndarray) -> np.ndarray:
    """The largest float32 that is no larger: every float32 lies on the same side of both."""
    nearest = threshold.astype(np.float32)
    return np.where(nearest > threshold, np.nextafter(nearest, np.float32(-np.inf)), nearest)


def _distinct(shares: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows that occur, each once, and the row of each: first the K pure ones, which most leaves of full trees have."""
    pure = np.eye(shares.shape[1], dtype=np.float32)
    is_pure = shares.max(1) == 1
    mixed, rows = np.unique(shares[~is_pure], axis=0, return_inverse=True)
    number = shares.argmax(1)
    number[~is_pure] = len(pure) + rows.reshape(-1)
    return np.concatenate([pure, mixed]), number


def check_trees(trees: Trees, num_features: int, num_classes: int, source: str) -> None:
    """Refuse arrays that are no forest, before anything walks through them.

    Raises:
        InputError: what is wrong, `source`, and what to do.
    """
    problem = _problem(trees, num_features, num_classes)
    if problem:
        raise InputError(f"{source}: {problem}: the file is damaged or of another forest; train or fetch it again")


def _problem(trees: Trees, num_features: int, num_classes: int) -> str | None:
    feature, threshold, child, roots, table = trees
    size = len(child)
    shapes = [each.shape for each in (feature, threshold, child)]
    if any(shape != (size,) for shape in shapes) or roots.ndim != 1 or table.ndim != 2:
        return f"feature, threshold, child, roots, table have shapes {[*shapes, roots.shape, table.shape]}"
    if table.shape[1] != num_classes:
        return f"leaves speak of {table.shape[1]} classes, not of {num_classes}"
    if len(roots) == 0 or roots[0] != 0 or (np.diff(roots) < 1).any() or roots[-1] >= size:
        return f"roots are no ascending positions from 0 to below {size}"
    sums = table.sum(1, dtype=np.float64)
    if not (len(table) and (table >= 0).all() and (np.abs(sums - 1) < _SUM_TOLERANCE).all()):
        return "leaves hold something other than probabilities"
    inner = child >= 0
    if (child[~inner] < -len(table)).any():
        return f"a leaf points beyond the {len(table)} distributions"
    if (feature < 0).any() or (feature >= num_features).any():  # at leaves too: the walk reads them
        return f"a test reads a feature outside 0..{num_features - 1}"
    if not np.isfinite(threshold[inner]).all():
        return "a threshold is not finite"
    ends = np.append(roots[1:], size)
    own = np.repeat(np.arange(len(roots)), ends - roots)
    before: np.ndarray = np.cumsum(inner) - inner  # inner nodes that stand before each node, in the whole forest
    wanted = roots[own] + 1 + 2 * (before - before[roots][own])
    count = np.add.reduceat(inner.astype(np.int64), roots)
    if (child[inner] != wanted[inner]).any() or (wanted <= np.arange(size))[inner].any() or (
        ends - roots != 1 + 2 * count
    ).any():  # fmt: skip
        return "children are not where a tree that is written level by level has them"
    return None


def walk_tensors(trees: TreeTensors, features: Tensor) -> Tensor:
    """What the compiled walk gives, in plain torch: some trees at a time, all pixels one level down at a time.

    Args:
        features: (F, N) float32.
    Returns:
        (K, N) int32, the sums over the trees.
    """
    count = features.shape[1]
    group = _group(len(trees.roots), count)
    total = torch.zeros((trees.table.shape[1], count), dtype=torch.int32, device=features.device)
    for first in range(0, len(trees.roots), group):
        nodes = trees.roots[first : first + group, None].expand(-1, count)
        for _ in range(trees.depth):
            values = features.gather(0, trees.feature[nodes])
            nodes = trees.onward[nodes] + (values > trees.limits[nodes]).long()
        total = total + trees.table[trees.rows[nodes]].sum(0, dtype=torch.int32).T
    return total


def _group(trees: int, pixels: int) -> int:
    """How many trees are walked through together."""
    if torch.compiler.is_compiling():  # the number of pixels is not known: as few steps as can be written down
        return trees
    return max(1, min(trees, _AT_ONCE // max(pixels, 1)))
