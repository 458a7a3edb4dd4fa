"""Border-weighted cross entropy: the narrow gaps between objects weigh most, so that touching ones come apart.

Ronneberger, Fischer, Brox, "U-Net: convolutional networks for biomedical image segmentation", MICCAI 2015. The paper
adds up the weighted pixels; here it is their weighted mean.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from perpixel.errors import InputError
from perpixel.labels import check_gaps, edge_weights, gap_weights, objects_of
from perpixel.losses.cross_entropy import target_entropy
from perpixel.losses.target import check_class_weights, prepare

AROUND = ("objects", "edges")


def border_cross_entropy(
    logits: Tensor,
    target: Tensor,
    *,
    border_map: Tensor | None = None,
    w0: float = 10.0,
    sigma: float = 5.0,
    around: str = "objects",
    class_weights: Tensor | None = None,
    ignore_index: int | None = None,
) -> Tensor:
    """Weighted mean of -log p(target), each valid pixel weighing w_class + w0 exp(-(d1 + d2)^2 / (2 sigma^2)).

    Args:
        logits: (B, K, *S) float, unnormalised; K = 1 is the binary form: one logit of class 1.
        target: (B, *S) whole numbers, 0..K-1 (0 or 1 where K is 1) or `ignore_index`.
        border_map: (B, *S) float of 0 or more, the extra weights where they are known, as `labels.gap_weights` makes
            them from instances. Without it they are made here from `target`, on the CPU.
        w0: largest extra weight.
        sigma: its width in pixels.
        around: "objects" (d1, d2: distances to the nearest two connected parts of classes other than 0; only pixels of
            class 0 have extra weight), or "edges" (d1 + d2 is the distance to the nearest pixel of another label, for
            scenes in which no class is background).
        class_weights: (K,) float, (2,) where K is 1; None is 1 for all.
        ignore_index: target value left out of sum and count, and no object.
    Returns:
        Scalar, float32 also under autocast. Zero, with zero gradient, when every pixel is ignored or weighs 0.
    """
    with torch.autocast(logits.device.type, enabled=False):
        prepared = prepare(logits, target, ignore_index)
        if border_map is None:
            border_map = border_weights(target, w0=w0, sigma=sigma, around=around, ignore_index=ignore_index)
        elif border_map.shape != target.shape:
            raise InputError(
                f"border_map {tuple(border_map.shape)} does not fit the target {tuple(target.shape)}: "
                "give one weight a pixel"
            )
        weights = border_map.to(prepared.logits)
        if class_weights is None:
            weights = weights + 1
        else:
            weights = weights + check_class_weights(class_weights, prepared.logits)[prepared.target]
        if prepared.valid is not None:
            weights = weights * prepared.valid
        count = weights.sum()
        return (weights * target_entropy(prepared)).sum() / torch.where(count > 0, count, torch.ones_like(count))


def border_weights(
    target: Tensor, *, w0: float = 10.0, sigma: float = 5.0, around: str = "objects", ignore_index: int | None = None
) -> Tensor:
    """The extra weights of a batch of label maps (B, *S), float32 on its device; see `border_cross_entropy`."""
    maps = []
    for label_map in target.detach().cpu().numpy():
        if around == "objects":
            objects = objects_of(label_map, ignore_index=ignore_index)
            maps.append(gap_weights(objects, weight=w0, width_px=sigma))
        else:
            maps.append(edge_weights(label_map, weight=w0, width_px=sigma))
    return torch.from_numpy(np.stack(maps)).to(target.device)


class BorderCrossEntropy(nn.Module):
    """`border_cross_entropy` with its settings: (logits (B, K, *S), target (B, *S)) -> scalar."""

    class_weights: Tensor | None

    def __init__(
        self,
        *,
        class_weights: Tensor | None = None,
        ignore_index: int | None = None,
        w0: float = 10.0,
        sigma: float = 5.0,
        around: str = "objects",
    ) -> None:
        super().__init__()
        check_gaps(w0, sigma)
        if around not in AROUND:
            raise InputError(f"around is '{around}': give 'objects' or 'edges'")
        self.register_buffer("class_weights", class_weights, persistent=False)
        self.ignore_index = ignore_index
        self.w0 = w0
        self.sigma = sigma
        self.around = around

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        return border_cross_entropy(
            logits,
            target,
            w0=self.w0,
            sigma=self.sigma,
            around=self.around,
            class_weights=self.class_weights,
            ignore_index=self.ignore_index,
        )
