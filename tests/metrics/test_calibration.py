"""Calibration and temperature: values worked by hand, exact sums, and a net that is too sure by a known factor."""

from __future__ import annotations

import numpy as np
import pytest

from perpixel.errors import InputError
from perpixel.metrics import calibration_counts, calibration_scores, fit_temperature


def softmax(scores: np.ndarray) -> np.ndarray:
    chances = np.exp(scores - scores.max(1, keepdims=True))
    return chances / chances.sum(1, keepdims=True)


def test_by_hand() -> None:
    confidence = np.array([0.75, 0.75, 0.625, 0.25, 1.0])
    pred, target = np.array([1, 1, 0, 2, 0]), np.array([1, 0, 0, 2, 255])
    counts = calibration_counts(confidence, pred, target, ignore_index=255, bins=2)
    assert counts.tolist() == [[1, 1, 2**22], [3, 2, int(2.125 * 2**24)]]
    scores = calibration_scores(counts)
    assert scores.confidence.tolist() == pytest.approx([0.25, 2.125 / 3])
    assert scores.accuracy.tolist() == pytest.approx([1, 2 / 3])
    assert scores.ece == pytest.approx((1 * 0.75 + 3 * (2.125 / 3 - 2 / 3)) / 4)
    assert scores.mce == pytest.approx(0.75)
    assert scores.mean_confidence == pytest.approx(2.375 / 4)


def test_a_bin_holds_its_upper_end() -> None:
    counts = calibration_counts([0.0, 0.25, 0.2500002, 0.5, 1.0], [0] * 5, [0] * 5, bins=4)
    assert counts[:, 0].tolist() == [2, 2, 0, 1]


def test_what_is_right_as_often_as_it_says_has_no_error() -> None:
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.3, 1, 400_000)
    pred = np.zeros(len(confidence), int)
    target = (rng.random(len(confidence)) > confidence).astype(int)
    assert calibration_scores(calibration_counts(confidence, pred, target)).ece < 0.004
    worse = calibration_scores(calibration_counts(np.sqrt(confidence), pred, target))
    assert worse.ece > 0.1 and worse.mean_confidence > (target == 0).mean()


def test_any_division_adds_up_to_the_same_table() -> None:
    rng = np.random.default_rng(0)
    confidence = rng.random(3001).astype(np.float32)
    pred, target = rng.integers(0, 4, (2, 3001))
    whole = calibration_counts(confidence, pred, target, ignore_index=3)
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(3001)
        parts = np.array_split(order, np.sort(rng.integers(0, 3001, seed)))
        tables = [calibration_counts(confidence[p], pred[p], target[p], ignore_index=3) for p in parts]
        assert (np.sum(tables, axis=0) == whole).all()


def test_nothing_labelled_gives_nothing() -> None:
    scores = calibration_scores(calibration_counts([0.5], [0], [255], ignore_index=255))
    assert np.isnan([scores.ece, scores.mce, scores.mean_confidence]).all()
    document = scores.to_json()
    assert document["ece"] is None and document["bins"][0] == {"pixels": 0, "confidence": None, "accuracy": None}


def test_a_bin_of_few_pixels_is_not_the_largest_error() -> None:
    table = np.zeros((2, 3), int)
    table[0] = 1, 1, 0  # one pixel of confidence 0 that is right
    table[1] = 9999, 9999, 9999 * 2**24
    assert calibration_scores(table).mce == 0


def test_temperature_finds_the_factor_by_which_logits_were_stretched() -> None:
    rng = np.random.default_rng(0)
    honest = rng.normal(0, 1.5, (60_000, 4))
    target = (softmax(honest).cumsum(1) < rng.random((len(honest), 1))).sum(1).clip(0, 3)
    fit = fit_temperature(honest * 2.5, target)
    assert fit.temperature == pytest.approx(2.5, rel=0.02)
    assert fit.nll_after < fit.nll_before and fit.pixels == 60_000
    assert fit_temperature(np.log(softmax(honest * 2.5)), target).temperature == pytest.approx(fit.temperature)
    for other in (0.97, 1.03):  # the top of the hill
        assert fit_temperature(honest * 2.5 / (fit.temperature * other), target).nll_before > fit.nll_after


def test_temperature_stays_within_its_limits() -> None:
    logits = np.eye(3)[np.arange(9) % 3]
    assert fit_temperature(logits, np.arange(9) % 3).temperature == pytest.approx(0.05)
    assert fit_temperature(logits, (np.arange(9) + 1) % 3).temperature == pytest.approx(20)


def test_errors() -> None:
    with pytest.raises(InputError, match=r"confidence \(2,\), pred \(2,\) and target \(3,\) differ in shape"):
        calibration_counts([0.5, 0.5], [0, 0], [0, 0, 0])
    for wrong in (1.5, -0.1, np.nan):
        with pytest.raises(InputError, match=f"confidence holds {wrong}: give probabilities"):
            calibration_counts([0.5, wrong], [0, 0], [0, 0])
    assert calibration_counts([np.nan, 0.5], [0, 0], [255, 0], ignore_index=255).sum(0)[0] == 1
    with pytest.raises(InputError, match="bins is 0"):
        calibration_counts([0.5], [0], [0], bins=0)
    with pytest.raises(InputError, match=r"calibration counts of shape \(3, 15, 3\).*sum several"):
        calibration_scores(np.zeros((3, 15, 3)))
    with pytest.raises(InputError, match=r"log_probs \(0, 3\) and target \(0,\).*one pixel or more"):
        fit_temperature(np.zeros((0, 3)), np.zeros(0, int))
    with pytest.raises(InputError, match="NaN or infinite"):
        fit_temperature([[0.0, -np.inf]], [0])
    with pytest.raises(InputError, match=r"classes outside 0\.\.1"):
        fit_temperature([[0.0, 1.0]], [2])
