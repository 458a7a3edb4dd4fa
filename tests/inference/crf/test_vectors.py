"""The row operations against NumPy, at the ends of their ranges too."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import pytest

from perpixel.inference.crf import vectors
from perpixel.inference.crf.vectors import LANES, OUTPUTS

WIDTH = 28  # three blocks of eight numbers and one of four


def row(seed: int = 0, length: int = WIDTH) -> Any:
    return np.random.default_rng(seed).normal(size=length).astype(np.float32)


@numba.njit
def softmax(target: Any) -> None:
    vectors.softmax_row(target, np.int64(0), np.int64(len(target)))


@numba.njit
def log(target: Any, least: Any) -> None:
    vectors.log_row(target, np.int64(0), least, np.int64(len(target)))


@numba.njit
def rows(a: Any, b: Any, ids: Any, weights: Any, out: Any, width: Any) -> None:
    vectors.copy_row(out, np.int64(0), a, np.int64(0), width)
    vectors.add_row(out, np.int64(0), np.float32(2.5), b, width, width)
    vectors.scale_row(out, np.int64(0), np.float32(-3.0), width)
    vectors.add_gathered(out, np.int64(0), np.float32(0.5), b, ids, weights, np.int64(1), np.int64(2), width)
    vectors.blur_row(out, b, width, np.int64(0), 2 * width, width)
    vectors.clear_row(out, 2 * width, width)


@numba.njit
def filters(source: Any, taps: Any, radius: Any, stride: Any, out: Any) -> None:
    vectors.filter_4x16(out, np.int64(0), stride, source, np.int64(0), stride, taps, radius)
    vectors.filter_4x8(out, np.int64(16), stride, source, np.int64(16), stride, taps, radius)
    vectors.filter_4x4(out, np.int64(24), stride, source, np.int64(24), stride, taps, radius)
    vectors.filter_1x4(out, 4 * stride, stride, source, 4 * stride, stride, taps, radius)


@pytest.mark.parametrize("width", [4, 8, 12, 28])
def test_softmax_is_exact_to_single_precision(width: int) -> None:
    logits = row(length=width) * 8
    got = logits.copy()
    softmax(got)
    expected = np.exp(logits.astype(np.float64) - logits.max())
    expected /= expected.sum()
    assert got == pytest.approx(expected, rel=2e-6)


def test_softmax_at_the_ends() -> None:
    logits = np.array([0, -10, -59, -61, -200, -1e30, 3e38, -3e38], np.float32)
    for start, expected in ((0, [0, 0, 0, 0, 0, 0, 1, 0]), (-1, None)):
        got = logits.copy() if start == 0 else np.where(logits > 1e30, 0, logits).astype(np.float32)
        softmax(got)
        assert np.isfinite(got).all()
        if expected:
            assert got.tolist() == expected
        else:
            assert got[:2] == pytest.approx([0.5, 0.5 * np.exp(-10)], rel=1e-4)
            assert 0 < got[2] < 1e-25 and (got[3:6] == 0).all()
    large = np.full(LANES, 5e37, np.float32)
    softmax(large)
    assert large == pytest.approx(1 / LANES)


def test_log_is_exact_to_single_precision() -> None:
    values = np.concatenate([np.float32(10.0) ** np.linspace(-30, 30, 5 * LANES, dtype=np.float32), [1, 0.5, 2, 0]])
    values = np.concatenate([values, np.linspace(0.7, 1.4, 4)]).astype(np.float32)
    got = values.copy()
    log(got, np.float32(1e-35))
    expected = np.log(np.maximum(values, np.float32(1e-35)).astype(np.float64))
    assert got == pytest.approx(expected, rel=1e-6, abs=1e-7)


def test_rows_are_added_gathered_blurred() -> None:
    a, b, weights = row(1), row(2, 3 * WIDTH), row(3, 4)
    ids, out = np.array([9, 2, 0, 9], np.int32), np.ones(3 * WIDTH, np.float32)
    rows(a, b, ids, weights, out, np.int64(WIDTH))
    first, second, third = b.reshape(3, WIDTH)
    expected = -3 * (a + 2.5 * second) + 0.5 * (weights[1] * third + weights[2] * first)
    assert out[:WIDTH] == pytest.approx(expected, rel=1e-5, abs=1e-5)
    assert out[WIDTH : 2 * WIDTH] == pytest.approx(second + 0.5 * (first + third), rel=1e-5, abs=1e-6)
    assert (out[2 * WIDTH :] == 0).all()


@pytest.mark.parametrize("radius", [0, 1, 5])
def test_filters_along_an_axis(radius: int) -> None:
    window = row(4, 2 * radius + 1)
    source = row(5, (OUTPUTS + 1 + 2 * radius) * WIDTH).reshape(-1, WIDTH)
    out = np.zeros((OUTPUTS + 1, WIDTH), np.float32)
    taps = np.pad(window, OUTPUTS - 1).astype(np.float32)
    filters(source.reshape(-1), taps, np.int64(radius), np.int64(WIDTH), out.reshape(-1))
    full = np.stack([(window[:, None] * source[i : i + 2 * radius + 1]).sum(0) for i in range(OUTPUTS + 1)])
    assert out[:OUTPUTS] == pytest.approx(full[:OUTPUTS], rel=1e-4, abs=1e-5)
    assert out[OUTPUTS, :LANES] == pytest.approx(full[OUTPUTS, :LANES], rel=1e-4, abs=1e-5)
