"""torchvision's VGG16, with or without batch normalisation, into SegNet's encoder."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from perpixel.encoders import adapt_stem_weight, download_torchvision, read_state_dict
from perpixel.errors import InputError

NORM_PARTS = ("weight", "bias", "running_mean", "running_var")


@torch.no_grad()
def load_vgg16(encoder: nn.Module, weights: str | Path) -> None:
    """Copy VGG16's convolutions, and its batch normalisations where the file has them, into `encoder`, in place.

    Args:
        weights: "imagenet" downloads torchvision's vgg16_bn; otherwise a file of torchvision's vgg16_bn or vgg16. The
            first convolution is adapted to other channel counts than 3.
    Raises:
        InputError: the download failed, or the file is another network's.
    """
    where = "torchvision's weights" if weights == "imagenet" else str(weights)
    state = download_torchvision("vgg16_bn") if weights == "imagenet" else read_state_dict(weights)
    layers = _numbered(state)
    convs = [part for part in encoder.modules() if isinstance(part, nn.Conv2d)]
    norms = [part for part in encoder.modules() if isinstance(part, nn.BatchNorm2d)]
    given_convs = [layer for layer in layers if layer["weight"].ndim == 4]
    given_norms = [layer for layer in layers if layer["weight"].ndim == 1]
    if len(given_convs) != len(convs) or len(given_norms) not in (0, len(norms)):
        raise InputError(
            f"{where}: has {len(given_convs)} convolutions and {len(given_norms)} normalisations under 'features', "
            f"VGG16 has {len(convs)} and 0 or {len(norms)}: give a state dict of torchvision's vgg16_bn or vgg16"
        )
    stem = given_convs[0]["weight"]
    if stem.shape[1] == 3:
        given_convs[0]["weight"] = adapt_stem_weight(stem, convs[0].in_channels)
    for conv, layer in zip(convs, given_convs):
        _copy(conv, layer, ("weight", "bias"), where)
    for norm, layer in zip(norms, given_norms):
        _copy(norm, layer, NORM_PARTS, where)


def _numbered(state: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    """Tensors of "features.NUMBER.PART", by number: those of each layer that has weights."""
    layers: dict[int, dict[str, Tensor]] = {}
    for name, value in state.items():
        room, _, rest = name.partition(".")
        number, _, part = rest.partition(".")
        if room == "features" and number.isdecimal():
            layers.setdefault(int(number), {})[part] = value
    return [layers[number] for number in sorted(layers) if "weight" in layers[number]]


def _copy(layer: nn.Module, given: dict[str, Tensor], parts: tuple[str, ...], where: str) -> None:
    for part in parts:
        own: Tensor = getattr(layer, part)
        shape = tuple(given[part].shape) if part in given else None
        if shape != tuple(own.shape):
            found = f"lacks a {part}" if shape is None else f"has a {part} of {shape}"
            raise InputError(
                f"{where}: a layer {found} where VGG16 has one of {tuple(own.shape)}: give a state dict of "
                "torchvision's vgg16_bn or vgg16"
            )
        own.copy_(given[part])
