"""Soft Dice: one minus the overlap of probabilities and truth, class by class.

Milletari et al., "V-Net", 3DV 2016, squares the terms of the denominator; here that is the option `squared`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from perpixel.errors import InputError
from perpixel.losses.target import Prepared, prepare

CLASSES = ("present", "all")


def soft_dice(
    logits: Tensor,
    target: Tensor,
    *,
    ignore_index: int | None = None,
    smooth: float = 1e-5,
    classes: str = "present",
    batch: bool = True,
    squared: bool = False,
    include_background: bool = True,
) -> Tensor:
    """Mean over classes of 1 - (2 sum p y + s) / (sum p + sum y + s).

    Args:
        logits: (B, K, *S) float, unnormalised. K = 1 is the binary form: sigmoid, class 1 only.
        target: (B, *S) whole numbers, 0..K-1 (0 or 1 where K is 1) or `ignore_index`.
        ignore_index: target value left out of all sums.
        smooth: s, in numerator and denominator, so that a class empty in both costs 0. With s = 0 it costs 1.
        classes: average over the classes "present" in the truth, or "all" (an absent class then costs about 1 for any
            probability mass at all, which is why it is not the default).
        batch: one ratio over the whole batch; else one a sample, and the mean over samples in which a class is counted.
        squared: sum p^2 + sum y^2 below, as V-Net has it.
        include_background: count class 0; has no effect where K is 1.
    Returns:
        Scalar in [0, 1], float32 also under autocast. Zero, with zero gradient, when every pixel is ignored.
    """
    if classes not in CLASSES:
        raise InputError(f"classes is '{classes}': give 'present' or 'all'")
    with torch.autocast(logits.device.type, enabled=False):
        prepared = prepare(logits, target, ignore_index)
        overlap, predicted, truth = _sums(prepared, squared)  # (B, K) each
        seen = _seen(prepared)  # (B, 1)
        if batch:
            overlap, predicted, truth = overlap.sum(0), predicted.sum(0), truth.sum(0)  # (K,)
            seen = seen.any(0)
        below = (predicted + truth + smooth).clamp_min(torch.finfo(predicted.dtype).tiny)
        costs = 1 - (2 * overlap + smooth) / below
        counted = (truth > 0 if classes == "present" else torch.ones_like(truth, dtype=torch.bool)) & seen
        if not include_background and logits.shape[1] > 1:
            costs, counted = costs[..., 1:], counted[..., 1:]
        means = (costs * counted).sum(-1) / counted.sum(-1).clamp_min(1)  # () or (B,)
        return means.sum() / counted.any(-1).sum().clamp_min(1)


def _sums(prepared: Prepared, squared: bool) -> tuple[Tensor, Tensor, Tensor]:
    """(sum p y, sum p or p^2, sum y), each (B, K), over the valid pixels, without a one-hot copy of the target."""
    logits = prepared.logits.flatten(2)  # (B, K, N)
    target = prepared.target.flatten(1)  # (B, N)
    valid = None if prepared.valid is None else prepared.valid.flatten(1).to(logits)
    weight = torch.ones_like(target, dtype=logits.dtype) if valid is None else valid
    if logits.shape[1] == 1:
        probs = logits.sigmoid()
        truth = target.to(logits).unsqueeze(1)
        return (probs * truth).sum(2), _total(probs, valid, squared), truth.sum(2)
    probs = logits.softmax(1)
    at_target = probs.gather(1, target.unsqueeze(1)).squeeze(1)  # (B, N)
    empty = logits.new_zeros(logits.shape[:2])
    overlap = empty.scatter_add(1, target, at_target * weight)
    return overlap, _total(probs, valid, squared), empty.scatter_add(1, target, weight)


def _total(probs: Tensor, valid: Tensor | None, squared: bool) -> Tensor:
    if squared:
        probs = probs.square()
    return probs.sum(2) if valid is None else (probs * valid.unsqueeze(1)).sum(2)


def _seen(prepared: Prepared) -> Tensor:
    """(B, 1) bool: does the sample have a valid pixel at all?"""
    if prepared.valid is None:
        return torch.ones(prepared.target.shape[0], 1, dtype=torch.bool, device=prepared.target.device)
    return prepared.valid.flatten(1).any(1, keepdim=True)


class Dice(nn.Module):
    """`soft_dice` with its settings: (logits (B, K, *S), target (B, *S)) -> scalar. It takes no class weights: each
    class counts the same however many pixels it has."""

    def __init__(
        self,
        *,
        ignore_index: int | None = None,
        smooth: float = 1e-5,
        classes: str = "present",
        batch: bool = True,
        squared: bool = False,
        include_background: bool = True,
    ) -> None:
        super().__init__()
        if classes not in CLASSES:
            raise InputError(f"classes is '{classes}': give 'present' or 'all'")
        if not smooth >= 0:
            raise InputError(f"smooth is {smooth}: give 0 or more")
        self.ignore_index = ignore_index
        self.smooth = smooth
        self.classes = classes
        self.batch = batch
        self.squared = squared
        self.include_background = include_background

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        return soft_dice(
            logits,
            target,
            ignore_index=self.ignore_index,
            smooth=self.smooth,
            classes=self.classes,
            batch=self.batch,
            squared=self.squared,
            include_background=self.include_background,
        )
