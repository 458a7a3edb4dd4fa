"""What the losses on overlaps of probabilities and truth share: their sums, and which classes count."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from perpixel.errors import InputError
from perpixel.losses.target import Prepared

CLASSES = ("present", "all")
NOT_NEGATIVE = ("fp_weight", "fn_weight", "smooth")


class OverlapLoss(nn.Module):
    """A loss function with its settings: (logits (B, K, *S), target (B, *S)) -> scalar. It takes no class weights: each
    class counts the same however many pixels it has.

    Raises:
        InputError: an unknown choice of classes, or a smoothing term or price below 0.
    """

    def __init__(self, function: Callable[..., Tensor], **settings: Any) -> None:
        super().__init__()
        check_classes(settings.get("classes", CLASSES[0]))
        for name in NOT_NEGATIVE:
            if name in settings and not settings[name] >= 0:
                raise InputError(f"{name} is {settings[name]}: give 0 or more")
        self.function = function
        self.settings = settings

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """See the class."""
        return self.function(logits, target, **self.settings)


def check_classes(classes: str) -> None:
    """Refuse a choice of classes other than "present" or "all"."""
    if classes not in CLASSES:
        raise InputError(f"classes is '{classes}': give 'present' or 'all'")


def overlap_sums(prepared: Prepared, *, squared: bool = False, batch: bool) -> tuple[Tensor, Tensor, Tensor]:
    """(sum p y, sum p or p^2, sum y) over the valid pixels, each (B, K), or (K,) over the whole `batch`.

    p is the softmax, or the sigmoid of one logit for class 1. No one-hot copy of the target is made.
    """
    logits = prepared.logits.flatten(2)  # (B, K, N)
    target = prepared.target.flatten(1)  # (B, N)
    valid = None if prepared.valid is None else prepared.valid.flatten(1).to(logits)
    weight = torch.ones_like(target, dtype=logits.dtype) if valid is None else valid
    if logits.shape[1] == 1:
        probs = logits.sigmoid()
        truth = target.to(logits).unsqueeze(1)
        sums = (probs * truth).sum(2), _total(probs, valid, squared), truth.sum(2)
    else:
        probs = logits.softmax(1)
        at_target = probs.gather(1, target.unsqueeze(1)).squeeze(1)  # (B, N)
        empty = logits.new_zeros(logits.shape[:2])
        overlap = empty.scatter_add(1, target, at_target * weight)
        sums = overlap, _total(probs, valid, squared), empty.scatter_add(1, target, weight)
    return (sums[0].sum(0), sums[1].sum(0), sums[2].sum(0)) if batch else sums


def _total(probs: Tensor, valid: Tensor | None, squared: bool) -> Tensor:
    if squared:
        probs = probs.square()
    return probs.sum(2) if valid is None else (probs * valid.unsqueeze(1)).sum(2)


def seen_samples(prepared: Prepared) -> Tensor:
    """(B, 1) bool: does the sample have a valid pixel at all?"""
    if prepared.valid is None:
        return torch.ones(prepared.target.shape[0], 1, dtype=torch.bool, device=prepared.target.device)
    return prepared.valid.flatten(1).any(1, keepdim=True)


def mean_over_classes(
    costs: Tensor, truth: Tensor, prepared: Prepared, *, classes: str, include_background: bool
) -> Tensor:
    """The mean of `costs`, (B, K) or (K,), over the classes that count, then over the samples where one does.

    Args:
        truth: pixels of each class, in the shape of `costs`.
        classes: count the classes "present" in the truth, or "all" of a sample that has a valid pixel.
    Returns:
        Scalar; zero, with zero gradient, where nothing counts.
    """
    seen = seen_samples(prepared)
    if costs.ndim == 1:
        seen = seen.any(0)
    counted = (truth > 0 if classes == "present" else torch.ones_like(truth, dtype=torch.bool)) & seen
    if not include_background and prepared.logits.shape[1] > 1:
        costs, counted = costs[..., 1:], counted[..., 1:]
    means = (costs * counted).sum(-1) / counted.sum(-1).clamp_min(1)  # () or (B,)
    return means.sum() / counted.any(-1).sum().clamp_min(1)
