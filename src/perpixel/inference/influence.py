"""What a pixel sees: the gradient of its logit with respect to the image.

The pixels that can act at all are a net's receptive field; those that do act are fewer by far (Luo, Li, Urtasun,
Zemel, "Understanding the effective receptive field in deep convolutional neural networks", NIPS 2016). This is the
field at one place of one image, with the weights as they are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from perpixel.inference.predictor import run_model

# Shares of the influence for which a radius is given.
HALF, MOST = 0.5, 0.95
# Places of the curve of influence over distance.
CURVE_POINTS = 80


@dataclass(frozen=True)
class Influence:
    """How strongly each pixel acts on one logit. Distances are in pixels of the image, not of the working size.

    Attributes:
        label: the class whose logit it is: the one predicted there.
        gradient: (h, w) absolute gradient of the logit at the working size, summed over the image's channels.
        half, most: radius around the point that holds 50 and 95 % of it; None without any gradient.
        box: x0, y0, x1, y1 of the pixels with any gradient; None without any.
        curve: (radius, share within it) of about 80 radii; empty without any.
    """

    label: int
    gradient: np.ndarray
    half: float | None
    most: float | None
    box: tuple[int, int, int, int] | None
    curve: tuple[tuple[float, float], ...]


def influence_on(model: nn.Module, image: Tensor, point: tuple[int, int], *, step: tuple[float, float]) -> Influence:
    """The gradient of the logit of the predicted class at `point` (row, col), by one pass back.

    Args:
        image: (1, C, h, w) as the net gets it.
        step: height and width of one of its pixels in pixels of the original.
    """
    flags = [parameter.requires_grad for parameter in model.parameters()]
    try:
        model.requires_grad_(False)
        pixels = image.clone().requires_grad_()
        with torch.enable_grad():
            here = run_model(model, pixels)[0, :, point[0], point[1]]
            (gradient,) = torch.autograd.grad(here.max(), pixels, allow_unused=True)
    finally:
        for parameter, flag in zip(model.parameters(), flags):
            parameter.requires_grad_(flag)
    if gradient is None:
        gradient = torch.zeros_like(image)
    label = int(here.argmax()) if len(here) > 1 else int(here[0] > 0)
    return _measured(label, gradient[0].float().abs().sum(0).cpu().numpy(), point, step)


def _measured(label: int, strength: np.ndarray, point: tuple[int, int], step: tuple[float, float]) -> Influence:
    total = float(strength.sum(dtype=np.float64))
    if not total or not math.isfinite(total):
        return Influence(label, np.nan_to_num(strength), None, None, None, ())
    rows, cols = np.mgrid[: strength.shape[0], : strength.shape[1]]
    distance = np.hypot((rows - point[0]) * step[0], (cols - point[1]) * step[1]).ravel()
    order = distance.argsort()
    distance, held = distance[order], strength.ravel()[order].cumsum(dtype=np.float64) / total

    def radius(share: float) -> float:
        return float(distance[min(int(np.searchsorted(held, share)), len(held) - 1)])

    radii = np.linspace(0, distance[-1], CURVE_POINTS)
    within = held[np.searchsorted(distance, radii, side="right") - 1]
    some_rows, some_cols = np.nonzero(strength.any(1))[0], np.nonzero(strength.any(0))[0]
    box = (
        math.floor(some_cols[0] * step[1]),
        math.floor(some_rows[0] * step[0]),
        math.ceil((some_cols[-1] + 1) * step[1]),
        math.ceil((some_rows[-1] + 1) * step[0]),
    )
    curve = tuple((float(r), float(share)) for r, share in zip(radii, within))
    return Influence(label, strength, radius(HALF), radius(MOST), box, curve)
