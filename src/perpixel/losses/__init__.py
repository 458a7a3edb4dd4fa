"""(logits (B, K, *S), target (B, *S)) -> scalar. Each loss decides the empty class, the ignored pixel and the batch
in which all is ignored; all are computed in float32, whatever autocast says."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from perpixel.losses.class_weights import CLASS_WEIGHTS, class_weights, positive_weight
from perpixel.losses.cross_entropy import BinaryCrossEntropy, CrossEntropy, binary_cross_entropy, cross_entropy
from perpixel.losses.dice import Dice, soft_dice
from perpixel.losses.focal import Focal, binary_focal, focal
from perpixel.losses.spec import build_loss, parse_loss
from perpixel.losses.sum import WeightedSum

__all__ = [
    "CLASS_WEIGHTS",
    "LOSSES",
    "BinaryCrossEntropy",
    "CrossEntropy",
    "Dice",
    "Focal",
    "WeightedSum",
    "binary_cross_entropy",
    "binary_focal",
    "class_weights",
    "create_loss",
    "cross_entropy",
    "focal",
    "parse_loss",
    "positive_weight",
    "soft_dice",
]

LOSSES: dict[str, Callable[..., nn.Module]] = {
    "ce": CrossEntropy,
    "bce": BinaryCrossEntropy,
    "focal": Focal,
    "dice": Dice,
}


def create_loss(spec: str, *, class_weights: Tensor | None = None, ignore_index: int | None = None) -> nn.Module:
    """The loss that `spec` describes: "ce", "focal:gamma=2", "0.5*ce+dice:smooth=1e-5,classes=all".

    Args:
        spec: terms joined by +, each weight*name:option=value,option=value with a name of `LOSSES`.
        class_weights: (K,) float for the terms that take them (all but "dice").
        ignore_index: target value left out of every term.
    Returns:
        A module called as loss(logits (B, K, *S), target (B, *S)) -> scalar.
    Raises:
        InputError: unknown loss, option or value; the text says which and what is known.
    """
    return build_loss(spec, LOSSES, class_weights=class_weights, ignore_index=ignore_index)
