"""FCN: a classifier turned into convolutions, its class scores upsampled and summed over three depths.

Long, Shelhamer, Darrell, "Fully convolutional networks for semantic segmentation", CVPR 2015 and PAMI 2017, as in
the authors' release: first padding 100, pools rounding up, alignment by cropping, all upsamplers frozen.

    image -> ... pool3 -> ... pool4 -> ... pool5 -> fc6 -> fc7 -> score
                   |            |                                  x2
                   |          score ------- crop 5 --------------- + (16s ends here: x16, crop 27)
                   |                                               x2
                 score -------------------- crop 9 --------------- + (8s: x8, crop 31; 32s: score x32, crop 19)

The offsets are not typed in: they follow from where the cells of each map lie on the image (`Grid`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from perpixel.errors import InputError
from perpixel.layers import BilinearUpsample, crop_like, he_normal_, transposed_centre
from perpixel.models.fcn_trunks import IMAGE_GRID, GoogLeNetTrunk, Grid, Trunk, create_trunk
from perpixel.models.fcn_weights import load_classifier

AT_ONCE_SCALES = (0.01, 0.0001)
SKIPS_OF_STRIDE: dict[int, tuple[str, ...]] = {32: (), 16: ("pool4",), 8: ("pool4", "pool3")}


class Skip(nn.Module):
    """Scores x2, plus the scores of a finer map cut to the same place: (B, K, H, W) -> (B, K, 2H + 2, 2W + 2).

    Args:
        channels: of the finer map.
        offset: rows and columns of the finer scores left out at the top and left.
        scale: fixed factor on the finer map before it is scored; 0.01 and 0.0001 in the at-once variant.
    """

    def __init__(self, channels: int, num_classes: int, offset: int, scale: float, learned: bool) -> None:
        super().__init__()
        self.offset, self.scale = offset, scale
        self.upsample = BilinearUpsample(num_classes, 2, learned=learned)
        self.score = nn.Conv2d(channels, num_classes, 1)

    def forward(self, scores: Tensor, maps: Tensor) -> Tensor:
        """scores (B, K, H, W), maps (B, C, ...) -> (B, K, 2H + 2, 2W + 2)."""
        upsampled = self.upsample(scores)
        finer = self.score(maps * self.scale if self.scale != 1 else maps)
        return upsampled + crop_like(finer, upsampled, self.offset)


class FCN(nn.Module):
    """image (B, C, H, W) of any size -> logits (B, K, H, W).

    Args:
        stride: of the last scores: 32, 16 or 8.
        backbone: "vgg16"; "alexnet" (CaffeNet) and "googlenet" at stride 32 only.
        weights: None, "imagenet" (torchvision's classifier, downloaded) or a file with that classifier, whose fully
            connected layers become fc6 and fc7. It expects images normalised as torchvision's.
        fc_channels: of fc6 and fc7; 4096 in the paper. Fewer make a small head for tests and small machines.
        dropout: after fc6 and fc7.
        learned_upsampling: train the x2 upsamplers from their bilinear start (CVPR text); False freezes them
            (the authors' release). The last one is frozen either way.
        skip_scales: fixed factors on pool4 and pool3.
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
        fc_channels: int = 4096,
        dropout: float = 0.5,
        learned_upsampling: bool = False,
        skip_scales: Sequence[float] = (1.0, 1.0),
    ) -> None:
        super().__init__()
        _check(stride, fc_channels, dropout)
        self.stride, self.backbone, self.num_classes = stride, backbone, num_classes
        names = SKIPS_OF_STRIDE[stride]
        self.trunk = create_trunk(backbone, in_channels, names)
        self.head = _head(self.trunk, fc_channels, dropout)
        self.score = nn.Conv2d(fc_channels if self.trunk.fc_kernel else self.trunk.out_channels, num_classes, 1)
        grids = self.trunk.grids()
        grid = grids["deep"].after((self.trunk.fc_kernel or 1, 1, 0))
        self.skips = nn.ModuleDict()
        for name, scale in zip(names, skip_scales):
            grid = _upsampled(grid, kernel=4, factor=2)
            offset = _cells_before(grid, grids[name])
            self.skips[name] = Skip(self.trunk.skips[name], num_classes, offset, scale, learned_upsampling)
        # Cells at half pixels (VGG) call for an even kernel, on whole pixels (AlexNet) for an odd one.
        kernel = 2 * stride - 1 if grid.centre.is_integer() else 2 * stride
        self.offset = _cells_before(IMAGE_GRID, _upsampled(grid, kernel, stride))
        self.upsample = BilinearUpsample(num_classes, stride, kernel_size=kernel)
        self._initialise()
        if weights is not None:
            load_classifier(self.trunk, self.head, backbone, weights)

    def forward(self, image: Tensor) -> Tensor:
        """image (B, C, H, W) float -> logits (B, K, H, W)."""
        maps = self.trunk(image)
        scores = self.score(self.head(maps["deep"]))
        for name, skip in self.skips.items():  # pool4, then pool3
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
            described = f"FCN of stride {parent.stride}" if isinstance(parent, FCN) else type(parent).__name__
            raise InputError(
                f"an FCN of stride {self.stride} cannot start from {described}: give the next coarser one "
                f"with backbone='{self.backbone}'"
            )
        mine = self.state_dict()
        theirs = {name: value for name, value in parent.state_dict().items() if not name.startswith("upsample.")}
        for name, value in theirs.items():
            if mine[name].shape != value.shape:
                raise InputError(
                    f"parent's '{name}' is {tuple(value.shape)}, here {tuple(mine[name].shape)}: "
                    "build both with the same num_classes, in_channels, fc_channels and learned_upsampling"
                )
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
    fc_channels: int = 4096,
    dropout: float = 0.5,
) -> FCN:
    """FCN-32s: the deepest scores, upsampled at once."""
    return FCN(
        in_channels, num_classes, stride=32,
        backbone=backbone, weights=weights, fc_channels=fc_channels, dropout=dropout,
    )  # fmt: skip


def fcn16s(
    in_channels: int = 3,
    num_classes: int = 21,
    *,
    backbone: str = "vgg16",
    weights: str | Path | None = None,
    fc_channels: int = 4096,
    dropout: float = 0.5,
    learned_upsampling: bool = False,
) -> FCN:
    """FCN-16s: the scores of pool4 added at stride 16."""
    return FCN(
        in_channels, num_classes, stride=16, backbone=backbone, weights=weights, fc_channels=fc_channels,
        dropout=dropout, learned_upsampling=learned_upsampling,
    )  # fmt: skip


def fcn8s(
    in_channels: int = 3,
    num_classes: int = 21,
    *,
    backbone: str = "vgg16",
    weights: str | Path | None = None,
    fc_channels: int = 4096,
    dropout: float = 0.5,
    learned_upsampling: bool = False,
) -> FCN:
    """FCN-8s: the scores of pool4 and pool3 added at strides 16 and 8."""
    return FCN(
        in_channels, num_classes, stride=8, backbone=backbone, weights=weights, fc_channels=fc_channels,
        dropout=dropout, learned_upsampling=learned_upsampling,
    )  # fmt: skip


def fcn8s_atonce(
    in_channels: int = 3,
    num_classes: int = 21,
    *,
    backbone: str = "vgg16",
    weights: str | Path | None = None,
    fc_channels: int = 4096,
    dropout: float = 0.5,
    learned_upsampling: bool = False,
) -> FCN:
    """FCN-8s trained in one stage: pool4 and pool3 scaled down, so that all scores get gradients of one size."""
    return FCN(
        in_channels, num_classes, stride=8, backbone=backbone, weights=weights, fc_channels=fc_channels,
        dropout=dropout, learned_upsampling=learned_upsampling, skip_scales=AT_ONCE_SCALES,
    )  # fmt: skip


def _head(trunk: Trunk, channels: int, dropout: float) -> nn.Sequential:
    """fc6 and fc7 as convolutions; empty where the trunk is scored directly."""
    if not trunk.fc_kernel:
        return nn.Sequential()
    head = nn.Sequential()
    head.add_module("fc6", nn.Conv2d(trunk.out_channels, channels, trunk.fc_kernel))
    head.add_module("relu6", nn.ReLU(inplace=True))
    head.add_module("drop6", nn.Dropout(dropout))
    head.add_module("fc7", nn.Conv2d(channels, channels, 1))
    head.add_module("relu7", nn.ReLU(inplace=True))
    head.add_module("drop7", nn.Dropout(dropout))
    return head


def _upsampled(grid: Grid, kernel: int, factor: int) -> Grid:
    step = grid.step // factor
    return Grid(transposed_centre(grid.centre, kernel, step), step)


def _cells_before(inner: Grid, outer: Grid) -> int:
    """Cells of a map on `outer` that lie before the first one of a map on `inner`, both with the same step."""
    return round((inner.centre - outer.centre) / outer.step)


def _check(stride: int, fc_channels: int, dropout: float) -> None:
    if stride not in SKIPS_OF_STRIDE:
        raise InputError(f"option stride={stride} of fcn: choose 8, 16 or 32")
    if fc_channels < 1:
        raise InputError(f"option fc_channels={fc_channels} of fcn: it must be at least 1")
    if not 0 <= dropout < 1:
        raise InputError(f"option dropout={dropout} of fcn: it is a probability, from 0 to below 1")
