"""Focal Tversky loss: a power of the Tversky loss that keeps pulling at classes which overlap badly.

Abraham, Khan, "A novel focal Tversky loss function with improved attention U-Net for lesion segmentation", ISBI 2019.
"""

from __future__ import annotations

import torch
from torch import Tensor

from perpixel.errors import InputError
from perpixel.losses.overlap import OverlapLoss, check_classes, mean_over_classes
from perpixel.losses.target import prepare
from perpixel.losses.tversky import tversky_costs

# Costs below this are followed along a straight line: there the root has a slope without bound.
LINEAR_BELOW = 1e-6


def focal_tversky(
    logits: Tensor,
    target: Tensor,
    *,
    gamma: float = 4 / 3,
    fp_weight: float = 0.3,
    fn_weight: float = 0.7,
    ignore_index: int | None = None,
    smooth: float = 1e-5,
    classes: str = "present",
    batch: bool = True,
    include_background: bool = True,
) -> Tensor:
    """Mean over classes of (1 - TI)^(1 / gamma), TI the Tversky index of `tversky`.

    Args:
        gamma: 1 is `tversky`; the paper's 4/3 raises small costs, so that nearly right classes still learn.
        logits, target, fp_weight, fn_weight, ignore_index, smooth, classes, batch, include_background: as in `tversky`.
    Returns:
        Scalar in [0, 1], float32 also under autocast. Zero, with zero gradient, when every pixel is ignored.
    """
    check_classes(classes)
    with torch.autocast(logits.device.type, enabled=False):
        prepared = prepare(logits, target, ignore_index)
        costs, truth = tversky_costs(prepared, fp_weight, fn_weight, smooth=smooth, batch=batch)
        costs = _power(costs, 1 / gamma)
        return mean_over_classes(costs, truth, prepared, classes=classes, include_background=include_background)


def _power(costs: Tensor, exponent: float) -> Tensor:
    """costs^exponent, straight from 0 to LINEAR_BELOW."""
    straight = costs * LINEAR_BELOW ** (exponent - 1)
    return torch.where(costs < LINEAR_BELOW, straight, costs.clamp_min(LINEAR_BELOW) ** exponent)


class FocalTversky(OverlapLoss):
    """`focal_tversky` with its settings: (logits (B, K, *S), target (B, *S)) -> scalar. It takes no class weights."""

    def __init__(
        self,
        *,
        ignore_index: int | None = None,
        gamma: float = 4 / 3,
        fp_weight: float = 0.3,
        fn_weight: float = 0.7,
        smooth: float = 1e-5,
        classes: str = "present",
        batch: bool = True,
        include_background: bool = True,
    ) -> None:
        if not gamma > 0:
            raise InputError(f"gamma is {gamma}: give a positive number")
        super().__init__(
            focal_tversky,
            ignore_index=ignore_index,
            gamma=gamma,
            fp_weight=fp_weight,
            fn_weight=fn_weight,
            smooth=smooth,
            classes=classes,
            batch=batch,
            include_background=include_background,
        )
