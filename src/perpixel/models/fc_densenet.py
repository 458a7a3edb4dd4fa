"""FC-DenseNet, "Tiramisu": a U-Net whose every stage is a dense block, where each layer sees all maps before it.

Jegou, Drozdzal, Vazquez, Romero, Bengio, "The one hundred layers Tiramisu: Fully convolutional DenseNets for semantic
segmentation", CVPR workshops 2017, arXiv 1611.09326, as in the authors' release.

    image -> first -> [dense] ---------------------- skip ------------------------> [up, cat] -> [dense] -> classifier
                         down -> [dense] --- skip ----> [up, cat] -> [dense] only new --^
                                    down -> bottleneck only new -^

On the way down a block hands on its whole stack, input and new maps, so the stack grows. On the way up, and from the
bottleneck, it hands on its new maps only; the last block hands the whole stack to the classifier.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perpixel.errors import InputError
from perpixel.layers import BatchNorm2d, crop_like, pad_to_least
from perpixel.models.card import Card, Count

FIRST_CHANNELS = 48
# Dense layers of every block: five down, bottleneck, five up.
LAYERS56, LAYERS67 = (4,) * 11, (5,) * 11
LAYERS103 = (4, 5, 7, 10, 12, 15, 12, 10, 7, 5, 4)
BN_EVAL = ("running", "batch")
EPSILON = 1e-4  # of batch normalisation in the release

PAPER = (
    'Simon Jegou, Michal Drozdzal, David Vazquez, Adriana Romero, Yoshua Bengio, "The one hundred layers Tiramisu: '
    'Fully convolutional DenseNets for semantic segmentation", CVPR workshops 2017, arXiv 1611.09326'
)
TRAINING = (
    "RMSprop, rate 1e-3 times 0.995 an epoch, decay 1e-4, batches of 3 crops of 224 pixels with horizontal flips, "
    "until the validation mIoU stays for 100 to 150 epochs; then whole images, batch 1, rate 1e-4. Cross-entropy over "
    "pixels that are not void, no class weights."
)
DEVIATIONS = (
    "The authors normalise by the statistics of the batch at test time too, so that the test batch, one whole image, "
    "is part of their result. The default here is running averages, the same answer wherever a tile is cut; "
    "bn_eval='batch' is theirs, each image of a batch by itself, and asks for tiles as large as the images.",
    "The stacks are 896, 1088, 816, 576, 384 and 256 maps wide from the bottleneck of the 103 on, as the release "
    "builds and explains; the paper's table has 880, 1072, 800, ...",
    "Images with a side below 64 are padded with zeros at the end and the logits cut back, so that the deepest map has "
    "2x2 cells at least; the release asks for sides from 32 on.",
    "The paper counts stored values, batch statistics included: 1.4, 3.5 and 9.4 million.",
)


def _card(depth: int, trainable: int, printed: str, scores: str, stored: int) -> Card:
    return Card(
        title=f"FC-DenseNet{depth}",
        paper=PAPER,
        counts=(
            Count("11 classes", trainable, num_classes=11),
            Count("11 classes, with batch statistics", stored, num_classes=11, stored=True, tolerance=1e-3,
                  printed=printed),
        ),
        scores=(f"CamVid-11 test, batch statistics, whole images: {scores}",),
        training=TRAINING,
        deviations=DEVIATIONS,
    )  # fmt: skip


CARD56 = _card(56, 1_376_795, "1.4M", "mIoU 58.9, global 88.9", 1_397_963)
CARD67 = _card(67, 3_463_243, "3.5M", "mIoU 65.8, global 90.8", 3_502_923)
CARD103 = _card(103, 9_322_091, "9.4M", "mIoU 66.9, global 91.5", 9_425_163)


class DenseNorm(BatchNorm2d):
    """Batch normalisation that may use an image's own statistics in eval mode: (B, C, H, W) -> the same.

    Those are what the paper's batches of one image give, here for each image of a batch by itself. Running averages
    are kept either way, so weights can be evaluated in both ways.
    """

    def __init__(self, channels: int, bn_eval: str) -> None:
        super().__init__(channels, eps=EPSILON)
        self.bn_eval = bn_eval

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape, same dtype."""
        if self.training or self.bn_eval == "running":
            return super().forward(input)
        return F.instance_norm(input, weight=self.weight, bias=self.bias, eps=self.eps)


class DenseLayer(nn.Sequential):
    """Normalisation, ReLU, convolution, dropout: (B, C, H, W) -> (B, K, H, W)."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, dropout: float, bn_eval: str) -> None:
        super().__init__()
        self.norm = DenseNorm(in_channels, bn_eval)
        self.act = nn.ReLU(inplace=True)
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2)
        self.dropout = nn.Dropout(dropout)


class DenseBlock(nn.Module):
    """Layers that each add `growth` maps to a stack and see all of it: (B, C, H, W) -> (B, out_channels, H, W).

    Args:
        layers: how many.
        keeps_input: return the whole stack, input first; False returns the new maps only.
    """

    def __init__(
        self, in_channels: int, layers: int, growth: int, *, keeps_input: bool, dropout: float, bn_eval: str
    ) -> None:
        super().__init__()
        self.keeps_input = keeps_input
        self.layers = nn.ModuleList(
            DenseLayer(in_channels + index * growth, growth, 3, dropout, bn_eval) for index in range(layers)
        )
        self.stack_channels = in_channels + layers * growth
        self.out_channels = self.stack_channels if keeps_input else layers * growth

    def forward(self, maps: Tensor) -> Tensor:
        """maps (B, C, H, W) -> (B, out_channels, H, W)."""
        new: list[Tensor] = []
        for layer in self.layers:
            if new:
                maps = torch.cat([maps, new[-1]], dim=1)
            new.append(layer(maps))
        return torch.cat([maps, new[-1]] if self.keeps_input else new, dim=1)


class TransitionDown(nn.Sequential):
    """Dense layer of kernel 1 at the same width and a 2x2 max-pool rounding down: (B, C, H, W) -> (B, C, H/2, W/2)."""

    def __init__(self, channels: int, dropout: float, bn_eval: str) -> None:
        super().__init__()
        self.layer = DenseLayer(channels, channels, 1, dropout, bn_eval)
        self.pool = nn.MaxPool2d(2)


class FCDenseNet(nn.Module):
    """Dense blocks down, a bottleneck, dense blocks up: image (B, C, H, W) of any size -> logits (B, K, H, W).

    Args:
        layers: dense layers of each block, an odd number of blocks: down, bottleneck, up.
        growth: maps that each layer adds.
        first_channels: of the first convolution.
        dropout: probability of dropping a value behind every convolution but the first and the last.
        bn_eval: "running" averages in eval mode, or as the paper "batch", the statistics of each image itself.
    Raises:
        InputError: an option out of range.
    """

    aux_weights: tuple[float, ...] = ()
    margin = 0

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        layers: Sequence[int],
        growth: int,
        first_channels: int,
        dropout: float,
        bn_eval: str,
    ) -> None:
        super().__init__()
        _check(layers, growth, first_channels, dropout, bn_eval)
        pools = len(layers) // 2
        # One value a channel has no variance: the deepest map shall have 2x2 cells.
        self.least = 2 ** (pools + 1)
        self.first = nn.Conv2d(in_channels, first_channels, 3, padding=1)
        self.down, self.transitions_down = nn.ModuleList(), nn.ModuleList()
        self.up, self.transitions_up = nn.ModuleList(), nn.ModuleList()
        channels, skips = first_channels, []
        for count in layers[:pools]:
            block = DenseBlock(channels, count, growth, keeps_input=True, dropout=dropout, bn_eval=bn_eval)
            channels = block.out_channels
            skips.append(channels)
            self.down.append(block)
            self.transitions_down.append(TransitionDown(channels, dropout, bn_eval))
        self.bottleneck = DenseBlock(
            channels, layers[pools], growth, keeps_input=False, dropout=dropout, bn_eval=bn_eval
        )
        channels = self.bottleneck.out_channels
        for number, count in enumerate(layers[pools + 1 :], start=1):
            self.transitions_up.append(nn.ConvTranspose2d(channels, channels, 3, stride=2))
            is_last = number == pools
            block = DenseBlock(
                channels + skips.pop(), count, growth, keeps_input=is_last, dropout=dropout, bn_eval=bn_eval
            )
            channels = block.out_channels
            self.up.append(block)
        self.classifier = nn.Conv2d(channels, num_classes, 1)
        self._initialise()

    def forward(self, image: Tensor) -> Tensor:
        """image (B, C, H, W) float -> logits (B, K, H, W)."""
        maps = self.first(pad_to_least(image, self.least))
        skips = []
        for block, transition in zip(self.down, self.transitions_down):
            maps = block(maps)
            skips.append(maps)
            maps = transition(maps)
        maps = self.bottleneck(maps)
        for transition, block in zip(self.transitions_up, self.up):
            maps = block(_with_skip(transition(maps), skips.pop()))
        return self.classifier(maps)[..., : image.shape[-2], : image.shape[-1]]

    def stages(self) -> dict[str, nn.Module]:
        """The parts that `describe` lists, in the paper's order."""
        parts: dict[str, nn.Module] = {"first": self.first}
        for number, (block, transition) in enumerate(zip(self.down, self.transitions_down), start=1):
            parts |= {f"dense {number}": block, f"transition down {number}": transition}
        parts["bottleneck"] = self.bottleneck
        for number, (transition, block) in enumerate(zip(self.transitions_up, self.up), start=1):
            parts |= {f"transition up {number}": transition, f"dense up {number}": block}
        return parts | {"classifier": self.classifier}

    def _initialise(self) -> None:
        for part in self.modules():
            if isinstance(part, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_uniform_(part.weight, nonlinearity="relu")
                assert part.bias is not None
                nn.init.zeros_(part.bias)


def fc_densenet56(
    in_channels: int = 3,
    num_classes: int = 21,
    *,
    layers: Sequence[int] = LAYERS56,
    growth: int = 12,
    first_channels: int = FIRST_CHANNELS,
    dropout: float = 0.2,
    bn_eval: str = "running",
) -> FCDenseNet:
    """FC-DenseNet56: four layers of growth 12 in each of eleven dense blocks.

    Args:
        layers: of each block, down, bottleneck and up.
        growth: maps that each layer adds to its stack.
        first_channels: of the first convolution.
        dropout: behind every convolution but the first and the last.
        bn_eval: "running" averages in eval mode; "batch" as the paper, the statistics of each image itself.
    Raises:
        InputError: an option out of range.
    """
    return FCDenseNet(
        in_channels, num_classes, layers=layers, growth=growth, first_channels=first_channels, dropout=dropout,
        bn_eval=bn_eval,
    )  # fmt: skip


def fc_densenet67(
    in_channels: int = 3,
    num_classes: int = 21,
    *,
    layers: Sequence[int] = LAYERS67,
    growth: int = 16,
    first_channels: int = FIRST_CHANNELS,
    dropout: float = 0.2,
    bn_eval: str = "running",
) -> FCDenseNet:
    """FC-DenseNet67: five layers of growth 16 in each of eleven dense blocks; options as `fc_densenet56`."""
    return FCDenseNet(
        in_channels, num_classes, layers=layers, growth=growth, first_channels=first_channels, dropout=dropout,
        bn_eval=bn_eval,
    )  # fmt: skip


def fc_densenet103(
    in_channels: int = 3,
    num_classes: int = 21,
    *,
    layers: Sequence[int] = LAYERS103,
    growth: int = 16,
    first_channels: int = FIRST_CHANNELS,
    dropout: float = 0.2,
    bn_eval: str = "running",
) -> FCDenseNet:
    """FC-DenseNet103: four to fifteen layers of growth 16, most at the bottleneck; options as `fc_densenet56`."""
    return FCDenseNet(
        in_channels, num_classes, layers=layers, growth=growth, first_channels=first_channels, dropout=dropout,
        bn_eval=bn_eval,
    )  # fmt: skip


def _with_skip(maps: Tensor, skip: Tensor) -> Tensor:
    """The upsampled maps, cut to the skip, in front of it; outside of training the skip is free again afterwards."""
    return torch.cat([crop_like(maps, skip), skip], dim=1)


def _check(layers: Sequence[int], growth: int, first_channels: int, dropout: float, bn_eval: str) -> None:
    is_plan = isinstance(layers, Sequence) and all(isinstance(count, int) for count in layers)
    if not is_plan or len(layers) < 3 or len(layers) % 2 == 0 or min(layers) < 1:
        raise InputError(
            f"option layers={layers!r} of fc_densenet: give an odd number of blocks, at least 3, of 1 layer or more "
            f"each, such as {list(LAYERS56)}"
        )
    for name, value in (("growth", growth), ("first_channels", first_channels)):
        if value < 1:
            raise InputError(f"option {name}={value} of fc_densenet: it must be at least 1")
    if not 0 <= dropout < 1:
        raise InputError(f"option dropout={dropout} of fc_densenet: it is a probability, from 0 to below 1")
    if bn_eval not in BN_EVAL:
        raise InputError(f"option bn_eval={bn_eval!r} of fc_densenet: choose {' or '.join(map(repr, BN_EVAL))}")
