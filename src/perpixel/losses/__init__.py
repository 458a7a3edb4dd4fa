"""(logits (B, K, *S), target (B, *S)) -> scalar. Each loss decides the empty class, the ignored pixel and the batch
in which all is ignored; all are computed in float32, whatever autocast says."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from perpixel.losses.bootstrapped import Bootstrapped, bootstrapped_cross_entropy
from perpixel.losses.border import BorderCrossEntropy, border_cross_entropy, border_weights
from perpixel.losses.boundary import Boundary, boundary_loss
from perpixel.losses.class_weights import CLASS_WEIGHTS, class_weights, positive_weight
from perpixel.losses.cross_entropy import BinaryCrossEntropy, CrossEntropy, binary_cross_entropy, cross_entropy
from perpixel.losses.dice import Dice, soft_dice
from perpixel.losses.focal import Focal, binary_focal, focal
from perpixel.losses.focal_tversky import FocalTversky, focal_tversky
from perpixel.losses.generalised_dice import GeneralisedDice, generalised_dice
from perpixel.losses.hills import hill_loss
from perpixel.losses.iou import IoU, soft_iou
from perpixel.losses.lovasz import LovaszHinge, LovaszSoftmax, jaccard_weights, lovasz_hinge, lovasz_softmax
from perpixel.losses.ms_ssim import MSSSIM, ms_ssim, ms_ssim_loss
from perpixel.losses.ohem import OHEM, ohem_cross_entropy
from perpixel.losses.presence import presence_loss
from perpixel.losses.presets import hybrid
from perpixel.losses.spec import build_loss, parse_loss
from perpixel.losses.sum import WeightedSum
from perpixel.losses.tversky import Tversky, tversky

__all__ = [
    "CLASS_WEIGHTS",
    "LOSSES",
    "MSSSIM",
    "OHEM",
    "BinaryCrossEntropy",
    "Bootstrapped",
    "BorderCrossEntropy",
    "Boundary",
    "CrossEntropy",
    "Dice",
    "Focal",
    "FocalTversky",
    "GeneralisedDice",
    "IoU",
    "LovaszHinge",
    "LovaszSoftmax",
    "Tversky",
    "WeightedSum",
    "binary_cross_entropy",
    "binary_focal",
    "bootstrapped_cross_entropy",
    "border_cross_entropy",
    "border_weights",
    "boundary_loss",
    "class_weights",
    "create_loss",
    "cross_entropy",
    "focal",
    "focal_tversky",
    "generalised_dice",
    "hill_loss",
    "hybrid",
    "jaccard_weights",
    "lovasz_hinge",
    "lovasz_softmax",
    "ms_ssim",
    "ms_ssim_loss",
    "ohem_cross_entropy",
    "parse_loss",
    "positive_weight",
    "presence_loss",
    "soft_dice",
    "soft_iou",
    "tversky",
]

LOSSES: dict[str, Callable[..., nn.Module]] = {
    "ce": CrossEntropy,
    "bce": BinaryCrossEntropy,
    "focal": Focal,
    "ohem": OHEM,
    "bootstrapped": Bootstrapped,
    "border_ce": BorderCrossEntropy,
    "boundary": Boundary,
    "dice": Dice,
    "generalised_dice": GeneralisedDice,
    "tversky": Tversky,
    "focal_tversky": FocalTversky,
    "iou": IoU,
    "lovasz": LovaszSoftmax,
    "lovasz_hinge": LovaszHinge,
    "msssim": MSSSIM,
    "hybrid": hybrid,
}


def create_loss(
    spec: str,
    *,
    class_weights: Tensor | None = None,
    ignore_index: int | None = None,
    class_pixels: Sequence[int] | None = None,
) -> nn.Module:
    """The loss that `spec` describes: "ce", "focal:gamma=2", "0.5*ce+dice:smooth=1e-5,classes=all".

    Args:
        spec: terms joined by +, each weight*name:option=value,option=value with a name of `LOSSES`.
        class_weights: (K,) float for the terms that take them: those that are means over pixels, and "hybrid".
        ignore_index: target value left out of every term.
        class_pixels: pixels of each class over the training set; "bce" takes its pos_weight from them.
    Returns:
        A module called as loss(logits (B, K, *S), target (B, *S)) -> scalar.
    Raises:
        InputError: unknown loss, option or value; the text says which and what is known.
    """
    return build_loss(spec, LOSSES, class_weights=class_weights, ignore_index=ignore_index, class_pixels=class_pixels)
