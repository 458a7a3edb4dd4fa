"""V-Net: a U of residual stages for volumes, with strided convolutions instead of pools.

Milletari, Navab, Ahmadi, "V-Net: Fully convolutional neural networks for volumetric medical image segmentation",
3DV 2016.

    volume -> down 1 -------------------------------------> [cat] -> up 4 -> head -> logits
                down 2 (2x2x2 convolution, stride 2) -> [cat] -> up 3 ^
                  down 3 -> ... ------------> [cat] -> up 2 ^
                    down 5 -> 2x2x2 transposed -> up 1 ^

A stage is a few 5x5x5 convolutions with PReLU; what enters it is added to what its last convolution gives. Three
networks go by the name, which differ in the number of convolutions a stage: the paper's figure (`vnet`, which agrees
with the paper's table of receptive fields), the authors' release (`vnet_release`), and a port which MONAI copied
(`vnet_monai`, whose weights load here: `models.vnet_weights`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from perpixel.errors import InputError
from perpixel.layers import Conv3d, ConvTranspose3d, cut_volume, enlarge, he_normal_, make_norm3d, pad_for_pools
from perpixel.layers.volumes import NORMS
from perpixel.models.card import Card, Count

PAPER_WIDTH = 16
PAPER_DEPTH = 5
ACTIVATIONS: dict[str, Callable[[int], nn.Module]] = {
    "prelu": nn.PReLU,
    "elu": lambda channels: nn.ELU(),
    "leaky_relu": lambda channels: nn.LeakyReLU(0.01),
}


@dataclass(frozen=True)
class Form:
    """What the three networks of the name do not share.

    Attributes:
        down, up: convolutions of each stage, in the order in which they run.
        has_wide_head: a 5x5x5 convolution to the classes, with activation, in front of the 1x1x1.
        is_port: no bias before a normalisation, and a stage's last activation also before its addition.
    """

    down: tuple[int, ...] = (1, 2, 3, 3, 3)
    up: tuple[int, ...] = (3, 3, 2, 1)
    has_wide_head: bool = False
    is_port: bool = False


ANY_SIZE = "Volumes of any size are padded with zeros at their end to multiples of 16, and the logits are cut."
CARD = Card(
    title="V-Net",
    paper=(
        'Fausto Milletari, Nassir Navab, Seyed-Ahmad Ahmadi, "V-Net: Fully convolutional neural networks for '
        'volumetric medical image segmentation", 3DV 2016, arXiv 1606.04797'
    ),
    counts=(
        Count("1 channel, 2 classes", 65_175_314, 1, 2),
        Count("1 channel, 2 classes, slopes apart", 65_171_858, 1, 2, {"activation": "elu"}),
    ),
    scores=("PROMISE12: Dice 0.869 +- 0.033, Hausdorff distance 5.71 +- 1.20 mm, score 82.39",),
    training=(
        "Momentum 0.99, learning rate 1e-4 divided by 10 every 25,000 iterations, batches of two volumes of "
        "128 x 128 x 64 voxels; Dice of the foreground with squared terms in its denominator; B-spline deformations on "
        "a 2x2x2 grid of 15 voxels standard deviation, and histograms matched to those of other volumes."
    ),
    deviations=(
        "Three networks go by the name. This one is the paper's figure, which its table of receptive fields agrees "
        "with; the authors' release (`vnet_release`) has fewer convolutions, and the often quoted 45.6 million "
        "parameters are those of a port (`vnet_monai`).",
        "The paper's table of receptive fields takes a transposed convolution for a further step on the finer grid and "
        "so ends at 551 voxels; its kernel is as long as its stride, so that it adds nothing: 536.",
        "Volumes of several channels have them repeated, and cut, to the 16 of the first stage's addition.",
        ANY_SIZE,
    ),
)
RELEASE_CARD = replace(
    CARD,
    title="V-Net, the authors' release",
    counts=(Count("1 channel, 2 classes", 61_982_682, 1, 2),),
    deviations=("The release's own Dice layer takes the hard maximum forwards; losses here are soft.", ANY_SIZE),
)
PORT_CARD = replace(
    CARD,
    title="V-Net, MONAI's",
    counts=(Count("1 channel, 2 classes", 45_597_898, 1, 2, printed="45.6M (port)"),),
    scores=(),
    training="",
    deviations=(
        "Batch normalisation, ELU and dropout of whole channels, which the paper has not; a stage's last activation "
        "stands before its addition, and again behind it.",
        "MONAI's wants channels that divide 16 and sizes that are multiples of 16; this one takes any.",
    ),
)

PAPER = Form()
RELEASE = Form(down=(1, 1, 2, 3, 3), up=(3, 2, 1, 1), has_wide_head=True)
PORT = Form(down=(1, 1, 2, 3, 2), up=(2, 2, 1, 1), has_wide_head=True, is_port=True)


@dataclass(frozen=True)
class Style:
    """What all stages of one network share."""

    kernel: int
    norm: str
    activation: str
    dropout: float
    is_port: bool

    def conv(self, in_channels: int, out_channels: int) -> nn.Sequential:
        """Convolution that keeps the size, and normalisation."""
        conv = Conv3d(in_channels, out_channels, self.kernel, padding=self.kernel // 2, bias=not self.is_port)
        return nn.Sequential(conv, make_norm3d(self.norm, out_channels))

    def act(self, channels: int) -> nn.Module:
        """A new activation; PReLU has one slope a channel."""
        return ACTIVATIONS[self.activation](channels)


class Stage(nn.Module):
    """Convolutions with activation, and what enters added to the last: (B, C, D, H, W) -> (B, K, D, H, W).

    Args:
        is_first: what is added is the volume itself, its channels repeated until there are K.
    """

    def __init__(self, in_channels: int, channels: int, convs: int, style: Style, *, is_first: bool = False) -> None:
        super().__init__()
        entering = [in_channels] + [channels] * (convs - 1)
        self.channels = channels
        self.convs = nn.ModuleList(style.conv(each, channels) for each in entering)
        self.acts = nn.ModuleList(style.act(channels) for _ in range(convs))
        self.has_early_act = style.is_port and not is_first
        self.last_act = style.act(channels) if self.has_early_act else nn.Identity()

    def forward(self, maps: Tensor, shortcut: Tensor | None = None) -> Tensor:
        """maps (B, C, D, H, W), and what is added where it is another -> (B, K, D, H, W)."""
        shortcut = maps if shortcut is None else shortcut
        if shortcut.shape[1] != self.channels:
            times = -(-self.channels // shortcut.shape[1])
            shortcut = shortcut.repeat(1, times, 1, 1, 1)[:, : self.channels]
        *before, (last_conv, last_act) = zip(self.convs, self.acts)
        for conv, act in before:
            maps = act(conv(maps))
        maps = last_conv(maps)
        if self.has_early_act:
            return self.last_act(last_act(maps) + shortcut)
        return last_act(maps + shortcut)


class Down(nn.Module):
    """Halve the size, double the channels, one stage: (B, C, D, H, W) -> (B, 2C, D/2, H/2, W/2)."""

    def __init__(self, in_channels: int, convs: int, style: Style, *, dropout: float) -> None:
        super().__init__()
        channels = 2 * in_channels
        self.step = Conv3d(in_channels, channels, 2, stride=2, bias=not style.is_port)
        self.norm, self.act = make_norm3d(style.norm, channels), style.act(channels)
        self.dropout = nn.Dropout3d(dropout)
        self.stage = Stage(channels, channels, convs, style)

    def forward(self, maps: Tensor) -> Tensor:
        """(B, C, D, H, W), even sides -> (B, 2C, D/2, H/2, W/2)."""
        maps = self.act(self.norm(self.step(maps)))
        return self.stage(self.dropout(maps), maps)


class Up(nn.Module):
    """Double the size, concatenate the skip behind, one stage: (B, C, D, H, W) -> (B, K, 2D, 2H, 2W)."""

    def __init__(self, in_channels: int, skip: int, convs: int, style: Style, *, dropout: float) -> None:
        super().__init__()
        self.dropout, self.skip_dropout = nn.Dropout3d(dropout), nn.Dropout3d(style.dropout)
        self.step = ConvTranspose3d(in_channels, skip, 2, stride=2)
        self.norm, self.act = make_norm3d(style.norm, skip), style.act(skip)
        self.stage = Stage(2 * skip, 2 * skip, convs, style)

    def forward(self, maps: Tensor, skip: Tensor) -> Tensor:
        """maps (B, C, D, H, W), skip (B, K/2, 2D, 2H, 2W) -> (B, K, 2D, 2H, 2W)."""
        maps = self.act(self.norm(self.step(self.dropout(maps))))
        return self.stage(torch.cat([maps, self.skip_dropout(skip)], dim=1))


class VNet(nn.Module):
    """Residual U of 5x5x5 convolutions over volumes; same size out, any size in.

    image (B, C, D, H, W) -> logits (B, K, D, H, W). With deep supervision, in training, a tuple of these and of the
    logits of the coarser stages of the way up, fine to coarse, interpolated to the same size.

    Args:
        form: which of the three networks.
        width: channels of the first stage; they double at every next one.
        depth: stages of the way down, 2 to 5. A volume is padded to a multiple of 2 ** (depth - 1).
        kernel: side of the convolutions inside a stage: the paper's 5, or 3, which costs a fifth.
        norm: "none" as in the paper, or "batch" or "instance" after every convolution.
        activation: "prelu" as in the paper, "elu", or "leaky_relu", the quickest.
        dropout: probability of dropping a channel, in training, where the port drops: entering the two deepest stages
            of each way, and on the skips.
        deep_supervision: a 1x1x1 head on every stage of the way up, not on the last alone; each weighs half of the
            next finer one.
    Raises:
        InputError: an option out of range.
    """

    spatial_dims = 3
    margin = 0

    def __init__(
        self,
        in_channels: int = 3,
        num_classes: int = 21,
        *,
        form: Form = PAPER,
        width: int = PAPER_WIDTH,
        depth: int = PAPER_DEPTH,
        kernel: int = 5,
        norm: str = "none",
        activation: str = "prelu",
        dropout: float = 0.0,
        deep_supervision: bool = False,
    ) -> None:
        super().__init__()
        _check(width, depth, kernel, norm, activation, dropout)
        style = Style(kernel, norm, activation, dropout, form.is_port)
        self.multiple, self.has_norm = 2 ** (depth - 1), norm != "none"
        channels = [width * 2**level for level in range(depth)]
        drops = [dropout if level >= depth - 2 else 0.0 for level in range(depth)]
        first = Stage(in_channels, width, form.down[0], style, is_first=True)
        self.down = nn.ModuleList([first])
        for entering, count, drop in zip(channels, form.down[1:depth], drops[1:]):
            self.down.append(Down(entering, count, style, dropout=drop))
        self.up = nn.ModuleList()
        entering, counts = channels[-1], form.up[len(form.up) - depth + 1 :]
        for skip, count, drop in zip(channels[-2::-1], counts, drops[::-1]):
            self.up.append(Up(entering, skip, count, style, dropout=drop))
            entering = 2 * skip
        self.head = _wide_head(entering, num_classes, style) if form.has_wide_head else Conv3d(entering, num_classes, 1)
        coarser = [2 * skip for skip in channels[1:-1]] if deep_supervision else []
        self.aux_heads = nn.ModuleList(Conv3d(each, num_classes, 1) for each in coarser)  # fine to coarse
        self.aux_weights = tuple(0.5**level for level in range(1, len(coarser) + 1))
        he_normal_(self)

    def forward(self, image: Tensor) -> Tensor | tuple[Tensor, ...]:
        """image (B, C, D, H, W) float -> logits (B, K, D, H, W); with deep supervision, in training, several."""
        fitted = pad_for_pools(image, (self.multiple,) * 3, has_norm=self.has_norm)
        maps, skips = fitted, []
        for down in self.down:
            maps = down(maps)
            skips.append(maps)
        coarse = []
        for up, skip in zip(self.up, skips[-2::-1]):
            maps = up(maps, skip)
            coarse.append(maps)
        logits = cut_volume(self.head(maps), image)
        if not (self.training and self.aux_heads):
            return logits
        others = [head(each) for head, each in zip(self.aux_heads, coarse[-2::-1])]
        return (logits, *(cut_volume(enlarge(each, fitted), image) for each in others))

    def stages(self) -> dict[str, nn.Module]:
        """The parts that `describe` lists."""
        down = {f"down {number}": stage for number, stage in enumerate(self.down, start=1)}
        ups = {f"up {number}": stage for number, stage in enumerate(self.up, start=1)}
        return down | ups | {"head": self.head}


def vnet(
    in_channels: int = 3,
    num_classes: int = 21,
    *,
    width: int = PAPER_WIDTH,
    depth: int = PAPER_DEPTH,
    kernel: int = 5,
    norm: str = "none",
    activation: str = "prelu",
    dropout: float = 0.0,
    deep_supervision: bool = False,
) -> VNet:
    """V-Net as the paper draws it: 1-2-3-3-3 convolutions a stage down, 3-3-2-1 up, 1x1x1 head; for volumes."""
    return VNet(
        in_channels, num_classes, width=width, depth=depth, kernel=kernel, norm=norm, activation=activation,
        dropout=dropout, deep_supervision=deep_supervision,
    )  # fmt: skip


def vnet_release(in_channels: int = 3, num_classes: int = 21, *, width: int = PAPER_WIDTH) -> VNet:
    """V-Net as the authors released it: 1-1-2-3-3 convolutions down, 3-2-1-1 up, 5x5x5 head; for volumes."""
    return VNet(in_channels, num_classes, form=RELEASE, width=width)


def vnet_monai(
    in_channels: int = 3,
    num_classes: int = 21,
    *,
    width: int = PAPER_WIDTH,
    activation: str = "elu",
    dropout: float = 0.5,
) -> VNet:
    """V-Net as MONAI has it, after a port: 1-1-2-3-2 convolutions down, 2-2-1-1 up, batch norm; for volumes."""
    return VNet(
        in_channels, num_classes, form=PORT, width=width, norm="batch", activation=activation, dropout=dropout
    )  # fmt: skip


def _wide_head(in_channels: int, num_classes: int, style: Style) -> nn.Sequential:
    return nn.Sequential(
        style.conv(in_channels, num_classes), style.act(num_classes), Conv3d(num_classes, num_classes, 1)
    )


def _check(width: int, depth: int, kernel: int, norm: str, activation: str, dropout: float) -> None:
    if width < 1:
        raise InputError(f"option width={width} of vnet: it must be at least 1")
    if not 2 <= depth <= PAPER_DEPTH:
        raise InputError(f"option depth={depth} of vnet: choose 2 to {PAPER_DEPTH} stages")
    if kernel not in (3, 5):
        raise InputError(f"option kernel={kernel} of vnet: choose 3 or 5")
    for option, value, allowed in (("norm", norm, NORMS), ("activation", activation, tuple(ACTIVATIONS))):
        if value not in allowed:
            raise InputError(f"option {option}={value!r} of vnet: choose one of {', '.join(map(repr, allowed))}")
    if not 0 <= dropout < 1:
        raise InputError(f"option dropout={dropout} of vnet: it is a probability, from 0 to below 1")
