"""The compiled lattice is the dictionary's, whatever the features; keys are one to one."""

from __future__ import annotations

import numpy as np
import pytest

from inference.crf.lattice_by_dictionary import corners, lattice_filter, place
from perpixel.compiled import Workers
from perpixel.inference.crf.coordinates import Keys, elevation, slice_factor
from perpixel.inference.crf.lattice import Lattice, blur, build_lattice, filter_ones


def built(features: np.ndarray, parts: int = 1, threads: int = 1) -> tuple[Lattice, np.ndarray]:
    edges = np.linspace(0, len(features), parts + 1).astype(np.int64)
    columns = np.ascontiguousarray(features.T, np.float32)
    keys = Keys.within(features.min(0), features.max(0))
    with Workers(threads) as workers:
        lattice = build_lattice(lambda a, b: np.ascontiguousarray(columns[:, a:b]), keys, edges, workers)
        return lattice, filter_ones(lattice, len(features), edges, workers)


def filtered(lattice: Lattice, values: np.ndarray) -> np.ndarray:
    """Splat by NumPy, blur by the compiled loops, slice by NumPy: (N, K) -> (N, K)."""
    count, labels = values.shape
    rows = max(len(lattice.points), lattice.size + 1)
    partial = np.zeros((rows, 8), np.float32)
    weights, ids = lattice.weights.reshape(count, -1), lattice.ids.reshape(count, -1)
    for corner in range(ids.shape[1]):
        np.add.at(partial[:, :labels], ids[:, corner], weights[:, corner, None] * values)
    table = np.empty((lattice.size + 1) * 8, np.float32)
    with Workers(1) as workers:
        sums = blur(lattice, partial.reshape(-1), table, 8, workers).reshape(-1, 8)
    return (weights[..., None] * sums[lattice.points[ids], :labels]).sum(1) * slice_factor(ids.shape[1] - 1)


def random_features(count: int, d: int, spread: float, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(scale=spread, size=(count, d)).astype(np.float32).astype(np.float64)


@pytest.mark.parametrize("d", [1, 2, 4, 5, 9])
@pytest.mark.parametrize("spread", [0.2, 3.0])
def test_filter_is_the_dictionary_s(d: int, spread: float) -> None:
    features = random_features(150, d, spread)
    values = np.random.default_rng(1).random((150, 3)).astype(np.float32)
    lattice, ones = built(features)
    assert np.allclose(filtered(lattice, values), lattice_filter(features, values), rtol=1e-4, atol=1e-5)
    expected = lattice_filter(features, np.ones((150, 1)))[:, 0]
    assert np.allclose(ones * slice_factor(d), expected, rtol=1e-4)


def test_points_and_weights_by_hand() -> None:
    # In one dimension x lies at (a, -a) with a = 2 x / sqrt(3), and the lattice has the points (n, -n).
    spacing = np.sqrt(3) / 2
    assert place(np.array([spacing])) == pytest.approx([1, -1])
    lattice, ones = built(np.array([[0.0], [0.25 * spacing]]))
    assert lattice.size == 2
    assert lattice.weights.reshape(2, 2).max(1) == pytest.approx([1, 0.75], abs=1e-6)
    # Sums of weights 1.75 and 0.25; blurred twice by (1/2, 1, 1/2): 1.75 + 0.125 = 1.875 and 0.25 + 0.875 = 1.125, then
    # 1.875 + 0.5625 = 2.4375 and 1.125 + 0.9375 = 2.0625.
    assert ones == pytest.approx([2.4375, 0.75 * 2.4375 + 0.25 * 2.0625], abs=1e-5)


@pytest.mark.parametrize("parts", [2, 7])
def test_parts_and_threads_change_nothing(parts: int) -> None:
    features = random_features(400, 4, 1.0)
    values = np.random.default_rng(1).random((400, 5)).astype(np.float32)
    whole, ones = built(features)
    parted, parted_ones = built(features, parts, threads=2)
    assert parted.size == whole.size
    assert np.allclose(parted_ones, ones, rtol=1e-5)
    assert np.allclose(filtered(parted, values), filtered(whole, values), rtol=1e-4, atol=1e-6)


def test_tables_grow() -> None:
    # Points far apart share no corner: 6 x 3000 of them, far more than the first table holds.
    features = random_features(3000, 5, 200.0)
    lattice, ones = built(features)
    assert lattice.size == 6 * 3000
    one = np.array([sum(weight * weight for _, weight in corners(feature)) for feature in features[:20]])
    assert (ones[:20] >= one - 1e-3).all()


@pytest.mark.parametrize(("d", "reach"), [(2, 10), (5, 300), (5, 3.0), (12, 50)])
def test_keys_tell_points_apart(d: int, reach: float) -> None:
    """Random corners and their neighbours: as many keys as points, whether by mixed radix or modulo 2^64."""
    features = random_features(300, d, reach / 4)
    keys = Keys.within(features.min(0), features.max(0))
    points = {corner for feature in features for corner, _ in corners(feature)}
    for axis in range(d + 1):
        step = np.ones(d + 1, int)
        step[axis] = -d
        points |= {tuple(int(v) for v in np.array(point) + step) for point in list(points)[:200]}
    with np.errstate(over="ignore"):
        values = {int((np.array(point, np.int64) * keys.strides).sum()) for point in points}
    assert len(values) == len(points)
    assert (keys.strides[-1] == 0) == (d < 12)


def test_elevation_is_an_isometry_times_its_scale() -> None:
    for d in (1, 3, 5):
        matrix = elevation(d)
        assert np.allclose(matrix.sum(0), 0)
        assert np.allclose(matrix.T @ matrix, np.eye(d) * (np.sqrt(2 / 3) * (d + 1)) ** 2)
