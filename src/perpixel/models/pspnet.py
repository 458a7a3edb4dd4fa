"""PSPNet: the features beside their averages over 1, 4, 9 and 36 regions of the image.

Zhao, Shi, Qi, Wang, Jia, "Pyramid scene parsing network", CVPR 2017, arXiv 1612.01105.

                                      +-- mean over 1x1 bins -- 1x1 --+
                                      +-- mean over 2x2 bins -- 1x1 --+
    image -> ResNet, stride 8 --------+-- mean over 3x3 bins -- 1x1 --+-- concatenate -- 3x3 -- 1x1 -- x8 -- logits
                   |                  +-- mean over 6x6 bins -- 1x1 --+
                   |                  +-------------------------------+
                   +-- res4, in training only: 3x3 -- 1x1 -- x8, loss weight 0.4

The authors pool with windows of 60, 30, 20 and 10 cells, for images of 473 pixels. The bins here are those of
`torch.nn.functional.adaptive_avg_pool2d`: the same where 6 divides the map's sides, as it does for images of 8k + 1
pixels with k + 1 divisible by 6 (473, 713), and nearly equal, overlapping windows on any other map.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from perpixel.errors import InputError
from perpixel.layers import ConvNormAct, classifier_normal_, he_normal_, resize_like
from perpixel.models.card import Card, Count
from perpixel.models.dilated_encoder import dilated_encoder, encoder_parts, fit_image, logits_of

BINS = (1, 2, 3, 6)

CARD = Card(
    title="PSPNet",
    paper='Zhao, Shi, Qi, Wang, Jia, "Pyramid scene parsing network", CVPR 2017, arXiv 1612.01105',
    counts=(
        Count("ResNet-50 with auxiliary head, 21 classes", 49_081_578),
        Count("ResNet-50, 21 classes", 46_716_373, options={"aux_weight": 0.0}),
        Count("ResNet-101, 21 classes", 65_708_501, options={"encoder": "resnet101", "aux_weight": 0.0}),
    ),
    scores=(
        "Pascal VOC 2012 val: 77.05 mIoU (ResNet-50), 79.07 (ResNet-101), one scale, the authors' later release",
        "Cityscapes val: 77.30 mIoU (ResNet-50), 78.63 (ResNet-101), one scale, the same",
        "ADE20K val: 41.89 mIoU (ResNet-50), 43.10 (ResNet-101), one scale, the same; 41.68 (ResNet-50) in the paper",
        "Pascal VOC 2012 test: 82.6 mIoU, 85.4 with COCO; Cityscapes test: 78.4, 80.2 with the coarse labels (paper)",
    ),
    training=(
        "SGD with momentum 0.9, weight decay 1e-4, polynomial decay of power 0.9 from 0.01, ten times that in new "
        "layers; batch 16 with batch normalisation synchronised over the devices; crops of 473 pixels (713 on "
        "Cityscapes), scales 0.5 to 2, rotation by up to 10 degrees, blur, flips. Tested by sliding crops with flips, "
        "and at scales 0.5 to 1.75."
    ),
    deviations=(
        "ResNet-50 by default, the authors' smallest; the scores on test sets are ResNet-101's and deeper ones'.",
        "Adaptive bins in place of fixed windows, so that any image is taken; they differ where 6 does not divide the "
        "feature map's sides.",
        "Dropout drops whole channels, as in the authors' PyTorch release.",
        "The mean of the whole map has one value a channel and image, so training needs batches of two or more.",
    ),
)


class PyramidPooling(nn.Module):
    """(B, C, H, W) -> (B, C + branches * (C // branches), H, W): the maps, then their means over each grid of bins.

    Args:
        bins: sides of the grids.
    """

    def __init__(self, channels: int, bins: Sequence[int]) -> None:
        super().__init__()
        self.bins = tuple(bins)
        width = max(1, channels // len(bins))
        self.branches = nn.ModuleDict({f"bins{side}": ConvNormAct(channels, width, 1) for side in bins})
        self.out_channels = channels + len(bins) * width

    def forward(self, maps: Tensor) -> Tensor:
        """See the class."""
        if self.training and maps.shape[0] == 1 and 1 in self.bins:
            raise InputError(
                "batch of 1: the mean of the whole image leaves batch normalisation one value per channel in training, "
                "whatever the image's size: use batches of 2 or more images"
            )
        pooled = [branch(adaptive_mean(maps, side)) for side, branch in zip(self.bins, self.branches.values())]
        return torch.cat([maps, *(resize_like(each, maps, align_corners=True) for each in pooled)], dim=1)


def adaptive_mean(maps: Tensor, side: int) -> Tensor:
    """(B, C, H, W) -> (B, C, side, side), each cell the mean of its window: `F.adaptive_avg_pool2d`.

    Written as slices, which export to ONNX at any size; the operator itself does only where `side` divides it.
    """
    rows = [maps[..., start:stop, :].mean(-2, keepdim=True) for start, stop in windows(maps.shape[-2], side)]
    maps = torch.cat(rows, dim=-2)
    cols = [maps[..., start:stop].mean(-1, keepdim=True) for start, stop in windows(maps.shape[-1], side)]
    return torch.cat(cols, dim=-1)


def windows(size: int, count: int) -> list[tuple[int, int]]:
    """`count` windows (start, stop) that cover `size` cells; they overlap where it does not divide.

    >>> windows(6, 3), windows(5, 3), windows(1, 2)
    ([(0, 2), (2, 4), (4, 6)], [(0, 2), (1, 4), (3, 5)], [(0, 1), (0, 1)])
    """
    # Rounded up by an addition, since the whole-number division of ONNX rounds negative numbers towards zero.
    return [(number * size // count, ((number + 1) * size + count - 1) // count) for number in range(count)]


class ScoreHead(nn.Sequential):
    """(B, C, H, W) -> scores (B, K, H, W): 3x3 with normalisation and ReLU, dropout of channels, 1x1."""

    def __init__(self, in_channels: int, width: int, num_classes: int, dropout: float) -> None:
        super().__init__()
        self.conv = ConvNormAct(in_channels, width, 3)
        self.dropout = nn.Dropout2d(dropout)
        self.score = nn.Conv2d(width, num_classes, 1)


class PSPNet(nn.Module):
    """Pyramid pooling: every pixel sees its own features and the means over 1, 4, 9 and 36 regions of the image.

    image (B, C, H, W) of any size -> logits (B, K, H, W); in training (logits, auxiliary logits), of one size. The
    published bins belong to feature maps whose sides 6 divides: images of 473 or 713 pixels.

    Args:
        encoder: "resnet50", "resnet101", any other ResNet, or a name for `create_encoder`.
        variant: of a ResNet, "a", "b" or "c", the paper's; None takes timm's.
        weights: of the encoder: None, "imagenet" or a file.
        output_stride: 8, 16 or 32; below 32 the encoder's last stages are dilated.
        bins: sides of the grids of regions.
        width: channels of the head; the auxiliary one has half as many.
        dropout: of channels, before the classifiers.
        aux_weight: of the auxiliary loss; 0 leaves the auxiliary head out.
    Attributes:
        aux_weights: (aux_weight,), or () without an auxiliary head.
    Raises:
        InputError: an option out of range, or one that the encoder does not take.
    """

    margin = 0

    def __init__(
        self,
        in_channels: int = 3,
        num_classes: int = 21,
        *,
        encoder: str = "resnet50",
        variant: str | None = "c",
        weights: str | Path | None = None,
        output_stride: int = 8,
        bins: Sequence[int] = BINS,
        width: int = 512,
        dropout: float = 0.1,
        aux_weight: float = 0.4,
    ) -> None:
        super().__init__()
        _check(bins, width, dropout, aux_weight)
        self.encoder = dilated_encoder(
            "pspnet", encoder,
            in_channels=in_channels, weights=weights, output_stride=output_stride, variant=variant,
        )  # fmt: skip
        self.pyramid = PyramidPooling(self.encoder.channels[-1], bins)
        self.head = ScoreHead(self.pyramid.out_channels, width, num_classes, dropout)
        self.aux_weights: tuple[float, ...] = (aux_weight,) if aux_weight else ()
        self.aux_head: ScoreHead | None = None
        if aux_weight:
            self.aux_head = ScoreHead(self.encoder.channels[-2], max(1, width // 2), num_classes, dropout)
        self._initialise()

    def forward(self, image: Tensor) -> Tensor | tuple[Tensor, ...]:
        """image (B, C, H, W) float -> logits (B, K, H, W); in training with the auxiliary logits behind them."""
        fitted = fit_image(image, self.encoder)
        features = self.encoder(fitted)
        logits = logits_of(self.head(self.pyramid(features[-1])), fitted, image, align_corners=True)
        if not self.training or self.aux_head is None:
            return logits
        return logits, logits_of(self.aux_head(features[-2]), fitted, image, align_corners=True)

    def stages(self) -> dict[str, nn.Module]:
        """The parts that `describe` lists, in the paper's order."""
        pyramid = {f"bins {name.removeprefix('bins')}": branch for name, branch in self.pyramid.branches.items()}
        return encoder_parts(self.encoder) | pyramid | {"conv": self.head.conv, "score": self.head.score}

    def _initialise(self) -> None:
        for part in (self.pyramid, self.head, self.aux_head):
            if part is not None:
                he_normal_(part, fan="out")
            if isinstance(part, ScoreHead):
                classifier_normal_(part.score)


def _check(bins: Sequence[int], width: int, dropout: float, aux_weight: float) -> None:
    if not bins or min(bins) < 1 or len(set(bins)) != len(bins):
        raise InputError(f"option bins={list(bins)} of pspnet: give different sides from 1 on, such as [1, 2, 3, 6]")
    if width < 1:
        raise InputError(f"option width={width} of pspnet: it must be at least 1")
    if not 0 <= dropout < 1:
        raise InputError(f"option dropout={dropout} of pspnet: it is a probability, from 0 to below 1")
    if aux_weight < 0:
        raise InputError(f"option aux_weight={aux_weight} of pspnet: it must be 0 (no auxiliary head) or more")
