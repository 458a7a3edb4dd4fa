"""One door to every backbone: `create_encoder`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from perpixel.encoders.encoder import Encoder
from perpixel.errors import InputError

OUTPUT_STRIDES = (8, 16, 32)
TORCHVISION_PREFIX = "torchvision/"
# Cut as segmentation papers do, which neither library offers: see mobilenet_v3.py.
MOBILENET_V3 = ("mobilenet_v3_large", "mobilenet_v3_small")


def create_encoder(
    name: str,
    *,
    in_channels: int = 3,
    weights: str | Path | None = None,
    output_stride: int = 32,
    depth: int = 5,
    variant: str | None = None,
    multi_grid: Sequence[int] | None = None,
) -> Encoder:
    """Build an encoder by its timm name ('resnet18', 'convnext_tiny') or as 'torchvision/resnet18'.

    Args:
        name: timm model name, "torchvision/" and a torchvision classification model, or "mobilenet_v3_large" for
            torchvision's network with the features that published segmentation weights use.
        in_channels: any count; a pretrained stem is adapted (`adapt_stem_weight`).
        weights: None starts at random; "imagenet" downloads the library's default weights, the only place that
            does; otherwise a local .safetensors, .pth or .pt file in the library's own naming.
        output_stride: 8, 16 or 32; below 32 the last stages are dilated where the network can.
        depth: features down to stride 2 ** depth, 2 to 5.
        variant: "a", "b" or "c" for one of the ResNets of `resnet_encoder`; None leaves the network to its library.
        multi_grid: dilation factors of the last stage's units; needs a ResNet, and means variant "b" if none is named.
    Raises:
        InputError: unknown name (nearest ones listed), a network without a pyramid, an option it cannot take,
            weights that are missing, damaged or of another network.
    """
    if in_channels < 1:
        raise InputError(f"in_channels {in_channels} of encoder '{name}': it must be at least 1")
    if output_stride not in OUTPUT_STRIDES:
        raise InputError(f"output_stride {output_stride} of encoder '{name}': choose 8, 16 or 32")
    if not 2 <= depth <= 5:
        raise InputError(f"depth {depth} of encoder '{name}': choose 2 to 5")
    source = None if weights is None else str(weights)
    if variant is not None or multi_grid is not None:
        from perpixel.encoders.resnet import resnet_encoder

        return resnet_encoder(
            name,
            in_channels=in_channels,
            variant=variant or "b",
            weights=source,
            output_stride=output_stride,
            multi_grid=(1,) if multi_grid is None else multi_grid,
            depth=depth,
        )
    if name in MOBILENET_V3:
        from perpixel.encoders.mobilenet_v3 import mobilenet_v3_encoder

        return mobilenet_v3_encoder(
            name, in_channels=in_channels, weights=source, output_stride=output_stride, depth=depth
        )
    # Imported here because timm and torchvision take longer to import than torch; most commands need neither.
    if name.startswith(TORCHVISION_PREFIX):
        from perpixel.encoders.torchvision_encoder import torchvision_encoder

        short = name.removeprefix(TORCHVISION_PREFIX)
        return torchvision_encoder(short, in_channels, source, output_stride, depth)
    from perpixel.encoders.timm_encoder import timm_encoder

    return timm_encoder(name, in_channels, source, output_stride, depth)
