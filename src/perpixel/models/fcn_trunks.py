"""The classifiers under FCN, without their last layers: VGG16, AlexNet (CaffeNet) and GoogLeNet.

Each pads its *first* convolution by 100 pixels, so that an image of any size reaches the deepest map, and knows the
geometry of its maps: how far apart their cells are and where the first one lies. Crop offsets follow from that.

Each offers two maps to skip from, `skips`: one at stride 16, then one at stride 8. In VGG16 these are pool4 and pool3.
The paper publishes no skips of the others; the like are pool2 and pool1 of AlexNet, before response normalisation, and
the last maps of those strides in GoogLeNet, inception 4e and 3b, whose blocks, unlike VGG16's, do not end with a pool.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from torch import Tensor, nn

from perpixel.errors import InputError
from perpixel.layers import conv_centre
from perpixel.models.vgg import VGG16_WIDTH, vgg16_blocks, vgg_block

FIRST_PADDING = 100


@dataclass(frozen=True)
class Grid:
    """Where the cells of a map lie on one axis of the image: `centre` of the first one, `step` between two."""

    centre: float
    step: int

    def after(self, *layers: tuple[int, int, int]) -> Grid:
        """The grid behind convolutions or pools, each (kernel, stride, padding)."""
        grid = self
        for kernel, stride, padding in layers:
            grid = Grid(conv_centre(grid.centre, grid.step, kernel, padding), grid.step * stride)
        return grid


IMAGE_GRID = Grid(0.0, 1)


class VGG16Trunk(nn.Module):
    """image (B, C, H, W) -> {"pool3": (B, 256, ...), "pool4": (B, 512, ...), "deep": (B, 512, ...)}, strides 8, 16, 32.

    Five blocks of 3x3 convolutions and ReLU without batch normalisation, pools rounding up as in Caffe.

    Args:
        width: channels of the first block, the others in proportion.
    """

    fc_kernel = 7

    def __init__(self, in_channels: int, width: int = VGG16_WIDTH) -> None:
        super().__init__()
        before = in_channels
        channels = vgg16_blocks(width)
        for number, widths in enumerate(channels, start=1):
            first = FIRST_PADDING if number == 1 else None
            pool = nn.MaxPool2d(2, 2, ceil_mode=True)
            block = vgg_block(number, before, widths, padding=1, first_padding=first, pool=pool)
            self.add_module(f"block{number}", block)
            before = widths[-1]
        self.out_channels = before
        self.skips = {"pool4": channels[3][-1], "pool3": channels[2][-1]}

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """See the class."""
        maps = {}
        for number in range(1, 6):
            image = self.get_submodule(f"block{number}")(image)
            maps["deep" if number == 5 else f"pool{number}"] = image
        return {name: maps[name] for name in ("pool3", "pool4", "deep")}

    def grids(self) -> dict[str, Grid]:
        """The grid of every map that forward returns."""
        grids, grid = {}, IMAGE_GRID.after((3, 1, FIRST_PADDING), (3, 1, 1), (2, 2, 0))
        for number in range(2, 6):
            grid = grid.after((3, 1, 1), (3, 1, 1), (2, 2, 0))
            grids["deep" if number == 5 else f"pool{number}"] = grid
        return grids


class AlexNetTrunk(nn.Module):
    """image (B, C, H, W) -> {"pool1": (B, 96, ...), "pool2": (B, 256, ...), "deep": (B, 256, ...)}, strides 8, 16, 32.

    CaffeNet: every other convolution in two groups, response normalisation behind the first two pools.
    torchvision's `alexnet` is another network (no groups, no normalisation, other widths); its weights do not fit.
    """

    fc_kernel = 6
    out_channels = 256

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.skips = {"pool2": 256, "pool1": 96}
        self.block1 = nn.Sequential(
            nn.Conv2d(in_channels, 96, 11, 4, FIRST_PADDING), nn.ReLU(inplace=True), _pool3(), _response_norm()
        )
        self.block2 = nn.Sequential(
            nn.Conv2d(96, 256, 5, padding=2, groups=2), nn.ReLU(inplace=True), _pool3(), _response_norm()
        )
        self.block3 = nn.Sequential(nn.Conv2d(256, 384, 3, padding=1), nn.ReLU(inplace=True))
        self.block4 = nn.Sequential(nn.Conv2d(384, 384, 3, padding=1, groups=2), nn.ReLU(inplace=True))
        self.block5 = nn.Sequential(nn.Conv2d(384, 256, 3, padding=1, groups=2), nn.ReLU(inplace=True), _pool3())

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """See the class."""
        maps = {}
        for name, block in (("pool1", self.block1), ("pool2", self.block2)):
            conv, relu, pool, norm = block
            maps[name] = pool(relu(conv(image)))
            image = norm(maps[name])
        return {**maps, "deep": self.block5(self.block4(self.block3(image)))}

    def grids(self) -> dict[str, Grid]:
        """The grid of every map that forward returns."""
        pool1 = IMAGE_GRID.after((11, 4, FIRST_PADDING), (3, 2, 0))
        pool2 = pool1.after((5, 1, 2), (3, 2, 0))
        return {"pool1": pool1, "pool2": pool2, "deep": pool2.after((3, 1, 1), (3, 1, 1), (3, 1, 1), (3, 2, 0))}


def _pool3() -> nn.MaxPool2d:
    return nn.MaxPool2d(3, 2, ceil_mode=True)


def _response_norm() -> nn.LocalResponseNorm:
    return nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75)


class GoogLeNetTrunk(nn.Module):
    """image (B, C, H, W) -> maps "inception3b" (B, 480, ...), "inception4e" (B, 832, ...) and "deep" (B, 1024, ...).

    Strides 8, 16 and 32: torchvision's GoogLeNet up to inception 5b.
    The average pool and both auxiliary classifiers are left out, as the paper says; there is no release by the
    authors to compare with. torchvision's network has batch normalisation where the original has none.
    """

    fc_kernel = 0  # scored directly, no fully connected layers in between
    out_channels = 1024

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        from torchvision.models import GoogLeNet  # slow to import, and seldom needed

        self.skips = {"inception4e": 832, "inception3b": 480}
        net = GoogLeNet(num_classes=1, aux_logits=False, init_weights=False)
        net.conv1.conv = nn.Conv2d(in_channels, 64, 7, 2, FIRST_PADDING, bias=False)
        kept = [(name, part) for name, part in net.named_children() if name not in ("avgpool", "dropout", "fc")]
        self.net = nn.Sequential(OrderedDict((name, part) for name, part in kept if part is not None))

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """See the class."""
        maps = {}
        for name, block in self.net.named_children():
            image = block(image)
            if name in self.skips:
                maps[name] = image
        return {**maps, "deep": image}

    def grids(self) -> dict[str, Grid]:
        """The grid of every map that forward returns; an inception block keeps its input's."""
        third = IMAGE_GRID.after((7, 2, FIRST_PADDING), (3, 2, 0), (3, 1, 1), (3, 2, 0))
        fourth = third.after((3, 2, 0))
        return {"inception3b": third, "inception4e": fourth, "deep": fourth.after((2, 2, 0))}


Trunk = VGG16Trunk | AlexNetTrunk | GoogLeNetTrunk
BACKBONES = ("vgg16", "alexnet", "googlenet")


def create_trunk(backbone: str, in_channels: int, width: int = VGG16_WIDTH) -> Trunk:
    """Build the trunk of a name; `width` is that of VGG16.

    Raises:
        InputError: unknown name.
    """
    if backbone not in BACKBONES:
        raise InputError(f"option backbone={backbone!r} of fcn: choose {', '.join(BACKBONES)}")
    if backbone == "vgg16":
        return VGG16Trunk(in_channels, width)
    return AlexNetTrunk(in_channels) if backbone == "alexnet" else GoogLeNetTrunk(in_channels)
