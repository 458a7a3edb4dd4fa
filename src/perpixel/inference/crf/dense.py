"""Refine class probabilities by a fully connected CRF: every pixel is a neighbour of every other.

Kraehenbuehl, Koltun, "Efficient Inference in Fully Connected CRFs with Gaussian Edge Potentials", NIPS 2011. Energy:
the unaries -log p, and for every two pixels the compatibility of their labels times

    bilateral_weight exp(-|p_i - p_j|^2 / (2 bilateral_width^2) - |I_i - I_j|^2 / (2 bilateral_range^2))
    + spatial_weight exp(-|p_i - p_j|^2 / (2 spatial_width^2))

As in the authors' library a pixel is its own neighbour too, and by default kernels are normalised symmetrically. The
bilateral kernel is filtered on the permutohedral lattice, an approximation; the spatial one, unlike there, exactly on
the grid of pixels, cut at three widths.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch

from perpixel.compiled import can_compile
from perpixel.errors import InputError
from perpixel.inference.crf.settings import CrfSettings, check_arrays

# Iteration, (K, *spatial) float32 marginals after it.
OnStep = Callable[[int, np.ndarray], None]


def dense_crf(
    image: np.ndarray,
    probs: np.ndarray,
    *,
    iterations: int = 10,
    spatial_width: float | Sequence[float] = 3,
    spatial_weight: float = 3,
    bilateral_width: float | Sequence[float] = 80,
    bilateral_range: float | Sequence[float] = 13,
    bilateral_weight: float = 10,
    normalisation: str = "symmetric",
    compatibility: Any = None,
    threads: int | None = None,
    on_step: OnStep | None = None,
) -> np.ndarray:
    """Marginals of the CRF by mean field, all pixels updated at once.

    Args:
        image: (H, W, C) or (D, H, W, C), any number of channels, in the units of `bilateral_range`.
        probs: (K, H, W) or (K, D, H, W) float probabilities that add up to 1 over the classes; those below 1e-5 count
            as 1e-5.
        iterations, spatial_..., bilateral_..., normalisation, compatibility: see `CrfSettings`.
        threads: None takes as many as torch has. The result is the same with any number.
        on_step: called with (iteration, marginals) after each, and at first with 0 and the clipped probabilities.
    Returns:
        Like `probs`, float32.
    Raises:
        InputError: sizes differ; NaN, negative or not normalised probabilities; widths of 0 or less.
    """
    settings = CrfSettings(
        iterations=iterations,
        spatial_width=spatial_width,  # type: ignore[arg-type]
        spatial_weight=spatial_weight,
        bilateral_width=bilateral_width,  # type: ignore[arg-type]
        bilateral_range=bilateral_range,  # type: ignore[arg-type]
        bilateral_weight=bilateral_weight,
        normalisation=normalisation,
        compatibility=compatibility,
    )
    image, probs = np.asarray(image), np.asarray(probs)
    check_arrays(image, probs)
    check_compatibility(settings, len(probs))
    if threads is not None and threads < 1:
        raise InputError(f"threads is {threads}: give 1 or more, or None for as many as torch has")
    if not can_compile() or not _keeps_compiled():
        from perpixel.inference.crf.torch_form import refine_by_torch

        return refine_by_torch(image, probs, settings, on_step)
    from perpixel.inference.crf.compiled_form import refine  # numba is imported by those who use it

    return refine(image, probs, settings, threads or torch.get_num_threads(), on_step)


@cache
def _keeps_compiled() -> bool:
    """Whether compiled loops can be made and kept: a full disk or a lost cache folder must not end a prediction.

    Also compiles, or loads, all of them once.
    """
    from perpixel.inference.crf.compiled_form import refine

    try:
        refine(np.zeros((2, 2, 3), np.uint8), np.full((2, 2, 2), 0.5, np.float32), CrfSettings(), 1, None)
    except OSError:
        return False
    return True


def check_compatibility(settings: CrfSettings, num_labels: int) -> None:
    """Refuse a matrix of another number of classes.

    Raises:
        InputError
    """
    matrix = settings.compatibility
    if matrix is not None and len(matrix) != num_labels:
        raise InputError(f"compatibility of {len(matrix)} classes for {num_labels} in probs: give one row a class")
