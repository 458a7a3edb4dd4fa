"""3D U-Net: U-Net over volumes, with as many poolings along each axis as the data's spacing asks for.

Çiçek, Abdulkadir, Lienkamp, Brox, Ronneberger, "3D U-Net: Learning dense volumetric segmentation from sparse
annotation", MICCAI 2016.

    volume -> down 1 ---------------------------> [cat] -> up 3 -> head -> logits
                pool -> down 2 ------> [cat] -> up 2 ^
                          pool -> ... -> up 1 ^

Every stage is two 3x3x3 convolutions, the second of the way down twice as wide as the first, so that channels double
in front of a pool and not behind it. `unet3d_valid` is the paper's, unpadded: 132 x 132 x 116 voxels in, 88 fewer along
each axis out. `unet3d` pads. Its options `pool` and `kernels` follow the spacing of anisotropic data, as in the plans
of Isensee et al., "nnU-Net: a self-configuring method for deep learning-based biomedical image segmentation", Nature
Methods 2021; `residual`, `norm` and `deep_supervision` are what became usual since.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perpixel.errors import InputError
from perpixel.layers import (
    Conv3d,
    ConvTranspose3d,
    cut_middle,
    cut_volume,
    enlarge,
    he_normal_,
    make_norm3d,
    pad_for_pools,
)
from perpixel.layers.volumes import NORMS
from perpixel.models.card import Card, Count
from perpixel.models.valid_sizes import ValidSizes

PAPER_WIDTH = 32
WIDEST = 1024  # channels of a stage, however deep
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": lambda: nn.ReLU(inplace=True),
    "leaky_relu": lambda: nn.LeakyReLU(0.01, inplace=True),
}
Triple = tuple[int, int, int]

VALID_CARD = Card(
    title="3D U-Net",
    paper=(
        "Özgün Çiçek, Ahmed Abdulkadir, Soeren S. Lienkamp, Thomas Brox, Olaf Ronneberger, "
        '"3D U-Net: Learning dense volumetric segmentation from sparse annotation", MICCAI 2016, arXiv 1606.06650'
    ),
    counts=(
        Count("3 channels, 3 classes, norm apart", 19_069_955, 3, 3, {"norm": "none"}, printed="19,069,955"),
        Count("3 channels, 3 classes", 19_074_627, 3, 3),
    ),
    scores=("Xenopus kidney, semi-automated: IoU 0.863",),
    training=(
        "SGD, softmax cross-entropy in which voxels without annotation weigh nothing; rotation, scaling, grey values, "
        "and smooth elastic deformations."
    ),
    deviations=(
        "The convolutions keep their bias in front of batch normalisation, as the printed count has it.",
        "Volumes of sizes other than 8m + 28 are refused with the two nearest ones.",
    ),
)
CARD = replace(
    VALID_CARD,
    title="3D U-Net, padded",
    counts=(
        Count("1 channel, 2 classes", 19_072_834, 1, 2),
        Count("light", 1_221_523, 1, 3, {"width": 8, "norm": "instance", "residual": True}),
    ),
    deviations=(
        "Padded convolutions, so that the logits have the volume's size, where the paper's are unpadded and its maps "
        "cut: that is `unet3d_valid`.",
        "Strides and kernels per axis, shortcuts, instance normalisation and deep supervision are options that the "
        "paper does not have.",
    ),
)


@dataclass(frozen=True)
class Style:
    """What all stages of one network share."""

    norm: str
    activation: str
    is_padded: bool
    is_residual: bool

    def conv(self, in_channels: int, out_channels: int, kernel: Triple, *, is_last: bool = False) -> nn.Sequential:
        """Convolution, normalisation, and activation unless it waits for an addition."""
        padding = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2) if self.is_padded else 0
        parts = [Conv3d(in_channels, out_channels, kernel, padding=padding), make_norm3d(self.norm, out_channels)]
        return nn.Sequential(*parts, *([] if is_last and self.is_residual else [self.act()]))

    def act(self) -> nn.Module:
        """A new activation."""
        return ACTIVATIONS[self.activation]()


class Stage(nn.Module):
    """Two convolutions: (B, C, D, H, W) -> (B, K, D, H, W), or each side 4 voxels shorter where nothing is padded.

    A residual stage adds what enters, brought to K channels by a 1x1x1 convolution, in front of the last activation.
    """

    def __init__(self, in_channels: int, middle: int, out_channels: int, kernel: Triple, style: Style) -> None:
        super().__init__()
        self.convs = nn.Sequential(
            style.conv(in_channels, middle, kernel), style.conv(middle, out_channels, kernel, is_last=True)
        )
        self.shortcut: nn.Module | None = None
        if style.is_residual:
            self.shortcut = nn.Identity()
            if in_channels != out_channels:
                self.shortcut = nn.Sequential(
                    Conv3d(in_channels, out_channels, 1), make_norm3d(style.norm, out_channels)
                )
        self.act = style.act()

    def forward(self, maps: Tensor) -> Tensor:
        """(B, C, D, H, W) -> (B, K, D', H', W')."""
        if self.shortcut is None:
            return self.convs(maps)
        return self.act(self.convs(maps) + self.shortcut(maps))


class UpStage(nn.Module):
    """Upsample by the pool's stride, concatenate the skip in front, one stage: (B, C, D, H, W) -> (B, K, sD, sH, sW).

    The transposed convolution keeps the channels and has no bias. An unpadded net cuts the middle of the skip.
    """

    def __init__(self, in_channels: int, skip: int, stride: Triple, kernel: Triple, style: Style) -> None:
        super().__init__()
        self.up = ConvTranspose3d(in_channels, in_channels, stride, stride=stride, bias=False)
        self.stage = Stage(in_channels + skip, skip, skip, kernel, style)

    def forward(self, maps: Tensor, skip: Tensor) -> Tensor:
        """maps (B, C, D, H, W) and the skip of the level to come -> (B, K, D', H', W')."""
        maps = self.up(maps)
        return self.stage(torch.cat([cut_middle(skip, maps), maps], dim=1))


class UNet3D(nn.Module):
    """U-Net over volumes with poolings per axis; same size out, any size in, unless it is unpadded.

    image (B, C, D, H, W) -> logits (B, K, D, H, W); with padding="valid" 2 * margin smaller along each axis. With deep
    supervision, in training, a tuple of these and of the logits of the coarser stages of the way up, fine to coarse,
    interpolated to the same size.

    Args:
        width: channels of the first convolution; a stage ends with twice as many as it starts with, up to 1024.
        depth: stages of the way down, the deepest included.
        norm: "batch" as in the paper, "instance", which suits batches of one or two, or "none".
        activation: "relu" as in the paper, or "leaky_relu".
        residual: a shortcut past every stage.
        deep_supervision: a 1x1x1 head on every stage of the way up, not on the last alone; each weighs half of the next
            finer one.
        pool: strides (depth, height, width) of every pool, fine to coarse, such as [[1, 2, 2], [2, 2, 2]] for three
            stages over slices twice as thick as their pixels are wide; None is 2 everywhere.
        kernels: sides (depth, height, width) of the convolutions of every stage, fine to coarse, 1, 3 or 5 each, such
            as [[1, 3, 3], [3, 3, 3], [3, 3, 3]]; None is 3 everywhere.
        padding: "same" or "valid"; valid goes with pools of 2, kernels of 3 and no shortcuts.
    Attributes:
        margin: voxels of the volume that the logits lack at each end of each axis; 0 unless padding is "valid".
        multiples: what the volume is padded to a multiple of, along each axis.
    Raises:
        InputError: an option out of range, or two that exclude each other.
    """

    spatial_dims = 3

    def __init__(
        self,
        in_channels: int = 3,
        num_classes: int = 21,
        *,
        width: int = PAPER_WIDTH,
        depth: int = 4,
        norm: str = "batch",
        activation: str = "relu",
        residual: bool = False,
        deep_supervision: bool = False,
        pool: Sequence[Sequence[int]] | None = None,
        kernels: Sequence[Sequence[int]] | None = None,
        padding: str = "same",
    ) -> None:
        super().__init__()
        _check(width, depth, norm, activation, padding)
        strides = _triples("pool", pool, depth - 1, 2, (1, 2, 3, 4))
        sides = _triples("kernels", kernels, depth, 3, (1, 3, 5))
        if padding == "valid" and (residual or deep_supervision or {*strides, *sides} != {(2,) * 3, (3,) * 3}):
            raise InputError(
                "options residual, deep_supervision, pool and kernels of unet3d with padding='valid': it goes with "
                "none of them, use padding='same'"
            )
        self.strides, self.has_norm = strides, norm != "none"
        self.multiples = tuple(prod(stride[axis] for stride in strides) for axis in range(3))
        self.valid_sizes = ValidSizes(pools=depth - 1) if padding == "valid" else None
        self.margin = self.valid_sizes.margin if self.valid_sizes else 0
        style = Style(norm, activation, padding == "same", residual)
        ends = [min(WIDEST, width * 2 ** (level + 1)) for level in range(depth)]  # channels that a stage ends with
        middles = [width, *ends[:-1]]
        self.down = nn.ModuleList(map(Stage, [in_channels, *ends[:-1]], middles, ends, sides, [style] * depth))
        self.up = nn.ModuleList(
            UpStage(ends[level + 1], ends[level], strides[level], sides[level], style)
            for level in range(depth - 2, -1, -1)
        )
        self.head = Conv3d(ends[0], num_classes, 1)
        coarser = ends[1:-1] if deep_supervision else []
        self.aux_heads = nn.ModuleList(Conv3d(each, num_classes, 1) for each in coarser)  # fine to coarse
        self.aux_weights = tuple(0.5**level for level in range(1, len(coarser) + 1))
        he_normal_(self)

    def forward(self, image: Tensor) -> Tensor | tuple[Tensor, ...]:
        """image (B, C, D, H, W) float -> logits (B, K, D', H', W'); with deep supervision, in training, several."""
        fitted = self._fit(image)
        skips = [self.down[0](fitted)]
        for stride, stage in zip(self.strides, self.down[1:]):
            skips.append(stage(F.max_pool3d(skips[-1], stride)))
        maps, coarse = skips[-1], []
        for up, skip in zip(self.up, skips[-2::-1]):
            maps = up(maps, skip)
            coarse.append(maps)
        logits = cut_volume(self.head(maps), image)
        if not (self.training and self.aux_heads):
            return logits
        others = [head(each) for head, each in zip(self.aux_heads, coarse[-2::-1])]
        return (logits, *(cut_volume(enlarge(each, fitted), image) for each in others))

    def fit_size(self, size: Triple) -> Triple:
        """The smallest (depth, height, width) that the model takes and that is no smaller than `size`."""
        return tuple(map(self.valid_sizes.fit, size)) if self.valid_sizes else size  # type: ignore[return-value]

    def stages(self) -> dict[str, nn.Module]:
        """The parts that `describe` lists."""
        down = {f"down {number}": stage for number, stage in enumerate(self.down, start=1)}
        ups = {f"up {number}": stage for number, stage in enumerate(self.up, start=1)}
        return down | ups | {"head": self.head}

    def _fit(self, image: Tensor) -> Tensor:
        if self.valid_sizes is None:
            return pad_for_pools(image, self.multiples, has_norm=self.has_norm)
        sides = dict(zip(("depth", "height", "width"), image.shape[-3:]))
        self.valid_sizes.check_sides(sides, padded="unet3d")
        return image


def unet3d_valid(
    in_channels: int = 3, num_classes: int = 21, *, width: int = PAPER_WIDTH, depth: int = 4, norm: str = "batch"
) -> UNet3D:
    """The paper's 3D U-Net: unpadded, 8m + 28 voxels in, 88 fewer out along each axis; for volumes."""
    return UNet3D(in_channels, num_classes, width=width, depth=depth, norm=norm, padding="valid")


def _triples(
    option: str, given: Sequence[Sequence[int]] | None, count: int, default: int, allowed: tuple[int, ...]
) -> tuple[Triple, ...]:
    """`count` values (depth, height, width), checked."""
    if given is None:
        return ((default, default, default),) * count
    choices = ", ".join(map(str, allowed))
    is_list = isinstance(given, list | tuple) and all(isinstance(each, list | tuple) for each in given)
    if not is_list or len(given) != count or any(len(each) != 3 or not set(each) <= set(allowed) for each in given):
        raise InputError(
            f"option {option}={given!r} of unet3d: give {count} lists of three (depth, height, width), each {choices}, "
            f"such as {[[default] * 3] * count}"
        )
    return tuple((each[0], each[1], each[2]) for each in given)


def _check(width: int, depth: int, norm: str, activation: str, padding: str) -> None:
    if width < 1:
        raise InputError(f"option width={width} of unet3d: it must be at least 1")
    if not 2 <= depth <= 7:
        raise InputError(f"option depth={depth} of unet3d: choose 2 to 7 stages")
    allowed_paddings = ("same", "valid")
    choices = (("norm", norm, NORMS), ("activation", activation, ACTIVATIONS), ("padding", padding, allowed_paddings))
    for option, value, allowed in choices:
        if value not in allowed:
            raise InputError(f"option {option}={value!r} of unet3d: choose one of {', '.join(map(repr, allowed))}")
