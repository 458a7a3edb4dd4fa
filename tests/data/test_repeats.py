"""Repeat factors by hand, and passes that keep them."""

from __future__ import annotations

import numpy as np
import pytest

from perpixel.data.repeats import pass_length, pass_order, repeat_factors


def test_factors_by_hand() -> None:
    # Class 0 in all four images, 1 in two, 2 in one.
    classes_of = [[0], [0, 1], [1, 0], [0, 2]]
    np.testing.assert_allclose(repeat_factors(classes_of, threshold=0.5), [1, 1, 1, np.sqrt(0.5 / 0.25)])
    np.testing.assert_allclose(repeat_factors(classes_of, threshold=1), [1, np.sqrt(2), np.sqrt(2), 2])
    assert repeat_factors(classes_of, threshold=0).tolist() == [1, 1, 1, 1]
    assert repeat_factors([[], [3, 3], []], threshold=1).tolist() == [1, np.sqrt(3), 1]


def test_factors_of_one_show_each_image_once_in_the_order_of_a_plain_permutation() -> None:
    order = pass_order(np.ones(7), seed=3, epoch=2)
    assert order.tolist() == np.random.default_rng([3, 0, 2]).permutation(7).tolist()


@pytest.mark.parametrize("seed", [0, 1])
def test_passes_have_one_length_and_meet_the_factors(seed: int) -> None:
    factors = np.array([1.0, 2.5, 1.2, 1.0, 3.0, 1.05])
    assert pass_length(factors) == 10
    passes = [pass_order(factors, seed=seed, epoch=epoch) for epoch in range(400)]
    counts = np.array([np.bincount(order, minlength=6) for order in passes])
    assert (counts.sum(axis=1) == 10).all()
    assert (counts >= 1).all() and (counts <= np.ceil(factors * 10 / factors.sum())).all()
    np.testing.assert_allclose(counts.mean(axis=0), factors * 10 / factors.sum(), atol=0.1)
    assert (passes[0] != passes[1]).any()


def test_the_sum_of_many_factors_stays_exact() -> None:
    factors = repeat_factors([[0, 1 + i % 97] for i in range(20_000)], threshold=0.5)
    order = pass_order(factors, seed=0, epoch=0)
    assert len(order) == pass_length(factors) and set(order.tolist()) == set(range(20_000))
