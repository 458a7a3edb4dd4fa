"""Pretrained classifiers into FCN: convolutions as they are, fully connected layers as convolutions."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from perpixel.encoders import adapt_stem_weight, read_state_dict
from perpixel.errors import InputError
from perpixel.layers import conv_weight

# torchvision's names of the two fully connected layers that become fc6 and fc7.
VGG_LINEAR = {"fc6": "classifier.0", "fc7": "classifier.3"}


@torch.no_grad()
def load_classifier(trunk: nn.Module, head: nn.Sequential, backbone: str, weights: str | Path) -> None:
    """Copy torchvision's VGG16 or GoogLeNet classifier into the trunk and the head of an FCN, in place.

    Args:
        weights: "imagenet" downloads torchvision's; otherwise a file with that network's state dict. Its first
            convolution of 3 channels is adapted to other channel counts.
    Raises:
        InputError: no weights fit this backbone, or the file is another network's.
    """
    if backbone == "alexnet":
        raise InputError(
            f"weights={str(weights)!r} with backbone='alexnet': torchvision's AlexNet is another network than the "
            "paper's (no groups, other widths); use weights=None, or backbone='vgg16'"
        )
    where = "torchvision's weights" if weights == "imagenet" else str(weights)
    state = _download(backbone) if weights == "imagenet" else read_state_dict(weights)
    if backbone == "vgg16":
        _copy_all(_vgg_pairs(trunk, head, state, where), where)
    else:
        _copy_all({f"trunk.{name}": (value, state.get(name.removeprefix("net.")))
                   for name, value in trunk.state_dict().items()}, where)  # fmt: skip


def _download(backbone: str) -> dict[str, Tensor]:
    from torchvision import models  # slow to import

    try:
        return models.get_model_weights(backbone)["IMAGENET1K_V1"].get_state_dict(progress=False, check_hash=True)
    except OSError as error:
        raise InputError(
            f"weights of backbone '{backbone}' could not be downloaded ({error}): "
            "check the network, give a local file, or use weights=None"
        ) from error


def _vgg_pairs(
    trunk: nn.Module, head: nn.Sequential, state: dict[str, Tensor], where: str
) -> dict[str, tuple[Tensor, Tensor | None]]:
    """(own tensor, the file's) by the file's name. torchvision numbers its layers, the order is ours."""
    numbers = sorted({int(name.split(".")[1]) for name in state if name.startswith("features.")})
    convs = [part for part in trunk.modules() if isinstance(part, nn.Conv2d)]
    if len(numbers) != len(convs):
        raise InputError(
            f"{where}: has {len(numbers)} convolutions under 'features', VGG16 without batch normalisation has "
            f"{len(convs)}: give a state dict of torchvision's vgg16"
        )
    pairs: dict[str, tuple[Tensor, Tensor | None]] = {}
    for number, conv in zip(numbers, convs):
        for part in ("weight", "bias"):
            pairs[f"features.{number}.{part}"] = (getattr(conv, part), state.get(f"features.{number}.{part}"))
    for own, theirs in VGG_LINEAR.items():
        layer = head.get_submodule(own)
        assert isinstance(layer, nn.Conv2d) and layer.bias is not None
        matrix = state.get(f"{theirs}.weight")
        if matrix is not None and matrix.shape[0] != layer.out_channels:
            raise InputError(
                f"{where}: '{theirs}.weight' has {matrix.shape[0]} channels, {own} of the model {layer.out_channels}: "
                f"use fc_channels={matrix.shape[0]}"
            )
        size = (layer.kernel_size[0], layer.kernel_size[1])
        pairs[f"{theirs}.weight"] = (
            layer.weight, None if matrix is None else conv_weight(matrix, layer.in_channels, size)
        )  # fmt: skip
        pairs[f"{theirs}.bias"] = (layer.bias, state.get(f"{theirs}.bias"))
    return pairs


def _copy_all(pairs: dict[str, tuple[Tensor, Tensor | None]], where: str) -> None:
    for name, (own, given) in pairs.items():
        if given is None:
            raise InputError(f"{where}: lacks '{name}': give a state dict of the whole torchvision classifier")
        if given.ndim == 4 and own.ndim == 4 and own.shape[1] != given.shape[1] == 3:
            given = adapt_stem_weight(given, own.shape[1])
        if given.shape != own.shape:
            raise InputError(
                f"{where}: '{name}' is {tuple(given.shape)}, the model needs {tuple(own.shape)}: "
                "give a state dict of torchvision's network"
            )
        own.copy_(given)
