"""Class weights from pixel counts, for data in which most pixels belong to few classes.

    none              1
    inverse           N / (K n_c)                        n_c pixels of class c, N their sum, K classes that occur
    sqrt_inverse      sqrt(inverse)
    median_frequency  median(f) / f_c                    f_c = n_c / pixels of the images that contain c
    enet              1 / ln(1.02 + n_c / N)             1.42 .. 50.5
    effective_number  (1 - b) / (1 - b^n_c), scaled      mean 1 over the classes that occur; b = 1 - 1/N unless given

Median frequency: Eigen & Fergus, ICCV 2015, as SegNet uses it. ENet: Paszke et al., arXiv 1606.02147.
Effective number: Cui et al., CVPR 2019; b is their beta, (volume - 1) / volume of all that can be seen. Their values up
to 0.9999 suit counts of images: for pixels in millions they make all weights equal, so the volume is the data set here.
A class that never occurs weighs 0 and leaves the median; only ENet's formula gives it a weight (50.5).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from perpixel.errors import InputError, did_you_mean

Counts = Sequence[int] | Sequence[float] | NDArray[np.integer] | NDArray[np.floating]
Floats = NDArray[np.float64]


def class_weights(
    kind: str,
    class_pixels: Counts,
    class_images: Counts | None = None,
    *,
    image_pixels: float | Counts | None = None,
    beta: float | None = None,
) -> Tensor:
    """One weight a class.

    Args:
        kind: a key of `CLASS_WEIGHTS`.
        class_pixels: (K,) pixels of each class over the training set, ignored ones left out.
        class_images: (K,) images that contain each class; only for "median_frequency".
        image_pixels: only for "median_frequency", where images differ in size: (K,) pixels of all images that contain
            the class; or one number, the pixels of every image (which cancels out, as None does).
        beta: only for "effective_number", 0 (no weights) up to, not including, 1 (inverse frequency).
    Returns:
        (K,) float32.
    Raises:
        InputError: unknown kind, negative or missing counts, no pixel of any class.
    """
    if kind not in CLASS_WEIGHTS:
        raise InputError(f"unknown class weights '{kind}'{did_you_mean(kind, CLASS_WEIGHTS)}")
    pixels = _counts("class_pixels", class_pixels)
    if kind != "none" and not pixels.any():
        raise InputError("class_pixels are all 0: there is nothing to weigh; count a training set with labelled pixels")
    if beta is not None and (kind != "effective_number" or not 0 <= beta < 1):
        raise InputError(f"beta is {beta}: give 0 up to 1, less than 1, and only with 'effective_number'")
    shown = pixels
    if kind == "median_frequency":
        shown = _containing(pixels, class_images, image_pixels)
    weights = CLASS_WEIGHTS[kind](pixels, shown) if beta is None else _effective_number(pixels, shown, beta)
    return torch.from_numpy(weights.astype(np.float32))


def positive_weight(num_pos: float, num_neg: float) -> float:
    """Weight of the positive pixels in the binary loss, num_neg / num_pos; 1 where there are none to weigh."""
    return num_neg / num_pos if num_pos > 0 and num_neg > 0 else 1.0


def _counts(name: str, values: Counts, length: int | None = None) -> Floats:
    counts = np.asarray(values, dtype=np.float64)
    if counts.ndim != 1 or counts.size == 0 or (length is not None and counts.size != length):
        raise InputError(f"{name} has shape {counts.shape}: give one count a class" + (f", {length}" if length else ""))
    if not np.isfinite(counts).all() or (counts < 0).any():
        raise InputError(f"{name} holds {counts.min()}: counts are finite and not negative")
    return counts


def _containing(pixels: Floats, class_images: Counts | None, image_pixels: float | Counts | None) -> Floats:
    """(K,) pixels of the images that contain each class, up to a factor common to all."""
    if image_pixels is not None and np.ndim(image_pixels) == 1:
        return _counts("image_pixels", image_pixels, pixels.size)  # type: ignore[arg-type]
    if class_images is None:
        raise InputError("class weights 'median_frequency' need class_images: give the images that contain each class")
    return _counts("class_images", class_images, pixels.size)


def _none(pixels: Floats, _: Floats) -> Floats:
    return np.ones_like(pixels)


def _inverse(pixels: Floats, _: Floats) -> Floats:
    seen = pixels > 0
    weights = np.zeros_like(pixels)
    weights[seen] = pixels.sum() / (seen.sum() * pixels[seen])
    return weights


def _sqrt_inverse(pixels: Floats, shown: Floats) -> Floats:
    return np.sqrt(_inverse(pixels, shown))


def _median_frequency(pixels: Floats, shown: Floats) -> Floats:
    seen = (pixels > 0) & (shown > 0)
    if not seen.any():
        raise InputError("class_images are all 0 though class_pixels are not: count both over the same images")
    weights = np.zeros_like(pixels)
    frequency = pixels[seen] / shown[seen]
    weights[seen] = np.median(frequency) / frequency
    return weights


def _enet(pixels: Floats, _: Floats) -> Floats:
    return 1 / np.log(1.02 + pixels / pixels.sum())


def _effective_number(pixels: Floats, _: Floats, beta: float | None = None) -> Floats:
    seen = pixels > 0
    rate = 1 / pixels.sum() if beta is None else 1 - beta
    weights = np.zeros_like(pixels)
    # 1 - b^n through logarithms: b is next to 1 and n are millions.
    weights[seen] = rate / -np.expm1(pixels[seen] * np.log1p(-rate)) if rate < 1 else 1.0
    return weights * seen.sum() / weights.sum()


CLASS_WEIGHTS: dict[str, Callable[[Floats, Floats], Floats]] = {
    "none": _none,
    "inverse": _inverse,
    "sqrt_inverse": _sqrt_inverse,
    "median_frequency": _median_frequency,
    "enet": _enet,
    "effective_number": _effective_number,
}
