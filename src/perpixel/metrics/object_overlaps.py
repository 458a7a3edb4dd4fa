"""IoU of pairs of objects, and their sums as whole numbers, which add up exactly in any order."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

# A ratio is stored as a whole multiple of this: sums of up to 2^31 ratios fit, each exact to ten digits.
SHARE_UNIT = 2**-32


def union_ratios(shared: Any, ours: Any, theirs: Any) -> Floats:
    """Shared pixels over pixels in either; 0 where both are empty."""
    union = np.asarray(ours + theirs - shared, np.float64)
    return np.divide(shared, union, out=np.zeros(union.shape), where=union > 0)


def crowd_ratios(rows: Ints, cols: Ints, shared: Ints, ours: Ints, theirs: Ints, crowd: NDArray[np.bool_]) -> Floats:
    """IoU of each pair; with a crowd the share of the predicted object that lies in it."""
    union = np.where(crowd[cols], ours[rows], ours[rows] + theirs[cols] - shared)
    return shared / union


def to_units(ratios: Floats) -> Ints:
    """Ratios of 0..1 as whole multiples of SHARE_UNIT."""
    return np.rint(np.asarray(ratios) / SHARE_UNIT).astype(np.int64)


def best_pairs(rows: Ints, cols: Ints, ratios: Floats) -> Ints:
    """Pairs (places in the lists) that use each object once, as many as can be, and of these with the highest sum.

    Args:
        rows, cols: the objects of each candidate pair; no pair twice.
        ratios: their IoU, above 0.
    """
    # One more pair is worth more than any gain in the ratios of all.
    most = max(1, min(len(np.unique(rows)), len(np.unique(cols))))
    return assign(rows, cols, 1 + np.asarray(ratios) / (2 * most))


def assign(rows: Ints, cols: Ints, gains: Floats) -> Ints:
    """Pairs (places in the lists, rising) that use each object once, with the highest sum of gains, all above 0."""
    if len(np.unique(rows)) == len(rows) and len(np.unique(cols)) == len(cols):
        return np.arange(len(rows))
    # Both take a tenth of a second to import.
    from scipy.optimize import linear_sum_assignment
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    row_ids, row = np.unique(rows, return_inverse=True)
    col_ids, col = np.unique(cols, return_inverse=True)
    size = len(row_ids) + len(col_ids)
    graph = coo_matrix((np.ones(len(rows), np.int8), (row, col + len(row_ids))), shape=(size, size))
    group = connected_components(graph, directed=False)[1][row]
    order = np.argsort(group, kind="stable")
    chosen = []
    for places in np.split(order, np.flatnonzero(np.diff(group[order])) + 1):
        if len(places) == 1:
            chosen.append(places)
            continue
        own_rows, own_row = np.unique(row[places], return_inverse=True)
        own_cols, own_col = np.unique(col[places], return_inverse=True)
        gain = np.zeros((len(own_rows), len(own_cols)))
        gain[own_row, own_col] = gains[places]
        place = np.full(gain.shape, -1, np.int64)
        place[own_row, own_col] = places
        found = place[linear_sum_assignment(gain, maximize=True)]
        chosen.append(found[found >= 0])
    return np.sort(np.concatenate(chosen))
