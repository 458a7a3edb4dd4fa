"""The two forests of a texton forest as arrays in buffers, and what must hold for a pixel to find its leaf."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from perpixel.classical.texton_growth import Grown
from perpixel.errors import InputError


class Trees(nn.Module):
    """A forest in buffers: N nodes of all trees, `columns` numbers that say what each node tests, K classes.

    Node numbers grow from parent to child. A leaf is its own child, a root its own parent.

    Args:
        depth: that no tree exceeds.
    """

    splits: Tensor  # (N, columns) int16
    thresholds: Tensor  # (N,) int32
    below: Tensor  # (N, 2) int32, the children
    parents: Tensor  # (N,) int32
    probs: Tensor  # (N, K) float32, of inner nodes too
    roots: Tensor  # (T,) int32

    def __init__(self, columns: int, num_classes: int, depth: int) -> None:
        super().__init__()
        self.depth = depth
        self.register_buffer("splits", torch.zeros(0, columns, dtype=torch.int16))
        self.register_buffer("thresholds", torch.zeros(0, dtype=torch.int32))
        self.register_buffer("below", torch.zeros(0, 2, dtype=torch.int32))
        self.register_buffer("parents", torch.zeros(0, dtype=torch.int32))
        self.register_buffer("probs", torch.zeros(0, num_classes))
        self.register_buffer("roots", torch.zeros(0, dtype=torch.int32))

    @property
    def is_grown(self) -> bool:
        """Whether there is a tree."""
        return len(self.roots) > 0

    def store(self, grown: Grown, splits: np.ndarray, probs: np.ndarray) -> None:
        """Take a grown forest; splits (tests of the pool, columns), probs (N, K)."""
        parents = np.arange(len(grown.tests))
        inner = np.flatnonzero(grown.children[:, 0] != parents)
        parents[grown.children[inner].T] = inner
        made = {
            "splits": splits[grown.tests], "thresholds": grown.thresholds, "below": grown.children,
            "parents": parents, "probs": probs, "roots": grown.roots,
        }  # fmt: skip
        for name, values in made.items():
            own = getattr(self, name)
            setattr(self, name, torch.from_numpy(np.ascontiguousarray(values)).to(own.dtype).to(own.device))

    def descend(self, node: Tensor, value_of: Callable[[Tensor], Tensor]) -> Tensor:
        """Leaves that pixels at `node` (int64) reach; value_of: splits (..., columns) int64 -> values (...)."""
        splits, children = self.splits.long(), self.below.long()
        for _ in range(self.depth):
            right = value_of(splits[node]) > self.thresholds[node]
            node = children[node].gather(-1, right.long().unsqueeze(-1)).squeeze(-1)
        return node

    def mean_probs(self, leaves: Tensor) -> Tensor:
        """(T, H, W) leaves -> (K, H, W) mean over the trees of the class distributions there."""
        # Tree after tree, as the compiled form adds them: the sums are the same to the last bit.
        total = self.probs[leaves[0].long()]
        for leaf in leaves[1:]:
            total = total + self.probs[leaf.long()]
        return (total / len(leaves)).permute(2, 0, 1)

    def depths(self) -> Tensor:
        """(N,) int64: 0 at the roots."""
        node = torch.arange(len(self.parents), device=self.parents.device)
        parents, depths = self.parents.long(), torch.zeros_like(node)
        for _ in range(self.depth):
            depths = depths + (parents[node] != node)
            node = parents[node]
        return depths


def check_trees(given: dict[str, Tensor], depth: int, what: str) -> None:
    """Refuse arrays in which a pixel could get lost: all of `Trees`, by name.

    Raises:
        InputError: sizes differ, children that are not after their parent or have two, too deep, no distributions.
    """
    count, roots = len(given["thresholds"]), given["roots"].numpy()
    if any(len(given[name]) != count for name in ("splits", "below", "parents", "probs")) or not len(roots):
        raise _damaged(what, "its arrays are of different lengths")
    children, own = given["below"].numpy().astype(np.int64), np.arange(count)
    is_leaf = (children == own[:, None]).all(1)
    inner = np.flatnonzero(~is_leaf)
    if (children[inner] <= inner[:, None]).any() or (children >= count).any():
        raise _damaged(what, "a child does not come after its parent, or does not exist")
    parents = own.copy()
    parents[children[inner].T] = inner
    given_roots = np.unique(roots)
    is_tree = np.bincount(children[inner].reshape(-1), minlength=count) + np.isin(own, given_roots) == 1
    if not is_tree.all() or len(given_roots) != len(roots) or not np.array_equal(parents, given["parents"].numpy()):
        raise _damaged(what, "its nodes form no trees")
    at = own
    for _ in range(depth):
        at = parents[at]
    if (parents[at] != at).any():
        raise _damaged(what, f"a tree is deeper than {depth}, the depth that its options say")
    probs = given["probs"]
    if not (torch.isfinite(probs).all() and (probs >= 0).all() and ((probs.sum(1) - 1).abs() < 1e-3).all()):
        raise _damaged(what, "class distributions are negative, NaN, or do not add up to 1")


def _damaged(what: str, why: str) -> InputError:
    return InputError(f"{what} of a texton forest: {why}: the file is damaged, train again or fetch it anew")
