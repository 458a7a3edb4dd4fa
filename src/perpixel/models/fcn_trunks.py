"""The classifiers under FCN, without their last layers: VGG16, AlexNet (CaffeNet) and GoogLeNet.

Each pads its *first* convolution by 100 pixels, so that an image of any size reaches the deepest map, and knows the
geometry of its maps: how far apart their cells are and where the first one lies. Crop offsets follow from that.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from perpixel.errors import InputError
from perpixel.layers import conv_centre

FIRST_PADDING = 100
VGG16_BLOCKS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


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
    """

    fc_kernel = 7
    out_channels = 512

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        before = in_channels
        for number, widths in enumerate(VGG16_BLOCKS, start=1):
            self.add_module(f"block{number}", _vgg_block(number, before, widths))
            before = widths[-1]
        self.skips = {"pool4": 512, "pool3": 256}

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


def _vgg_block(number: int, before: int, widths: Sequence[int]) -> nn.Sequential:
    """Convolutions named as in Caffe (conv1_1, ...) and a pool that rounds up."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for index, width in enumerate(widths, start=1):
        padding = FIRST_PADDING if (number, index) == (1, 1) else 1
        layers[f"conv{number}_{index}"] = nn.Conv2d(before, width, 3, padding=padding)
        layers[f"relu{number}_{index}"] = nn.ReLU(inplace=True)
        before = width
    layers[f"pool{number}"] = nn.MaxPool2d(2, 2, ceil_mode=True)
    return nn.Sequential(layers)


class AlexNetTrunk(nn.Module):
    """image (B, C, H, W) -> {"deep": (B, 256, ...)} at stride 32: CaffeNet, with groups and response normalisation.

    torchvision's `alexnet` is another network (no groups, no normalisation, other widths); its weights do not fit.
    """

    fc_kernel = 6
    out_channels = 256

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.skips: dict[str, int] = {}
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
        return {"deep": self.block5(self.block4(self.block3(self.block2(self.block1(image)))))}

    def grids(self) -> dict[str, Grid]:
        """The grid of the deepest map."""
        first = IMAGE_GRID.after((11, 4, FIRST_PADDING), (3, 2, 0), (5, 1, 2), (3, 2, 0))
        return {"deep": first.after((3, 1, 1), (3, 1, 1), (3, 1, 1), (3, 2, 0))}


def _pool3() -> nn.MaxPool2d:
    return nn.MaxPool2d(3, 2, ceil_mode=True)


def _response_norm() -> nn.LocalResponseNorm:
    return nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75)


class GoogLeNetTrunk(nn.Module):
    """image (B, C, H, W) -> {"deep": (B, 1024, ...)} at stride 32: torchvision's GoogLeNet up to inception 5b.

    The average pool and both auxiliary classifiers are left out, as the paper says; there is no release by the
    authors to compare with. torchvision's network has batch normalisation where the original has none.
    """

    fc_kernel = 0  # scored directly, no fully connected layers in between
    out_channels = 1024

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        from torchvision.models import GoogLeNet  # slow to import, and seldom needed

        self.skips: dict[str, int] = {}
        net = GoogLeNet(num_classes=1, aux_logits=False, init_weights=False)
        net.conv1.conv = nn.Conv2d(in_channels, 64, 7, 2, FIRST_PADDING, bias=False)
        kept = [(name, part) for name, part in net.named_children() if name not in ("avgpool", "dropout", "fc")]
        self.net = nn.Sequential(OrderedDict((name, part) for name, part in kept if part is not None))

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """See the class."""
        return {"deep": self.net(image)}

    def grids(self) -> dict[str, Grid]:
        """The grid of the deepest map; an inception block keeps its input's."""
        first = IMAGE_GRID.after((7, 2, FIRST_PADDING), (3, 2, 0), (3, 1, 1), (3, 2, 0))
        return {"deep": first.after((3, 2, 0), (2, 2, 0))}


Trunk = VGG16Trunk | AlexNetTrunk | GoogLeNetTrunk
TRUNKS: dict[str, type[VGG16Trunk] | type[AlexNetTrunk] | type[GoogLeNetTrunk]] = {
    "vgg16": VGG16Trunk,
    "alexnet": AlexNetTrunk,
    "googlenet": GoogLeNetTrunk,
}


def create_trunk(backbone: str, in_channels: int, skips: Sequence[str]) -> Trunk:
    """Build the trunk of a name.

    Raises:
        InputError: unknown name, or one without the pooled maps that the skips need.
    """
    if backbone not in TRUNKS:
        raise InputError(f"option backbone={backbone!r} of fcn: choose {', '.join(TRUNKS)}")
    trunk = TRUNKS[backbone](in_channels)
    lacking = [skip for skip in skips if skip not in trunk.skips]
    if lacking:
        raise InputError(
            f"option backbone={backbone!r} has no {lacking[0]} to skip from (published for vgg16 only): "
            "use model 'fcn32s', or backbone='vgg16'"
        )
    return trunk
