"""ResNet as segmentation papers use it: three published variants, stages that dilate instead of halving.

He, Zhang, Ren, Sun, "Deep residual learning for image recognition", CVPR 2016. What circulates under one name differs:

    variant  stem                          stride of a bottleneck   used by
    "a"      7x7, pool rounding up         on its first 1x1         the paper's Caffe weights, DeepLab v2
    "b"      7x7                           on its 3x3               torchvision ("v1.5")
    "c"      3x3 64 - 3x3 64 - 3x3 128     on its 3x3               PSPNet

Tensors are named as torchvision's (variants a and b) and timm's `resnet50s` (c), so those weights fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor, nn

from perpixel.encoders.encoder import Encoder
from perpixel.encoders.weights import copy_weights, download_torchvision, read_state_dict
from perpixel.errors import InputError

# Residual units of each stage; two 3x3 convolutions a unit up to 34 layers, bottlenecks of three above.
UNITS = {
    "resnet18": (2, 2, 2, 2),
    "resnet34": (3, 4, 6, 3),
    "resnet50": (3, 4, 6, 3),
    "resnet101": (3, 4, 23, 3),
    "resnet152": (3, 8, 36, 3),
}
VARIANTS = ("a", "b", "c")
WIDTHS = (64, 128, 256, 512)
EXPANSION = 4  # of a bottleneck


class BasicUnit(nn.Module):
    """Two 3x3 convolutions and the identity: (B, C, H, W) -> (B, K, H / stride, W / stride)."""

    def __init__(self, in_channels: int, width: int, stride: int, dilation: int, variant: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, stride, dilation, dilation, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, dilation, dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(in_channels, width, stride)

    def forward(self, maps: Tensor) -> Tensor:
        """See the class."""
        residual = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(maps)))))
        return self.relu(residual + (maps if self.downsample is None else self.downsample(maps)))


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 and the identity: (B, C, H, W) -> (B, 4 * width, H / stride, W / stride)."""

    def __init__(self, in_channels: int, width: int, stride: int, dilation: int, variant: str) -> None:
        super().__init__()
        first, second = (stride, 1) if variant == "a" else (1, stride)
        self.conv1 = nn.Conv2d(in_channels, width, 1, first, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, second, dilation, dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, EXPANSION * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(EXPANSION * width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(in_channels, EXPANSION * width, stride)

    def forward(self, maps: Tensor) -> Tensor:
        """See the class."""
        residual = self.relu(self.bn1(self.conv1(maps)))
        residual = self.relu(self.bn2(self.conv2(residual)))
        residual = self.bn3(self.conv3(residual))
        return self.relu(residual + (maps if self.downsample is None else self.downsample(maps)))


def _shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and in_channels == out_channels:
        return None
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels))


def residual_stage(
    unit: type[BasicUnit] | type[Bottleneck],
    in_channels: int,
    width: int,
    *,
    stride: int,
    dilations: Sequence[int],
    variant: str = "b",
) -> nn.Sequential:
    """One residual unit for each of `dilations`, the first with the stride: (B, C, H, W) -> (B, K, H / s, W / s)."""
    units, before = [], in_channels
    for number, dilation in enumerate(dilations):
        units.append(unit(before, width, stride if number == 0 else 1, dilation, variant))
        before = width * (EXPANSION if unit is Bottleneck else 1)
    return nn.Sequential(*units)


class ResNet(nn.Module):
    """image (B, C, H, W) -> five maps at strides 2, 4, 8, 16, 32, the last ones no coarser than `output_stride`.

    A stage that would pass the output stride keeps its size and spreads its 3x3 kernels: dilation 2 for the first
    such stage, 4 for the second; all of its units are dilated.

    Args:
        multi_grid: factors on the dilations of the last stage's units, for DeepLab v3 (1, 2, 4).
        keep_first: the first unit of a dilated stage keeps the dilation before it, as torchvision builds it.
    """

    def __init__(
        self,
        name: str,
        in_channels: int,
        *,
        variant: str,
        output_stride: int,
        multi_grid: Sequence[int],
        keep_first: bool,
        depth: int,
    ) -> None:
        super().__init__()
        unit: type[BasicUnit] | type[Bottleneck] = BasicUnit if name in ("resnet18", "resnet34") else Bottleneck
        if variant == "c":
            self.conv1: nn.Module = nn.Sequential(
                nn.Conv2d(in_channels, 64, 3, 2, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU(inplace=True),
                nn.Conv2d(64, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU(inplace=True),
                nn.Conv2d(64, 128, 3, padding=1, bias=False),
            )  # fmt: skip
        else:
            self.conv1 = nn.Conv2d(in_channels, 64, 7, 2, 3, bias=False)
        before = 128 if variant == "c" else 64
        self.bn1 = nn.BatchNorm2d(before)
        self.relu = nn.ReLU(inplace=True)
        # Caffe's pool rounds up and does not pad, torchvision's pads by one.
        self.maxpool = nn.MaxPool2d(3, 2, ceil_mode=True) if variant == "a" else nn.MaxPool2d(3, 2, 1)
        self.channels, self.strides = [before], [2]
        stride, dilation = 4, 1
        for number, (units, width) in enumerate(zip(UNITS[name][: depth - 1], WIDTHS), start=1):
            step = 1 if number == 1 else 2
            last = dilation
            if step == 2 and stride * 2 > output_stride:
                step, dilation = 1, dilation * 2
            stride *= step
            dilations = [dilation] * units
            if keep_first:
                dilations[0] = last
            if number == len(WIDTHS):
                dilations = [value * multi_grid[min(i, len(multi_grid) - 1)] for i, value in enumerate(dilations)]
            stage = residual_stage(unit, before, width, stride=step, dilations=dilations, variant=variant)
            self.add_module(f"layer{number}", stage)
            before = width * (EXPANSION if unit is Bottleneck else 1)
            self.channels.append(before)
            self.strides.append(stride)
        self._initialise()

    def forward(self, image: Tensor) -> list[Tensor]:
        """image (B, C, H, W) -> [(B, channels[i], ~H / strides[i], ~W / strides[i])]."""
        maps = self.relu(self.bn1(self.conv1(image)))
        features = [maps]
        maps = self.maxpool(maps)
        for number in range(1, len(self.channels)):
            maps = self.get_submodule(f"layer{number}")(maps)
            features.append(maps)
        return features

    def _initialise(self) -> None:
        for part in self.modules():
            if isinstance(part, nn.Conv2d):
                nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")


def resnet_encoder(
    name: str,
    *,
    in_channels: int = 3,
    variant: str = "b",
    weights: str | Path | None = None,
    output_stride: int = 32,
    multi_grid: Sequence[int] = (1,),
    keep_first: bool = False,
    depth: int = 5,
) -> Encoder:
    """A ResNet of a named variant as an encoder: features fine to coarse with `channels` and `strides`.

    Args:
        name: "resnet18", "resnet34", "resnet50", "resnet101" or "resnet152".
        variant: "a", "b" or "c"; see the module.
        weights: None; "imagenet" downloads torchvision's (b) or timm's resnet50s family (c); or a file in their naming.
        output_stride: 8, 16 or 32.
        multi_grid: dilation factors of the last stage's units; the last one repeats.
        keep_first: build dilated stages as torchvision does.
        depth: features down to stride 2 ** depth, 2 to 5.
    Raises:
        InputError: unknown name or variant, an impossible stride, weights that do not fit.
    """
    if name not in UNITS:
        raise InputError(f"encoder '{name}' has no ResNet variants: choose {', '.join(UNITS)}")
    if variant not in VARIANTS:
        raise InputError(f"variant={variant!r} of encoder '{name}': choose 'a', 'b' or 'c'")
    if output_stride not in (8, 16, 32):
        raise InputError(f"output_stride {output_stride} of encoder '{name}': choose 8, 16 or 32")
    if not multi_grid or min(multi_grid) < 1:
        raise InputError(f"multi_grid {tuple(multi_grid)} of encoder '{name}': give dilation factors from 1 on")
    net = ResNet(
        name,
        in_channels,
        variant=variant,
        output_stride=output_stride,
        multi_grid=multi_grid,
        keep_first=keep_first,
        depth=depth,
    )
    if weights is not None:
        _load(net, name, variant, weights)
    # The unpadded pool of variant a rounds another way, and needs two pixels.
    return Encoder(name, net, net.channels, net.strides, takes_any_size=variant != "a")


def _load(net: ResNet, name: str, variant: str, weights: str | Path) -> None:
    state = _download(name, variant) if weights == "imagenet" else read_state_dict(weights)
    where = f"weights of '{name}'" if weights == "imagenet" else str(weights)
    copy_weights(f"{name}, variant {variant}", where, state, net.state_dict())


def _download(name: str, variant: str) -> dict[str, Tensor]:
    if variant == "b":
        return download_torchvision(name)
    if variant != "c" or name not in ("resnet50", "resnet101", "resnet152"):
        raise InputError(
            f"weights='imagenet' of encoder '{name}': nobody offers weights of variant '{variant}' in a safe format: "
            "use variant 'b', or a local file"
        )
    import timm

    try:
        return timm.create_model(f"{name}s.gluon_in1k", pretrained=True).state_dict()
    except OSError as error:
        raise InputError(
            f"weights of '{name}' could not be downloaded ({error}): "
            "check the network, give a local file, or use weights=None"
        ) from error
