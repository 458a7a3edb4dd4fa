"""Label maps: resize, outlines, numbering."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perpixel.labels import boundaries, connected_components, relabel_sequential, resize_label_map

SIDE = st.integers(1, 40)


@given(SIDE, SIDE, SIDE, SIDE, st.sampled_from([np.uint8, np.uint16, np.int32, np.int64]))
def test_resizing_invents_no_value(rows: int, cols: int, high: int, wide: int, dtype: type) -> None:
    label_map = np.random.default_rng(rows * cols).choice([0, 3, 77, 255], (rows, cols)).astype(dtype)
    resized = resize_label_map(label_map, (high, wide))
    assert resized.shape == (high, wide) and resized.dtype == dtype
    assert set(np.unique(resized)) <= set(np.unique(label_map))


@pytest.mark.parametrize("dtype", [np.uint8, np.int32])
def test_whole_factors(dtype: type) -> None:
    label_map = np.array([[1, 2], [3, 4]], dtype)
    large = resize_label_map(label_map, (6, 6))
    assert np.array_equal(large, np.kron(label_map, np.ones((3, 3), dtype)))
    assert np.array_equal(resize_label_map(large, (2, 2)), label_map)


def test_boundaries_by_hand() -> None:
    label_map = np.array([[0, 0, 0, 0], [0, 0, 5, 0], [0, 0, 0, 0]])
    assert boundaries(label_map).astype(int).tolist() == [[0, 0, 1, 0], [0, 1, 1, 1], [0, 0, 1, 0]]
    assert not boundaries(np.ones((3, 3), int)).any()
    assert not boundaries(np.ones((1, 1), int)).any()


def test_relabelling_by_hand() -> None:
    found = relabel_sequential(np.array([[0, 9], [40, 9]]))
    assert found.dtype == np.int32 and found.tolist() == [[0, 1], [2, 1]]
    assert relabel_sequential(np.array([[7, 9]])).tolist() == [[1, 2]]
    assert relabel_sequential(np.zeros((2, 2), int)).tolist() == [[0, 0], [0, 0]]


def test_components_touching_at_corners() -> None:
    mask = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 0], [0, 0, 1]], bool)
    assert connected_components(mask)[1] == 2
    numbered, count = connected_components(mask, diagonal=False)
    assert count == 3 and numbered.dtype == np.int32
    assert numbered[mask].tolist() == [1, 2, 3] and not numbered[~mask].any()
