from __future__ import annotations

import numpy as np
import pytest

from perpixel.errors import InputError
from perpixel.metrics import STATISTICS, bootstrap, bootstrap_intervals, bootstrap_sums, compute_scores


def matrices(images: int, classes: int = 3, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 30, (images, classes, classes)) + rng.integers(0, 90, (images, 1, 1)) * np.eye(
        classes, dtype=int
    )


def test_it_is_what_drawing_images_one_by_one_gives() -> None:
    counts = matrices(20)
    rng = np.random.default_rng(1)
    drawn = [compute_scores(counts[rng.integers(0, 20, 20)].sum(0)).miou for _ in range(3000)]
    low, high = bootstrap_intervals(counts, statistics=["miou"], resamples=3000)["miou"]
    np.testing.assert_allclose([low, high], np.quantile(drawn, [0.025, 0.975]), atol=0.006)


def test_the_interval_holds_the_score_and_narrows_with_more_images() -> None:
    widths = []
    for images in (10, 200):
        counts = matrices(images)
        intervals = bootstrap_intervals(counts, resamples=300)
        assert list(intervals) == list(STATISTICS)
        scores = compute_scores(counts.sum(0))
        for name, (low, high) in intervals.items():
            assert low <= getattr(scores, name) <= high
        widths.append(intervals["miou"][1] - intervals["miou"][0])
    assert widths[1] < widths[0] / 2


def test_a_wider_confidence_is_a_wider_interval() -> None:
    counts = matrices(15)
    narrow = bootstrap_intervals(counts, confidence=0.5)["miou"]
    wide = bootstrap_intervals(counts, confidence=0.99)["miou"]
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


def test_same_seed_same_interval_whatever_the_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = matrices(8)
    first = bootstrap_intervals(counts, resamples=50, seed=3)
    monkeypatch.setattr(bootstrap, "_CHUNK_BYTES", 1000)
    assert bootstrap_intervals(counts, resamples=50, seed=3) == first
    assert bootstrap_intervals(counts, resamples=50, seed=4) != first


def test_class_statistics_give_an_interval_a_class() -> None:
    counts = matrices(12)
    counts[:, 2] = counts[:, :, 2] = 0
    low, high = bootstrap_intervals(counts, statistics=["iou"], resamples=100)["iou"]
    scores = compute_scores(counts.sum(0))
    assert (low[:2] <= scores.iou[:2]).all() and (scores.iou[:2] <= high[:2]).all()
    assert np.isnan([low[2], high[2]]).all()


def test_a_class_in_one_image_alone_does_not_break_it() -> None:
    counts = matrices(10)
    counts[1:, 2] = counts[1:, :, 2] = 0
    low, high = bootstrap_intervals(counts, statistics=["accuracy"], resamples=100)["accuracy"]
    expected = compute_scores(counts[0]).accuracy[2]
    assert low[2] == pytest.approx(expected) and high[2] == pytest.approx(expected)


def test_one_image_has_no_spread() -> None:
    counts = matrices(1)
    low, high = bootstrap_intervals(counts)["miou"]
    assert low == high == pytest.approx(compute_scores(counts[0]).miou)


def test_images_of_a_group_are_drawn_together() -> None:
    counts = matrices(6)
    pairs = bootstrap_intervals(counts, groups=["a", "b", "a", "c", "b", "c"])
    summed = np.stack([counts[0] + counts[2], counts[1] + counts[4], counts[3] + counts[5]])
    assert pairs == bootstrap_intervals(summed)


def test_errors() -> None:
    with pytest.raises(InputError, match="unknown statistic 'mIoU'; did you mean 'miou'"):
        bootstrap_intervals(matrices(2), statistics=["mIoU"])
    with pytest.raises(InputError, match="confidence is 95: give a share"):
        bootstrap_intervals(matrices(2), confidence=95)
    with pytest.raises(InputError, match="resamples is 0"):
        bootstrap_intervals(matrices(2), resamples=0)
    with pytest.raises(InputError, match=r"matrices of shape \(0, 3, 3\)"):
        bootstrap_intervals(np.zeros((0, 3, 3)))
    with pytest.raises(InputError, match="1 groups for 2 matrices"):
        bootstrap_intervals(matrices(2), groups=["a"])


def test_a_mean_over_images_is_a_ratio_of_sums() -> None:
    values = np.random.default_rng(0).normal(5, 1, 40)
    pairs = np.stack([values, np.ones(40)], axis=1)
    low, high = bootstrap_sums(pairs, {"mean": lambda sums: sums[:, 0] / sums[:, 1]}, resamples=2000)["mean"]
    half = 1.96 * values.std() / np.sqrt(40)
    np.testing.assert_allclose([low, high], [values.mean() - half, values.mean() + half], atol=0.06)
    with pytest.raises(InputError, match=r"tables of shape \(0, 2\)"):
        bootstrap_sums(np.zeros((0, 2)), {})
