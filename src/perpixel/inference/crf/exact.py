"""The fully connected CRF by its definition, every pair of pixels of a small image: what the fast forms are held to."""

from __future__ import annotations

import numpy as np

from perpixel.errors import InputError
from perpixel.inference.crf.dense import check_compatibility
from perpixel.inference.crf.settings import LEAST, CrfSettings, check_arrays

# Pixels; the kernels hold this many squared numbers, 8 bytes each.
LARGEST = 64 * 64


def exact_crf(image: np.ndarray, probs: np.ndarray, settings: CrfSettings | None = None) -> np.ndarray:
    """What `dense_crf` approximates, in O(N^2) and double precision.

    Args:
        image: (H, W, C) or (D, H, W, C), at most 4096 pixels.
        probs: (K, H, W) or (K, D, H, W).
    Returns:
        Like `probs`, float64.
    Raises:
        InputError: a larger image, or sizes differ.
    """
    chosen = settings or CrfSettings()
    image, probs = np.asarray(image), np.asarray(probs)
    check_arrays(image, probs)
    check_compatibility(chosen, len(probs))
    count = probs[0].size
    if count > LARGEST:
        raise InputError(f"image of {count} pixels: pairs of at most {LARGEST} are looked at: use dense_crf")
    kernel = sum(_normalised(each, chosen.normalisation) * weight for each, weight in kernels(image, chosen))
    matrix = 1 - np.eye(len(probs)) if chosen.compatibility is None else np.array(chosen.compatibility)
    logits = np.log(np.maximum(probs.reshape(len(probs), -1).astype(np.float64), LEAST))
    marginals = _softmax(logits)
    for _ in range(chosen.iterations):
        marginals = _softmax(logits - matrix @ (marginals @ kernel))
    return marginals.reshape(probs.shape)


def kernels(image: np.ndarray, settings: CrfSettings) -> list[tuple[np.ndarray, float]]:
    """[(N, N) spatial kernel, its weight], [bilateral ...], with entry [j, i] for what i hears of j."""
    *spatial, channels = image.shape
    axes = len(spatial)
    places = np.stack(np.meshgrid(*(np.arange(side) for side in spatial), indexing="ij"), -1).reshape(-1, axes)
    colours = image.reshape(-1, channels).astype(np.float64) / settings.per_axis("bilateral_range", channels)
    near = _gaussian(places / settings.per_axis("spatial_width", axes))
    alike = _gaussian(np.concatenate([places / settings.per_axis("bilateral_width", axes), colours], 1))
    return [(near, settings.spatial_weight), (alike, settings.bilateral_weight)]


def _gaussian(features: np.ndarray) -> np.ndarray:
    """(N, d) -> (N, N) exp(-|f_i - f_j|^2 / 2)"""
    squares = (features**2).sum(1)
    return np.exp(-0.5 * np.maximum(squares[:, None] + squares - 2 * features @ features.T, 0))


def _normalised(kernel: np.ndarray, normalisation: str) -> np.ndarray:
    """Rows are multiplied before the filter, columns after it."""
    sums = kernel.sum(0)
    if normalisation == "symmetric":
        return kernel / np.sqrt(sums[:, None] * sums)
    if normalisation == "before":
        return kernel / sums[:, None]
    return kernel / sums if normalisation == "after" else kernel


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(0))
    return powers / powers.sum(0)
