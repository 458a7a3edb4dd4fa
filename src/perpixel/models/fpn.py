"""FPN for semantic segmentation: a top-down pyramid, and every level brought to stride 4 and summed.

Kirillov, Girshick, He, Dollar, "Panoptic feature pyramid networks", CVPR 2019, semantic branch; the pyramid is that
of Lin et al., "Feature pyramid networks for object detection", CVPR 2017.

    stride 32 -- 1x1 ------------------- 3x3 -- [3x3, x2] [3x3, x2] [3x3, x2] --+
                  x2                                                            |
    stride 16 -- 1x1 -- + -------------- 3x3 -- [3x3, x2] [3x3, x2] ----------- +
                        x2                                                      |
    stride 8 --- 1x1 -- + -------------- 3x3 -- [3x3, x2] --------------------- +
                        x2                                                      |
    stride 4 --- 1x1 -- + -------------- 3x3 -- [3x3] ------------------------- + -- 1x1 -- x4 to the image
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perpixel.encoders import create_encoder
from perpixel.errors import InputError
from perpixel.layers import classifier_normal_, he_normal_, resize_like
from perpixel.models.card import Card, Count
from perpixel.models.dilated_encoder import encoder_parts, fit_image, is_own_resnet, logits_of

CARD = Card(
    title="Panoptic FPN, semantic branch",
    paper="Kirillov, Girshick, He, Dollar, \"Panoptic feature pyramid networks\", CVPR 2019, arXiv 1901.02446",
    counts=(
        Count("ResNet-50", 28_478_933),
        Count("ResNet-101", 47_471_061, options={"encoder": "resnet101"}),
        Count("smp's, ResNet-50, one class", 26_116_033, num_classes=1, options={"smooth": False}),
    ),
    scores=("Cityscapes val, ResNet-101-FPN, semantic branch alone: mIoU 77.7",),
    training="Cityscapes: SGD 0.9, 32 images a step, crop 512x1024, lr 0.01 for 65k steps, colour jitter, hard pixels.",
    deviations=(
        "Interpolation goes to the size of the partner map, so that any image size works.",
        "smooth=False leaves out the 3x3 convolution behind each level, as segmentation-models-pytorch does; with "
        "dropout 0.2 and align_corners=True it is that library's FPN.",
    ),
)  # fmt: skip
FINEST = 4  # stride at which the levels are summed
GROUPS = 32  # of the group normalisation
MERGES = ("add", "cat")


class Pyramid(nn.Module):
    """Features, fine to coarse -> as many maps (B, channels, ...), each with the coarser ones added from above.

    Args:
        smooth: a 3x3 convolution behind each sum, against the aliasing of the upsampling.
    """

    def __init__(self, in_channels: Sequence[int], channels: int, smooth: bool) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(nn.Conv2d(each, channels, 1) for each in in_channels)
        smoothing = [nn.Conv2d(channels, channels, 3, padding=1) if smooth else nn.Identity() for _ in in_channels]
        self.smooth = nn.ModuleList(smoothing)
        self.sums = nn.ModuleList(TopDown() for _ in in_channels[1:])

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """[(B, C_i, H_i, W_i)] fine to coarse -> [(B, channels, H_i, W_i)]."""
        maps = self.lateral[-1](features[-1])
        levels = [self.smooth[-1](maps)]
        for index in range(len(features) - 2, -1, -1):
            maps = self.sums[index](self.lateral[index](features[index]), maps)
            levels.insert(0, self.smooth[index](maps))
        return levels


class TopDown(nn.Module):
    """A lateral map (B, C, H, W) and a coarser map, brought to its size by nearest neighbours: their sum."""

    def forward(self, lateral: Tensor, coarser: Tensor) -> Tensor:
        """(B, C, H, W) and (B, C, h, w) -> (B, C, H, W)."""
        return lateral + F.interpolate(coarser, lateral.shape[-2:], mode="nearest")


class Level(nn.Module):
    """One level to stride 4: (B, C, H, W) -> (B, K, H / 4, W / 4) of the image, a 3x3 convolution before each doubling.

    Args:
        doublings: number of upsamplings; a level without any has one convolution all the same.
    """

    def __init__(self, in_channels: int, channels: int, doublings: int, align_corners: bool) -> None:
        super().__init__()
        self.doublings, self.align_corners = doublings, align_corners
        inputs = [in_channels, *[channels] * max(0, doublings - 1)]
        self.convs = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(each, channels, 3, padding=1, bias=False),
                nn.GroupNorm(GROUPS, channels),
                nn.ReLU(inplace=True),
            )
            for each in inputs
        )

    def forward(self, maps: Tensor, finer: Sequence[Tensor]) -> Tensor:
        """maps (B, C, H, W) and the finer levels, fine to coarse, whose sizes it takes on one after another."""
        for number, conv in enumerate(self.convs):
            maps = conv(maps)
            if self.doublings:
                maps = resize_like(maps, finer[self.doublings - 1 - number], align_corners=self.align_corners)
        return maps


class FPN(nn.Module):
    """Top-down pyramid over any encoder, its levels upsampled to stride 4 and summed.

    image (B, C, H, W) of any size -> logits (B, K, H, W).

    Args:
        encoder: "resnet18" ... "resnet152", or any name for `create_encoder`.
        weights: of the encoder: None, "imagenet" or a file.
        variant: of the ResNet, "a", "b" or "c"; None takes timm's.
        channels: of the pyramid.
        head_channels: to which every level is brought before the sum; a multiple of 32, from 64 on.
        smooth: the 3x3 convolution behind each level of the pyramid.
        merge: "add" the levels, or "cat".
        dropout: of whole channels, before the classifier.
        align_corners: how maps and scores are interpolated.
    Raises:
        InputError: an option out of range, or an encoder without features at strides 4, 8, ...
    """

    aux_weights: tuple[float, ...] = ()
    margin = 0

    def __init__(
        self,
        in_channels: int = 3,
        num_classes: int = 21,
        *,
        encoder: str = "resnet50",
        weights: str | Path | None = None,
        variant: str | None = "b",
        channels: int = 256,
        head_channels: int = 128,
        smooth: bool = True,
        merge: str = "add",
        dropout: float = 0.0,
        align_corners: bool = False,
    ) -> None:
        super().__init__()
        _check(channels, head_channels, merge, dropout)
        self.encoder = create_encoder(
            encoder,
            in_channels=in_channels,
            weights=weights,
            variant=variant if is_own_resnet(encoder, variant) else None,
        )
        self.indices = levels_of(self.encoder.name, self.encoder.strides)
        self.merge, self.align_corners = merge, align_corners
        self.pyramid = Pyramid([self.encoder.channels[index] for index in self.indices], channels, smooth)
        self.levels = nn.ModuleList(
            Level(channels, head_channels, doublings, align_corners) for doublings in range(len(self.indices))
        )
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(head_channels * (len(self.indices) if merge == "cat" else 1), num_classes, 1)
        for part in (self.pyramid, self.levels):
            he_normal_(part, fan="out")
        classifier_normal_(self.classifier)

    def forward(self, image: Tensor) -> Tensor:
        """image (B, C, H, W) float -> logits (B, K, H, W)."""
        fitted = fit_image(image, self.encoder)
        features = self.encoder(fitted)
        pyramid = self.pyramid([features[index] for index in self.indices])
        levels = [level(maps, pyramid[:place]) for place, (level, maps) in enumerate(zip(self.levels, pyramid))]
        maps = torch.cat(levels[::-1], dim=1) if self.merge == "cat" else reduce(torch.add, levels)
        return logits_of(self.classifier(self.dropout(maps)), fitted, image, align_corners=self.align_corners)

    def stages(self) -> dict[str, nn.Module]:
        """The parts that `describe` lists, in order."""
        strides = [self.encoder.strides[index] for index in self.indices]
        parts = encoder_parts(self.encoder)
        parts |= {f"1x1 at {stride}": part for stride, part in reversed(list(zip(strides, self.pyramid.lateral)))}
        parts |= {f"sum at {stride}": part for stride, part in reversed(list(zip(strides, self.pyramid.sums)))}
        parts |= {f"3x3 at {stride}": part for stride, part in reversed(list(zip(strides, self.pyramid.smooth)))}
        parts |= {f"{stride} to {FINEST}": part for stride, part in zip(strides, self.levels)}
        return parts | {"classifier": self.classifier}


def levels_of(name: str, strides: Sequence[int]) -> list[int]:
    """Indices of the features at strides 4, 8, ..., the deepest where a stride repeats.

    Raises:
        InputError: a stride is missing in between, or there is none at 4.
    """
    last = {stride: index for index, stride in enumerate(strides) if stride >= FINEST}
    wanted = [FINEST * 2**step for step in range(len(last))]
    if sorted(last) != wanted or len(wanted) < 2:
        raise InputError(
            f"fpn needs features at strides 4, 8, ..., encoder '{name}' gives strides {list(strides)}: "
            "choose another encoder"
        )
    return [last[stride] for stride in wanted]


def _check(channels: int, head_channels: int, merge: str, dropout: float) -> None:
    if channels < 1:
        raise InputError(f"option channels={channels} of fpn: it must be at least 1")
    if head_channels <= GROUPS or head_channels % GROUPS:  # one value a group cannot be normalised
        raise InputError(
            f"option head_channels={head_channels} of fpn: give a multiple of {GROUPS} from {2 * GROUPS} on"
        )
    if merge not in MERGES:
        raise InputError(f"option merge={merge!r} of fpn: choose 'add' or 'cat'")
    if not 0 <= dropout < 1:
        raise InputError(f"option dropout={dropout} of fpn: it is a probability, from 0 to below 1")
