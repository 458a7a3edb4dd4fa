"""The image-level prior: how it is combined, its kernel, its calibration, its exponent."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from perpixel.classical.texton_prior import (
    Prior,
    check_prior,
    choose_alpha,
    fit_sigmoid,
    presence,
    train_prior,
    weighted_bag,
    with_prior,
)
from perpixel.errors import InputError


def test_prior_combined_by_hand() -> None:
    probs, prior = np.array([[0.5, 0.2], [0.25, 0.4], [0.25, 0.4]]), np.array([[0.25, 0.25], [1, 1], [0.04, 0.04]])
    assert with_prior(probs, prior, 0.5)[:, 0] == pytest.approx(np.array([0.25, 0.25, 0.05]) / 0.55)
    assert with_prior(probs, prior, 1.0)[:, 1] == pytest.approx(np.array([0.05, 0.4, 0.016]) / 0.466)
    assert np.array_equal(with_prior(probs, prior, 0.0), probs)


def test_fine_matches_count_more() -> None:
    # Root, depth 1, 2 and 3 with D = 3: w = 1/4, 1/2, 1, so v = 1/4, 1/4, 1/2 of all depths down to there.
    bag = weighted_bag(torch.tensor([0.0, 1, 1, 1]), torch.tensor([0, 1, 2, 3]))
    assert bag.tolist() == pytest.approx([0, 0.25, 0.25, 0.5])


def test_platt_s_sigmoid_is_the_likeliest() -> None:
    random = np.random.default_rng(0)
    scores = random.normal(size=80)
    present = random.random(80) < 1 / (1 + np.exp(-(2 * scores - 0.5)))
    target = np.where(present, (present.sum() + 1) / (present.sum() + 2), 1 / ((~present).sum() + 2))

    def loss(at: np.ndarray) -> float:
        z = at[0] * scores + at[1]
        return float((np.logaddexp(0, z) - target * z).sum())

    assert fit_sigmoid(scores, present) == pytest.approx(minimize(loss, [0, 0]).x, abs=1e-3)
    assert fit_sigmoid(-scores, present)[0] == 0  # misleading scores are not turned round


def bags(count: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Bags of two nodes; class 0 is there where the first is frequent, class 1 always, class 2 never."""
    share = np.random.default_rng(0).random(count)
    shown = np.stack([share > 0.5, np.ones(count, bool), np.zeros(count, bool)], 1)
    return np.stack([share, 1 - share], 1).astype(np.float32), shown


def says(prior: Prior, bag: np.ndarray) -> list[float]:
    arrays = (torch.from_numpy(each) for each in (prior.bags, prior.weights, prior.constants, prior.sigmoids))
    return presence(torch.from_numpy(bag), *arrays).tolist()


def test_a_prior_learns_which_classes_are_there() -> None:
    given, shown = bags()
    prior, left_out = train_prior(given, shown, np.arange(40) % 5)
    assert ((left_out[:, 0] > 0.5) == shown[:, 0]).mean() > 0.9
    many, few = says(prior, np.array([0.95, 0.05], np.float32)), says(prior, np.array([0.05, 0.95], np.float32))
    assert many[0] > 0.9 and few[0] < 0.1
    # Nothing to learn of classes that are everywhere or nowhere: their share, whatever the bag.
    assert many[1:] == few[1:] == pytest.approx([41 / 42, 1 / 42])
    assert left_out[:, 1].tolist() == pytest.approx([41 / 42] * 40)
    assert len(prior.bags) < 40 and prior.weights.shape == (3, len(prior.bags))


def test_the_exponent_is_chosen_by_left_out_pixels() -> None:
    probs, labels = np.array([[0.6, 0.6, 0.4], [0.4, 0.4, 0.6]]), np.array([1, 0, 1])
    prior = np.array([[0.3, 1.0, 1.0], [1.0, 0.3, 1.0]])
    alpha, scores = choose_alpha(probs, prior, labels, np.ones(3))
    assert alpha == 0.5 and scores["0"] == pytest.approx(0.5) and scores["0.5"] == 1
    assert choose_alpha(probs, np.ones((2, 3)), labels, np.ones(3))[0] == 0
    # Weighted IoU of alpha 0: class 0 has 1 / 3, class 1 has 2 / 4.
    _, scores = choose_alpha(probs, np.ones((2, 3)), labels, np.array([2.0, 1, 2]))
    assert scores["0"] == pytest.approx((1 / 3 + 2 / 4) / 2, abs=1e-4)


@pytest.mark.parametrize("damage", ["nan", "sizes", "alpha", "nodes"])
def test_damaged_priors_are_refused(damage: str) -> None:
    arrays = [torch.zeros(4, 7), torch.zeros(2, 4), torch.zeros(2), torch.zeros(2, 2), torch.zeros(1)]
    check_prior(arrays, 7)
    if damage == "nan":
        arrays[0][1, 1] = torch.nan
    elif damage == "sizes":
        arrays[1] = torch.zeros(2, 5)
    elif damage == "alpha":
        arrays[4][0] = -1
    with pytest.raises(InputError, match="image-level prior"):
        check_prior(arrays, 6 if damage == "nodes" else 7)
