"""FCN: a classifier turned into convolutions, its class scores upsampled and summed over three depths.

Long, Shelhamer, Darrell, "Fully convolutional networks for semantic segmentation", CVPR 2015 and PAMI 2017, as in
the authors' release: first padding 100, pools rounding up, alignment by cropping. The last upsampler is frozen, the x2
ones are learned, as the CVPR paper has it.

    image -> ... pool3 -> ... pool4 -> ... pool5 -> fc6 -> fc7 -> score
                   |            |                                  x2
                   |          score ------- crop 5 --------------- + (16s ends here: x16, crop 27)
                   |                                               x2
                 score -------------------- crop 9 --------------- + (8s: x8, crop 31; 32s: score x32, crop 19)

The offsets are not typed in: they follow from where the cells of each map lie on the image (`Grid`). The drawing shows
VGG16. Over AlexNet and GoogLeNet, whose skips the paper does not publish, the maps at stride 16 and 8 take the places
of pool4 and pool3 (`fcn_trunks`), and each upsampler has the one kernel that puts its cells on those of the map that it
is added to (`align`): of an even size, as in the release, where the coarse cells lie midway between the finer ones, of
an odd size where they lie on them.

    vgg16       x2 of 4 taps, crop 5 (pool4)          x2 of 4 taps, crop 9 (pool3)           x8 of 16 taps, crop 31
    alexnet     x2 of 3 taps, crop 5 (pool2)          x2 of 3 taps, crop 10 (pool1)          x8 of 15 taps, crop 18
    googlenet   x2 of 4 taps, cut 1 (inception4e)     x2 of 3 taps (inception3b)             x8 of 15 taps, crop 98
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from perpixel.errors import InputError
from perpixel.layers import BilinearUpsample, crop_like, he_normal_, transposed_centre
from perpixel.models.card import Card, Count
from perpixel.models.fcn_trunks import IMAGE_GRID, GoogLeNetTrunk, Grid, Trunk, create_trunk
from perpixel.models.fcn_weights import load_classifier
from perpixel.models.vgg import VGG16_WIDTH, fc_layers

AT_ONCE_SCALES = (0.01, 0.0001)
SKIPS_OF_STRIDE = {32: 0, 16: 1, 8: 2}

PAPER = (
    'Jonathan Long, Evan Shelhamer, Trevor Darrell, "Fully convolutional networks for semantic segmentation", '
    "CVPR 2015, arXiv 1411.4038; extended in PAMI 2017, arXiv 1605.06211"
)
STAGED = (
    "PAMI and release: whole images one at a time, SGD of momentum 0.99, unnormalised (summed) loss, rates 1e-10, "
    "1e-12 and 1e-14 for 32s, 16s and 8s, each started from the one before (--start-from), decay 5e-4, twice the rate "
    "and no decay on biases."
)
DEVIATIONS = (
    "Frozen upsampling kernels are stored once a class, not as dense matrices: the same result, and files with dense "
    "ones load.",
    "Skips over AlexNet and GoogLeNet are ours, since the paper publishes them for VGG16 only: from pool2 and pool1, "
    "and from inception 4e and 3b. Where an upsampler of the release's 4 taps would leave half a cell between the maps "
    "(both skips of AlexNet, the second of GoogLeNet) it has 3.",
    "GoogLeNet is torchvision's, with batch normalisation; there is no release by the authors to compare with.",
)
FCN32S_CARD = Card(
    title="FCN-32s",
    paper=PAPER,
    counts=(
        Count("VGG16, 21 classes", 134_346_581, printed="134M"),
        Count("AlexNet (CaffeNet), 21 classes", 56_954_261, options={"backbone": "alexnet"}, printed="57M"),
        Count("GoogLeNet, 21 classes", 5_621_429, options={"backbone": "googlenet"}, printed="6M"),
    ),
    scores=(
        "VOC 2011 val mIoU 59.4 (CVPR), 63.6 (release)",
        "in the CVPR comparison of trunks 56.0 over VGG16, 42.5 over GoogLeNet, 39.8 over AlexNet (release: 48.0)",
    ),
    training=STAGED,
    deviations=DEVIATIONS,
)
FCN16S_CARD = replace(
    FCN32S_CARD,
    title="FCN-16s",
    counts=(
        Count("VGG16, 21 classes", 134_364_410),
        Count("VGG16, 21 classes, all upsamplers frozen", 134_357_354, options={"learned_upsampling": False}),
        Count("AlexNet (CaffeNet), 21 classes", 56_963_627, options={"backbone": "alexnet"}),
        Count("GoogLeNet, 21 classes", 5_645_978, options={"backbone": "googlenet"}),
    ),
    scores=("VOC 2011 val mIoU 62.4 (CVPR), 65.0 (release)",),
    deviations=(
        *DEVIATIONS,
        "The x2 upsamplers are learned from their bilinear start, as the CVPR text says; the release freezes them as "
        "well (learned_upsampling=False).",
    ),
)
FCN8S_CARD = replace(
    FCN16S_CARD,
    title="FCN-8s",
    counts=(
        Count("VGG16, 21 classes", 134_376_863),
        Count("VGG16, 21 classes, all upsamplers frozen", 134_362_751, options={"learned_upsampling": False}),
        Count("AlexNet (CaffeNet), 21 classes", 56_969_633, options={"backbone": "alexnet"}),
        Count("GoogLeNet, 21 classes", 5_660_048, options={"backbone": "googlenet"}),
    ),
    scores=(
        "VOC 2011 val mIoU 62.7 (CVPR), 65.5 (release)",
        "VOC 2012 test mIoU 62.2 (CVPR), 67.2 (release)",
    ),
)
FCN8S_ATONCE_CARD = replace(
    FCN8S_CARD,
    title="FCN-8s, at once",
    scores=("VOC 2011 val mIoU 65.4 (release)",),
    training="Release: as the staged nets, at a rate of 1e-10, in one stage of 300,000 steps and not three of 100,000.",
    deviations=(
        *FCN8S_CARD.deviations,
        "The factors 0.01 and 0.0001 are the release's for VGG16, and are kept over AlexNet and GoogLeNet.",
    ),
)


class Alignment(NamedTuple):
    """How scores come onto a finer map: by a transposed convolution of `kernel` taps, then `cut` rows and columns of
    the result left out at the top and left, or `offset` ones of the finer map."""

    kernel: int
    cut: int
    offset: int


def align(coarse: Grid, fine: Grid) -> Alignment:
    """The bilinear kernel that puts upsampled cells of `coarse` exactly on cells of `fine`.

    With f the factor, 2f taps move the first cell by an odd number of half steps of the fine grid, 2f - 1 taps by whole
    steps: one of them lands on a cell.

    >>> align(Grid(12.5, 32), IMAGE_GRID), align(Grid(13.0, 32), IMAGE_GRID)
    (Alignment(kernel=64, cut=19, offset=0), Alignment(kernel=63, cut=18, offset=0))
    """
    factor = coarse.step // fine.step
    for kernel in (2 * factor, 2 * factor - 1):
        cells = (transposed_centre(coarse.centre, kernel, fine.step) - fine.centre) / fine.step
        if cells.is_integer():
            return Alignment(kernel, cut=max(0, -int(cells)), offset=max(0, int(cells)))
    raise AssertionError(f"{coarse} and {fine} do not lie a whole number of half steps apart")


class Skip(nn.Module):
    """Scores x2, plus the scores of a finer map at the same place: (B, K, H, W) -> (B, K, about 2H, about 2W).

    Args:
        channels: of the finer map.
        alignment: of the scores with the finer map.
        scale: fixed factor on the finer map before it is scored; 0.01 and 0.0001 in the at-once variant.
    """

    def __init__(self, channels: int, num_classes: int, alignment: Alignment, scale: float, learned: bool) -> None:
        super().__init__()
        self.cut, self.offset, self.scale = alignment.cut, alignment.offset, scale
        self.upsample = BilinearUpsample(num_classes, 2, learned=learned, kernel_size=alignment.kernel)
        self.score = nn.Conv2d(channels, num_classes, 1)

    def forward(self, scores: Tensor, maps: Tensor) -> Tensor:
        """scores (B, K, H, W), maps (B, C, ...) -> (B, K, H', W'), the size of the smaller one after upsampling."""
        upsampled = self.upsample(scores)
        finer = self.score(maps * self.scale if self.scale != 1 else maps)
        if self.offset:
            return upsampled + crop_like(finer, upsampled, self.offset)
        # No fc6 has shortened the scores (GoogLeNet): they reach past the finer map.
        return crop_like(upsampled, finer, self.cut) + finer


class FCN(nn.Module):
    """image (B, C, H, W) of any size -> logits (B, K, H, W).

    Args:
        stride: of the last scores: 32, 16 or 8.
        backbone: "vgg16", "alexnet" (CaffeNet) or "googlenet".
        weights: None, "imagenet" (torchvision's VGG16 or GoogLeNet, downloaded) or a file with that classifier, whose
            fully connected layers become fc6 and fc7. It expects images normalised as torchvision's. For "alexnet" a
            file of CaffeNet's tensors, conv1.weight to fc7.bias.
        width: channels of VGG16's first block, the other blocks in proportion; 64 in the paper. Fewer make a small net
            for tests and small machines. The other backbones have one width.
        fc_channels: of fc6 and fc7, which GoogLeNet does not have; 4096 in the paper.
        dropout: after fc6 and fc7.
        learned_upsampling: train the x2 upsamplers from their bilinear start (CVPR text); False freezes them
            (the authors' release). The last one is frozen either way.
        skip_scales: fixed factors on the maps at stride 16 and 8.
    Raises:
        InputError: an option out of range, or weights that do not fit.
    """

    aux_weights: tuple[float, ...] = ()
    margin = 0

    def __init__(
        self,
        in_channels: int = 3,
        num_classes: int = 21,
        *,
        stride: int,
        backbone: str = "vgg16",
        weights: str | Path | None = None,
        width: int = VGG16_WIDTH,
        fc_channels: int = 4096,
        dropout: float = 0.5,
        learned_upsampling: bool = True,
        skip_scales: Sequence[float] = (1.0, 1.0),
    ) -> None:
        super().__init__()
        _check(stride, backbone, width, weights, fc_channels, dropout)
        self.stride, self.backbone, self.num_classes = stride, backbone, num_classes
        self.trunk = create_trunk(backbone, in_channels, width)
        self.head = _head(self.trunk, fc_channels, dropout)
        self.score = nn.Conv2d(fc_channels if self.trunk.fc_kernel else self.trunk.out_channels, num_classes, 1)
        grids = self.trunk.grids()
        grid = grids["deep"].after((self.trunk.fc_kernel or 1, 1, 0))
        self.skips = nn.ModuleDict()
        for name, scale in list(zip(self.trunk.skips, skip_scales))[: SKIPS_OF_STRIDE[stride]]:
            alignment = align(grid, grids[name])
            self.skips[name] = Skip(self.trunk.skips[name], num_classes, alignment, scale, learned_upsampling)
            grid = Grid(grids[name].centre + alignment.offset * grids[name].step, grids[name].step)
        last = align(grid, IMAGE_GRID)
        self.offset = last.cut
        self.upsample = BilinearUpsample(num_classes, stride, kernel_size=last.kernel)
        self._initialise()
        if weights is not None:
            load_classifier(self.trunk, self.head, backbone, weights)

    def forward(self, image: Tensor) -> Tensor:
        """image (B, C, H, W) float -> logits (B, K, H, W)."""
        maps = self.trunk(image)
        scores = self.score(self.head(maps["deep"]))
        for name, skip in self.skips.items():  # stride 16, then 8
            scores = skip(scores, maps[name])
        return crop_like(self.upsample(scores), image, self.offset)

    def stages(self) -> dict[str, nn.Module]:
        """The parts that `describe` lists, in the paper's order."""
        blocks = self.trunk.net if isinstance(self.trunk, GoogLeNetTrunk) else self.trunk
        head = {name: part for name, part in self.head.named_children() if name.startswith("fc")}
        skips = {f"skip {name}": part for name, part in self.skips.items()}
        return dict(blocks.named_children()) | head | {"score": self.score} | skips | {"upsample": self.upsample}

    @torch.no_grad()
    def from_parent(self, parent: FCN) -> FCN:
        """Take over everything that a coarser, trained FCN has too (staged training: 32s, then 16s, then 8s).

        The new skip starts at zero, so the finer net starts near its parent; not on it, since two upsamplings
        round the corners that one keeps.

        Raises:
            InputError: another backbone, class count or width, or a parent that is not coarser.
        """
        if not isinstance(parent, FCN) or parent.stride <= self.stride or parent.backbone != self.backbone:
            is_fcn = isinstance(parent, FCN)
            described = f"FCN of stride {parent.stride} over {parent.backbone}" if is_fcn else type(parent).__name__
            raise InputError(
                f"an FCN of stride {self.stride} cannot start from {described}: give the next coarser one "
                f"with backbone='{self.backbone}'"
            )
        scales = {name: (skip.scale, self.skips[name].scale) for name, skip in parent.skips.items()}
        if any(theirs != mine for theirs, mine in scales.values()):
            raise InputError(
                f"parent scales its skips by {', '.join(f'{scale:g}' for scale, _ in scales.values())}, this FCN by "
                f"{', '.join(f'{scale:g}' for _, scale in scales.values())}: an at-once net is trained in one stage"
            )
        mine = self.state_dict()
        theirs = {name: value for name, value in parent.state_dict().items() if not name.startswith("upsample.")}
        for name, value in theirs.items():
            if mine[name].shape != value.shape:
                raise InputError(
                    f"parent's '{name}' is {tuple(value.shape)}, here {tuple(mine[name].shape)}: "
                    "build both with the same num_classes, in_channels, fc_channels and learned_upsampling"
                )
        for name, value in theirs.items():  # all of them or none
            mine[name].copy_(value)
        return self

    def _initialise(self) -> None:
        he_normal_(self.trunk, fan="out")
        he_normal_(self.head, fan="out")
        for score in (self.score, *(skip.get_submodule("score") for skip in self.skips.values())):
            for parameter in score.parameters():
                nn.init.zeros_(parameter)


def fcn32s(
    in_channels: int = 3,
    num_classes: int = 21,
    *,
    backbone: str = "vgg16",
    weights: str | Path | None = None,
    width: int = VGG16_WIDTH,
    fc_channels: int = 4096,
    dropout: float = 0.5,
) -> FCN:
    """FCN-32s: the deepest scores, upsampled at once."""
    return FCN(
        in_channels, num_classes, stride=32,
        backbone=backbone, weights=weights, width=width, fc_channels=fc_channels, dropout=dropout,
    )  # fmt: skip


def fcn16s(
    in_channels: int = 3,
    num_classes: int = 21,
    *,
    backbone: str = "vgg16",
    weights: str | Path | None = None,
    width: int = VGG16_WIDTH,
    fc_channels: int = 4096,
    dropout: float = 0.5,
    learned_upsampling: bool = True,
) -> FCN:
    """FCN-16s: the scores of pool4, or of its like in another backbone, added at stride 16."""
    return FCN(
        in_channels, num_classes, stride=16, backbone=backbone, weights=weights, width=width, fc_channels=fc_channels,
        dropout=dropout, learned_upsampling=learned_upsampling,
    )  # fmt: skip


def fcn8s(
    in_channels: int = 3,
    num_classes: int = 21,
    *,
    backbone: str = "vgg16",
    weights: str | Path | None = None,
    width: int = VGG16_WIDTH,
    fc_channels: int = 4096,
    dropout: float = 0.5,
    learned_upsampling: bool = True,
) -> FCN:
    """FCN-8s: the scores of pool4 and pool3, or of their like, added at strides 16 and 8."""
    return FCN(
        in_channels, num_classes, stride=8, backbone=backbone, weights=weights, width=width, fc_channels=fc_channels,
        dropout=dropout, learned_upsampling=learned_upsampling,
    )  # fmt: skip


def fcn8s_atonce(
    in_channels: int = 3,
    num_classes: int = 21,
    *,
    backbone: str = "vgg16",
    weights: str | Path | None = None,
    width: int = VGG16_WIDTH,
    fc_channels: int = 4096,
    dropout: float = 0.5,
    learned_upsampling: bool = True,
) -> FCN:
    """FCN-8s trained in one stage: pool4 and pool3 scaled down, so that all scores get gradients of one size."""
    return FCN(
        in_channels, num_classes, stride=8, backbone=backbone, weights=weights, width=width, fc_channels=fc_channels,
        dropout=dropout, learned_upsampling=learned_upsampling, skip_scales=AT_ONCE_SCALES,
    )  # fmt: skip


def _head(trunk: Trunk, channels: int, dropout: float) -> nn.Sequential:
    """fc6 and fc7 as convolutions; empty where the trunk is scored directly."""
    if not trunk.fc_kernel:
        return nn.Sequential()
    return fc_layers(trunk.out_channels, channels, trunk.fc_kernel, dilation=1, padding=0, dropout=dropout)


def _check(
    stride: int, backbone: str, width: int, weights: str | Path | None, fc_channels: int, dropout: float
) -> None:
    if stride not in SKIPS_OF_STRIDE:
        raise InputError(f"option stride={stride} of fcn: choose 8, 16 or 32")
    if width < 1:
        raise InputError(f"option width={width} of fcn: it must be at least 1")
    if width != VGG16_WIDTH and (backbone != "vgg16" or weights is not None):
        other = f"backbone={backbone!r}" if backbone != "vgg16" else "weights"
        raise InputError(f"option width={width} of fcn with {other}: these have one width: leave one of the two out")
    if fc_channels < 1:
        raise InputError(f"option fc_channels={fc_channels} of fcn: it must be at least 1")
    if not 0 <= dropout < 1:
        raise InputError(f"option dropout={dropout} of fcn: it is a probability, from 0 to below 1")
