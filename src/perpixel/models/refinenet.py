"""RefineNet: from the coarsest features to the finest, each block fuses one more resolution and pools its context.

Lin, Milan, Shen, Reid, "RefineNet: Multi-path refinement networks for high-resolution semantic segmentation",
CVPR 2017, arXiv 1611.06612; sizes and order as in the authors' release.

    res5 (1/32) -> RefineNet-4 -+
    res4 (1/16) ------------> RefineNet-3 -+
    res3 (1/8)  -----------------------> RefineNet-2 -+
    res2 (1/4)  ----------------------------------> RefineNet-1 -> score -> logits, resized to the image

    RefineNet block:  tap -> 3x3 -> RCU -> RCU -> 3x3 --+
                                   coarser block -> 3x3 -+ (sum at the larger size) -> ReLU -> pooling chain -> RCUs

The paper gives every path into a block two residual units and every block one behind its pooling, the last block three.
The release puts three behind every pooling and two on the taps only: the same units, counted from the other side.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor, nn

from perpixel.errors import InputError
from perpixel.layers import resize_like, resize_to
from perpixel.models.card import Card, Count
from perpixel.models.dilated_encoder import dilated_encoder, encoder_parts, fit_image, logits_of
from perpixel.models.taps import taps

INPUT_UNITS = 2
POOL_SIZE = 5

CARD = Card(
    title="RefineNet",
    paper=(
        'Lin, Milan, Shen, Reid, "RefineNet: Multi-path refinement networks for high-resolution semantic '
        'segmentation", '
        "CVPR 2017, arXiv 1611.06612"
    ),
    counts=(
        Count("ResNet-101, 21 classes", 118_052_437),
        Count("ResNet-101, 21 classes, 2 poolings and 1 output unit", 93_277_269,
              options={"poolings": 2, "output_units": 1}),
    ),
    scores=(
        "Pascal VOC 2012 test: 82.4 mIoU (ResNet-101), 83.4 (ResNet-152)",
        "Cityscapes test: 73.6 mIoU (ResNet-101)",
        "Pascal Context: 47.1 mIoU, ADE20K val: 40.2 (ResNet-101)",
    ),
    training=(
        "SGD with batch 1, momentum 0.9, weight decay 5e-4, rate 5e-4 lowered to 5e-5 by hand, a tenth of it in the "
        "backbone, whose batch normalisation keeps its statistics; crops of 400 pixels (600 on Cityscapes) chosen to "
        "balance the classes, scales 0.7 to 1.3, flips."
    ),
    deviations=(
        "The paper draws two poolings a block, the authors' release has four: four is the default.",
        "The release later moved each convolution in front of its pool: improved_pooling=True; the default is the "
        "paper's order.",
        "The release enlarges the image by 1.2 before the network: enlarge=1.2; the default leaves it as it is.",
        "One dropout, before the classifier, as in the release; a well-known port also drops on the two coarsest taps.",
        "ResNet of variant b, whose weights are common; the paper's Caffe weights fit variant a.",
    ),
)  # fmt: skip


class ResidualUnit(nn.Module):
    """RCU: maps + conv(ReLU(conv(ReLU(maps)))), no normalisation: (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)

    def forward(self, maps: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        # Not in place: the sum needs the values below zero too.
        return maps + self.conv2(F.relu(self.conv1(F.relu(maps))))


class Fusion(nn.Module):
    """A convolution on every path to one width, all interpolated to the largest size and summed.

    [(B, C_i, H_i, W_i)] -> (B, out_channels, max H_i, max W_i).
    """

    def __init__(self, channels: Sequence[int], out_channels: int, kernel_size: int = 3) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Conv2d(each, out_channels, kernel_size, padding=kernel_size // 2, bias=False) for each in channels
        )

    def forward(self, paths: Sequence[Tensor]) -> Tensor:
        """See the class."""
        size = max(path.shape[-2] for path in paths), max(path.shape[-1] for path in paths)
        fused = [resize_to(conv(path), size, align_corners=True) for conv, path in zip(self.convs, paths)]
        return sum(fused[1:], fused[0])


class ChainedPooling(nn.Module):
    """CRP: maps + p1 + p2 + ..., where p1 = conv(pool(maps)) and each further one starts from the one before.

    (B, C, H, W) -> (B, C, H, W). A chain, not a pyramid: n pools of 5 pixels see 4n + 1.

    Args:
        conv_first: convolve, then pool.
    """

    def __init__(self, channels: int, poolings: int, kernel_size: int = 3, *, conv_first: bool = False) -> None:
        super().__init__()
        self.conv_first = conv_first
        self.convs = nn.ModuleList(
            nn.Conv2d(channels, channels, kernel_size, padding=kernel_size // 2, bias=False) for _ in range(poolings)
        )

    def forward(self, maps: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        total = link = maps
        for conv in self.convs:
            link = _pool(conv(link)) if self.conv_first else conv(_pool(link))
            total = total + link
        return total


def _pool(maps: Tensor) -> Tensor:
    return F.max_pool2d(maps, POOL_SIZE, 1, POOL_SIZE // 2)


class RefineNetBlock(nn.Module):
    """tap (B, C, H, W), and the output of the next coarser block where there is one -> (B, width', H, W).

    Args:
        tap_channels: of the backbone's feature.
        width: to which the feature is reduced.
        coarser: channels of the coarser block; 0 for the first block. The block has the smaller of the two widths.
    """

    def __init__(
        self, tap_channels: int, width: int, coarser: int, *, poolings: int, output_units: int, conv_first: bool
    ) -> None:
        super().__init__()
        self.out_channels = min(width, coarser) if coarser else width
        self.reduce = nn.Conv2d(tap_channels, width, 3, padding=1, bias=False)
        self.input_units = nn.Sequential(*(ResidualUnit(width) for _ in range(INPUT_UNITS)))
        self.fusion = Fusion([coarser, width], self.out_channels) if coarser else None
        self.pooling = ChainedPooling(self.out_channels, poolings, conv_first=conv_first)
        self.output_units = nn.Sequential(*(ResidualUnit(self.out_channels) for _ in range(output_units)))

    def forward(self, tap: Tensor, coarser: Tensor | None) -> Tensor:
        """See the class."""
        maps = self.input_units(self.reduce(tap))
        if self.fusion is not None and coarser is not None:
            maps = self.fusion([coarser, maps])
        return self.output_units(self.pooling(F.relu(maps)))


class RefineNet(nn.Module):
    """Cascaded refinement of all resolutions, with chained residual pooling; no dilation anywhere.

    image (B, C, H, W) of any size -> logits (B, K, H, W).

    Args:
        encoder: "resnet101", any other ResNet, or a name for `create_encoder`.
        variant: of a ResNet, "a", "b" or "c"; None takes timm's.
        weights: of the encoder: None, "imagenet" or a file.
        width: channels of the blocks; the coarsest has twice as many.
        poolings: in the chain of each block; the paper draws 2, the release has 4.
        output_units: residual units behind each chain.
        improved_pooling: convolve before each pool, as the release does since its update.
        dropout: before the classifier.
        enlarge: factor by which the image is enlarged first; the release has 1.2.
    Raises:
        InputError: an option out of range, or an encoder without a feature at every stride from 4 on.
    """

    aux_weights: tuple[float, ...] = ()
    margin = 0

    def __init__(
        self,
        in_channels: int = 3,
        num_classes: int = 21,
        *,
        encoder: str = "resnet101",
        variant: str | None = "b",
        weights: str | Path | None = None,
        width: int = 256,
        poolings: int = 4,
        output_units: int = 3,
        improved_pooling: bool = False,
        dropout: float = 0.5,
        enlarge: float = 1.0,
    ) -> None:
        super().__init__()
        _check(width, poolings, output_units, dropout, enlarge)
        self.enlarge = enlarge
        self.encoder = dilated_encoder(
            "refinenet", encoder, in_channels=in_channels, weights=weights, output_stride=32, variant=variant
        )
        self.taps = taps(self.encoder, "refinenet")
        self.blocks = nn.ModuleList()
        before = 0
        for tap in self.taps:
            block = RefineNetBlock(
                self.encoder.channels[tap], width if before else 2 * width, before,
                poolings=poolings, output_units=output_units, conv_first=improved_pooling,
            )  # fmt: skip
            self.blocks.append(block)
            before = block.out_channels
        self.dropout = nn.Dropout(dropout)
        self.score = nn.Conv2d(before, num_classes, 3, padding=1)
        for part in (self.blocks, self.score):
            normal_(part)

    def forward(self, image: Tensor) -> Tensor:
        """image (B, C, H, W) float -> logits (B, K, H, W)."""
        enlarged = self._enlarged(image)
        fitted = fit_image(enlarged, self.encoder)
        features = self.encoder(fitted)
        maps = None
        for tap, block in zip(self.taps, self.blocks):
            maps = block(features[tap], maps)
        logits = logits_of(self.score(self.dropout(maps)), fitted, enlarged, align_corners=True)
        return resize_like(logits, image, align_corners=False)

    def stages(self) -> dict[str, nn.Module]:
        """The parts that `describe` lists, in the paper's order."""
        count = len(self.blocks)
        blocks = {f"RefineNet-{count - number}": block for number, block in enumerate(self.blocks)}
        return encoder_parts(self.encoder) | blocks | {"score": self.score}

    def _enlarged(self, image: Tensor) -> Tensor:
        if self.enlarge == 1:
            return image
        height, width = image.shape[-2:]
        return resize_to(image, (int(height * self.enlarge), int(width * self.enlarge)), align_corners=False)


def normal_(module: nn.Module) -> None:
    """Normal(0, 0.01) weights and zero bias in every convolution: how both RefineNets start their new layers."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.normal_(part.weight, std=0.01)
            if part.bias is not None:
                nn.init.zeros_(part.bias)


def _check(width: int, poolings: int, output_units: int, dropout: float, enlarge: float) -> None:
    if width < 1:
        raise InputError(f"option width={width} of refinenet: it must be at least 1")
    if poolings < 1:
        raise InputError(f"option poolings={poolings} of refinenet: the paper has 2, the release 4, the least is 1")
    if output_units < 0:
        raise InputError(f"option output_units={output_units} of refinenet: it must be 0 or more")
    if not 0 <= dropout < 1:
        raise InputError(f"option dropout={dropout} of refinenet: it is a probability, from 0 to below 1")
    if not 1 <= enlarge <= 4:
        raise InputError(f"option enlarge={enlarge} of refinenet: choose a factor from 1 to 4")
