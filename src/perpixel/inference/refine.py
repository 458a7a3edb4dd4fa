"""A prediction refined by the fully connected CRF: the label map follows the edges of the image."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from perpixel.errors import InputError
from perpixel.images import Normalisation
from perpixel.inference.crf.dense import OnStep, dense_crf
from perpixel.inference.crf.settings import CrfSettings

if TYPE_CHECKING:
    from perpixel.inference.predictor import Prediction


def refined(
    prediction: Prediction,
    image: np.ndarray,
    normalisation: Normalisation,
    settings: CrfSettings,
    on_step: OnStep | None = None,
) -> Prediction:
    """`prediction`, which has its probabilities, with those, the label map and the confidence of the CRF.

    Uncertainties stay the net's: the CRF is sure of nearly every pixel, and that is no knowledge about the image.

    Args:
        image: (H, W, C) as the net took it.
        on_step: called with (iteration, (K, H, W) marginals).
    Raises:
        InputError: the settings do not fit the classes or the channels.
    """
    assert prediction.probs is not None
    if prediction.probs.ndim != 3:
        raise InputError(f"probs of shape {prediction.probs.shape}: only label maps of images are refined")
    chances = both_classes(prediction.probs)
    marginals = dense_crf(crf_image(image, normalisation), chances, **settings.to_json(), on_step=on_step)
    label_map = marginals.argmax(0).astype(prediction.label_map.dtype)
    return replace(
        prediction,
        label_map=label_map,
        probs=marginals[-len(prediction.probs) :],
        confidence=None if prediction.confidence is None else marginals.max(0),
    )


def both_classes(probs: np.ndarray) -> np.ndarray:
    """(K, H, W) that add up to 1: of a net with a single logit, class 0 is what class 1 leaves."""
    return np.concatenate([1 - probs, probs]) if len(probs) == 1 else probs


def crf_image(image: np.ndarray, normalisation: Normalisation) -> np.ndarray:
    """(H, W, C) on the scale 0..255, on which the widths of the appearance kernel are given.

    8-bit images whose limits are 0 and 255 stay as they are; others are stretched between the limits that the net sees.
    """
    low, high = normalisation.limits(image)
    if image.dtype == np.uint8 and (low == 0).all() and (high == 255).all():
        return image
    factor = (255 / np.maximum(high - low, 1e-12)).astype(np.float32)
    return np.clip((image.astype(np.float32) - low.astype(np.float32)) * factor, 0, 255)
