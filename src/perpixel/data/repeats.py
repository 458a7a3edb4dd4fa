"""Images that hold a rare class come more often: repeat factors, and the order of a pass over the data.

Gupta, Dollár, Girshick, "LVIS: a dataset for large vocabulary instance segmentation", CVPR 2019.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def repeat_factors(classes_of: Sequence[Sequence[int]], *, threshold: float) -> np.ndarray:
    """How often each image comes in a pass, 1 or more.

    A class in a share f of the images has the factor max(1, sqrt(threshold / f)); an image has the largest factor of
    its classes.

    Args:
        classes_of: the classes of each image.
        threshold: share of the images below which a class is rare; 0 repeats nothing.
    Returns:
        (N,) float64; 1 for an image without any class.
    """
    ids, images = np.unique([each for classes in classes_of for each in set(classes)], return_counts=True)
    factors = np.sqrt(np.maximum(1.0, threshold * len(classes_of) / images))
    of_class = dict(zip(ids.tolist(), factors.tolist(), strict=True))
    return np.array([max((of_class[each] for each in classes), default=1.0) for classes in classes_of])


def pass_length(factors: np.ndarray) -> int:
    """Draws in one pass: the sum of the factors, rounded up."""
    return int(np.ceil(factors.sum() - 1e-9))


def pass_order(factors: np.ndarray, *, seed: int, epoch: int) -> np.ndarray:
    """The images of one pass in the order in which they come: (pass_length(factors),) indices.

    An image comes as often as its factor, rounded up or down by chance, so that it is met over the passes and every
    pass has the same length; with factors of 1 each image comes once.
    """
    length = pass_length(factors)
    reached = np.cumsum(factors) * (length / factors.sum())
    reached[-1] = length
    # One random number for all (systematic sampling) keeps the sum exact.
    counts = np.diff(np.floor(reached + np.random.default_rng([seed, 2, epoch]).random()).astype(np.int64), prepend=0)
    images = np.repeat(np.arange(len(factors)), counts)
    return images[np.random.default_rng([seed, 0, epoch]).permutation(length)]
