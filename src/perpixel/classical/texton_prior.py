"""The image-level prior: which classes an image shows at all, told from the bag of semantic textons of the whole image.

One support vector machine a class, with a kernel in the manner of the pyramid match (Grauman, Darrell, ICCV 2005): bags
match at a node by the smaller of their shares. Nodes at depth d weigh v_d, chosen so that a match counts 2^(d - D) at
the finest depth d where it is still found: v_1 = 2^(1 - D), and v_d = 2^(d - 1 - D) for larger d (every match at d is
one at all depths above). Bags are multiplied by v and brought to a sum of 1, so that a bag matches itself by 1.

A sigmoid, fitted to scores of images left out, turns the score into P(class is in the image) (Platt, 1999).
scikit-learn trains; what is kept are arrays: bags, coefficients, sigmoids.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from perpixel.errors import InputError, import_extra

# With fewer images there is no prior.
LEAST_IMAGES = 10
FOLDS = 5
# Cost of a training image on the wrong side.
_COST = 10.0
_LOWEST = 1e-3
ALPHAS = (0.0, 0.1, 0.25, 0.5, 1.0, 2.0)
# Gains of mean IoU below are chance.
_NOTICEABLE = 0.002


@dataclass
class Prior:
    """Arrays of a trained prior.

    bags: (S, N) float32, weighted. weights: (K, S). constants: (K,). sigmoids: (K, 2) slope and offset; a class that is
    in all images or in none has weights 0, slope 0.
    """

    bags: np.ndarray
    weights: np.ndarray
    constants: np.ndarray
    sigmoids: np.ndarray


def weighted_bag(bag: Tensor, depths: Tensor) -> Tensor:
    """(N,) shares of `whole_bag` -> what is matched."""
    deepest = depths.max()
    exponent = torch.where(depths > 1, depths - 1, 1) - deepest
    weighted = bag * torch.where(depths > 0, torch.pow(2.0, exponent.float()), 0.0)
    return weighted / weighted.sum().clamp(min=1e-12)


def presence(bag: Tensor, bags: Tensor, weights: Tensor, constants: Tensor, sigmoids: Tensor) -> Tensor:
    """(K,) float32 in 0.001..1: P(class is in the image) of a weighted bag (N,)."""
    matches = torch.minimum(bags, bag).sum(1)
    scores = (weights * matches).sum(1) + constants
    return torch.sigmoid(sigmoids[:, 0] * scores + sigmoids[:, 1]).clamp(_LOWEST, 1.0)


def with_prior(probs: np.ndarray, prior: np.ndarray, alpha: float) -> np.ndarray:
    """P'(c | pixel), proportional to P(c | pixel) P(c | image)^alpha; classes are the first axis of both."""
    product = probs * prior**alpha
    return product / np.maximum(product.sum(0, keepdims=True), 1e-12)


def train_prior(bags: np.ndarray, shown: np.ndarray, folds: np.ndarray) -> tuple[Prior, np.ndarray]:
    """A prior, and (n, K) what it says of each training image when that image's fold is left out.

    Args:
        bags: (n, N) weighted. shown: (n, K) bool, which classes each image shows. folds: (n,) number of its fold.
    """
    kernel = np.stack([np.minimum(bags, bag).sum(1, dtype=np.float64) for bag in bags])
    count, classes = shown.shape
    weights, constants, sigmoids = np.zeros((classes, count)), np.zeros(classes), np.zeros((classes, 2))
    left_out = np.empty((count, classes))
    for k in range(classes):
        present = shown[:, k]
        share = (present.sum() + 1) / (count + 2)
        sigmoids[k, 1] = np.log(share / (1 - share))
        scores = _left_out_scores(kernel, present, folds)
        if scores is None:  # in all images or in none, or nearly: nothing to learn
            left_out[:, k] = share
            continue
        weights[k], constants[k] = _machine(kernel, present)
        sigmoids[k] = fit_sigmoid(scores, present)
        left_out[:, k] = 1 / (1 + np.exp(-(sigmoids[k, 0] * scores + sigmoids[k, 1])))
    used = np.flatnonzero(weights.any(0))
    prior = Prior(*(each.astype(np.float32) for each in (bags[used], weights[:, used], constants, sigmoids)))
    return prior, left_out.clip(_LOWEST, 1)


def _machine(kernel: np.ndarray, present: np.ndarray) -> tuple[np.ndarray, float]:
    """(n,) coefficients, mostly 0, and the constant of a support vector machine."""
    svm = import_extra("sklearn.svm", "forest")
    machine = svm.SVC(kernel="precomputed", C=_COST, class_weight="balanced").fit(kernel, present)
    coefficients = np.zeros(len(kernel))
    coefficients[machine.support_] = machine.dual_coef_[0]
    return coefficients, float(machine.intercept_[0])


def _left_out_scores(kernel: np.ndarray, present: np.ndarray, folds: np.ndarray) -> np.ndarray | None:
    """(n,) scores by machines that did not see an image's fold; None where one of them would see one kind only."""
    scores = np.empty(len(kernel))
    for fold in np.unique(folds):
        seen, tested = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        if present[seen].all() or not present[seen].any():
            return None
        coefficients, constant = _machine(kernel[np.ix_(seen, seen)], present[seen])
        scores[tested] = kernel[np.ix_(tested, seen)] @ coefficients + constant
    return scores


def fit_sigmoid(scores: np.ndarray, present: np.ndarray) -> tuple[float, float]:
    """Slope and offset of the sigmoid under which `present` is most likely, by Newton's method.

    Targets are softened as Platt proposes, (n+ + 1) / (n+ + 2) and 1 / (n- + 2), so that the slope stays finite. A
    slope below 0 (the scores mislead) becomes 0.
    """
    yes, no = int(present.sum()), int((~present).sum())
    target = np.where(present, (yes + 1) / (yes + 2), 1 / (no + 2))
    ones, share = np.ones_like(scores), target.mean()
    inputs, fitted = np.stack([scores, ones], 1), np.array([0.0, np.log(share / (1 - share))])

    def loss(at: np.ndarray) -> float:
        return float((np.logaddexp(0, inputs @ at) - target * (inputs @ at)).sum())

    for _ in range(100):
        p = 1 / (1 + np.exp(-(inputs @ fitted)))
        gradient = inputs.T @ (p - target)
        curvature = (inputs * (p * (1 - p))[:, None]).T @ inputs + 1e-9 * np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        scale = 1.0
        while loss(fitted - scale * step) > loss(fitted) and scale > 1e-6:
            scale /= 2
        fitted = fitted - scale * step
        if np.abs(scale * step).max() < 1e-8:
            break
    return (float(fitted[0]), float(fitted[1])) if fitted[0] > 0 else (0.0, float(np.log(share / (1 - share))))


def choose_alpha(
    probs: np.ndarray, prior: np.ndarray, labels: np.ndarray, weights: np.ndarray
) -> tuple[float, dict[str, float]]:
    """The smallest exponent of ALPHAS that labels left-out pixels about as well as the best, and the mean IoU of each.

    Args:
        probs: (K, n) P(c | pixel). prior: (K, n) P(c | image) of the pixel's image. labels: (n,).
        weights: (n,) how many labelled pixels each stands for.
    """
    scores = {alpha: _mean_iou(with_prior(probs, prior, alpha).argmax(0), labels, weights) for alpha in ALPHAS}
    best = min(alpha for alpha in ALPHAS if scores[alpha] > max(scores.values()) - _NOTICEABLE)
    return best, {f"{alpha:g}": round(score, 4) for alpha, score in scores.items()}


def _mean_iou(pred: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> float:
    """Over the classes that `labels` holds, counting each pixel by its weight."""
    scores = []
    for k in np.unique(labels):
        both, either = (pred == k) & (labels == k), (pred == k) | (labels == k)
        scores.append(weights[both].sum() / weights[either].sum())
    return float(np.mean(scores))


def check_prior(arrays: list[Tensor], nodes: int) -> None:
    """Refuse arrays (bags, weights, constants, sigmoids, alpha) that do not belong together.

    Raises:
        InputError
    """
    bags, weights, constants, _, alpha = arrays
    sizes_fit = bags.shape[1] in (0, nodes) and weights.shape == (len(constants), len(bags)) and len(alpha) == 1
    if not sizes_fit or not all(torch.isfinite(each).all() for each in arrays) or not 0 <= float(alpha[0]) <= 100:
        raise InputError(
            "the image-level prior of a texton forest has arrays of different lengths, NaN or a negative exponent: "
            "the file is damaged, train again or fetch it anew"
        )
