"""The permutohedral lattice as its paper words it, in plain Python: what the fast forms are held to exactly."""

from __future__ import annotations

import math

import numpy as np


def place(feature: np.ndarray) -> np.ndarray:
    """(d,) -> (d + 1,) coordinates that add up to zero; the column j of the basis is (1, ..., 1, -j, 0, ..., 0)."""
    d = len(feature)
    result = np.zeros(d + 1)
    for j in range(1, d + 1):
        column = np.array([1.0] * j + [-j] + [0.0] * (d - j))
        result += feature[j - 1] * column / math.sqrt(j * (j + 1))
    return result * math.sqrt(2 / 3) * (d + 1)


def corners(feature: np.ndarray) -> list[tuple[tuple[int, ...], float]]:
    """The d + 1 lattice points around a feature, and its barycentric weights."""
    point = place(feature)
    size = len(point)
    base = np.round(point / size) * size
    while (excess := round(base.sum() / size)) != 0:
        # Move the coordinates that were rounded furthest the wrong way.
        step = -size if excess > 0 else size
        order = np.argsort(point - base) if excess > 0 else np.argsort(base - point)
        base[order[: abs(excess)]] += step
    rest = point - base
    order = sorted(range(size), key=lambda i: -rest[i])
    descending = rest[order]
    found = []
    for k in range(size):
        key = base + k
        key[order[size - k :]] -= size
        weight = (descending[size - 1 - k] - descending[size - k]) / size if k else 0.0
        found.append((tuple(int(value) for value in key), float(weight)))
    found[0] = (found[0][0], 1 - sum(weight for _, weight in found[1:]))
    return found


def lattice_filter(features: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Splat, blur along each direction by (1/2, 1, 1/2), slice: (N, d), (N, K) -> (N, K), times 1 / (1 + 2^-d)."""
    d = features.shape[1]
    cells = [corners(feature) for feature in features]
    table: dict[tuple[int, ...], np.ndarray] = {}
    for cell, value in zip(cells, values):
        for key, weight in cell:
            table[key] = table.get(key, 0) + weight * value
    for axis in range(d + 1):
        step = np.ones(d + 1, int)
        step[axis] = -d
        nothing = np.zeros(values.shape[1])
        table = {
            key: value
            + 0.5 * table.get(tuple(int(v) for v in key + step), nothing)
            + 0.5 * table.get(tuple(int(v) for v in key - step), nothing)
            for key, value in table.items()
        }
    sliced = [sum(weight * table[key] for key, weight in cell) for cell in cells]
    return np.array(sliced) / (1 + 2.0**-d)
