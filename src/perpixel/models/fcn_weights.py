"""Pretrained classifiers into FCN: convolutions as they are, fully connected layers as convolutions."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from perpixel.encoders import adapt_stem_weight, download_torchvision, read_state_dict
from perpixel.errors import InputError
from perpixel.layers import conv_weight

# torchvision's names of the two fully connected layers that become fc6 and fc7; CaffeNet has its own under these names.
VGG_LINEAR = {"fc6": "classifier.0", "fc7": "classifier.3"}
CAFFE_LINEAR = {"fc6": "fc6", "fc7": "fc7"}
OTHER_ALEXNET = (
    "torchvision's AlexNet is another network than the paper's (no groups, other widths): give a file of CaffeNet's "
    "tensors (conv1.weight ... fc7.bias)"
)

# Name in the file -> (own tensor, the file's).
Pairs = dict[str, tuple[Tensor, Tensor | None]]


@torch.no_grad()
def load_classifier(trunk: nn.Module, head: nn.Sequential, backbone: str, weights: str | Path) -> None:
    """Copy a classifier into the trunk and the head of an FCN, in place: torchvision's VGG16 or GoogLeNet, or CaffeNet.

    Args:
        weights: "imagenet" downloads torchvision's; otherwise a file with that network's state dict. For AlexNet a file
            of CaffeNet's tensors under Caffe's names, conv1.weight to fc7.bias, the fully connected ones as matrices
            or already as kernels. The first convolution of 3 channels is adapted to other channel counts.
    Raises:
        InputError: no weights fit this backbone, or the file is another network's.
    """
    if weights == "imagenet" and backbone == "alexnet":
        raise InputError(
            f"weights='imagenet' with backbone='alexnet': {OTHER_ALEXNET}, or use weights=None or backbone='vgg16'"
        )
    state, where = read_classifier(backbone, weights)
    if backbone == "vgg16":
        copy_vgg16(trunk, head, state, where)
        return
    if backbone == "alexnet":
        if "features.0.weight" in state:
            raise InputError(f"{where}: {OTHER_ALEXNET}")
        pairs = _caffe_pairs(trunk, state) | _linear_pairs(head, state, where, CAFFE_LINEAR)
    else:
        pairs = {f"trunk.{name}": (value, state.get(name.removeprefix("net.")))
                 for name, value in trunk.state_dict().items()}  # fmt: skip
    _copy_all(pairs, where)


def read_classifier(backbone: str, weights: str | Path) -> tuple[dict[str, Tensor], str]:
    """The state dict of torchvision's `backbone` ("imagenet" downloads it) or of a file, and its name for messages.

    Raises:
        InputError: no network, or no such file.
    """
    if weights == "imagenet":
        return download_torchvision(backbone), "torchvision's weights"
    return read_state_dict(weights), str(weights)


@torch.no_grad()
def copy_vgg16(trunk: nn.Module, head: nn.Sequential, state: dict[str, Tensor], where: str) -> None:
    """Copy torchvision's vgg16 into the 13 convolutions of `trunk` and into fc6 and fc7 of `head`.

    Raises:
        InputError: `state`, called `where`, is another network's or has other sizes.
    """
    _copy_all(_vgg_pairs(trunk, state, where) | _linear_pairs(head, state, where, VGG_LINEAR), where)


def _vgg_pairs(trunk: nn.Module, state: dict[str, Tensor], where: str) -> Pairs:
    """torchvision numbers its layers; the order is ours."""
    numbers = sorted({int(name.split(".")[1]) for name in state if name.startswith("features.")})
    convs = [part for part in trunk.modules() if isinstance(part, nn.Conv2d)]
    if len(numbers) != len(convs):
        raise InputError(
            f"{where}: has {len(numbers)} convolutions under 'features', VGG16 without batch normalisation has "
            f"{len(convs)}: give a state dict of torchvision's vgg16"
        )
    return {
        f"features.{number}.{part}": (getattr(conv, part), state.get(f"features.{number}.{part}"))
        for number, conv in zip(numbers, convs)
        for part in ("weight", "bias")
    }


def _caffe_pairs(trunk: nn.Module, state: dict[str, Tensor]) -> Pairs:
    """conv1 to conv5, of the same shapes in Caffe and here."""
    convs = (part for part in trunk.modules() if isinstance(part, nn.Conv2d))
    return {
        f"conv{number}.{part}": (getattr(conv, part), state.get(f"conv{number}.{part}"))
        for number, conv in enumerate(convs, start=1)
        for part in ("weight", "bias")
    }


def _linear_pairs(head: nn.Sequential, state: dict[str, Tensor], where: str, names: dict[str, str]) -> Pairs:
    """fc6 and fc7 with the file's matrices as kernels; `names` are the file's."""
    pairs: Pairs = {}
    for own, theirs in names.items():
        layer = head.get_submodule(own)
        assert isinstance(layer, nn.Conv2d) and layer.bias is not None
        matrix = state.get(f"{theirs}.weight")
        if matrix is not None and matrix.shape[0] != layer.out_channels:
            raise InputError(
                f"{where}: '{theirs}.weight' has {matrix.shape[0]} channels, {own} of the model {layer.out_channels}: "
                f"use fc_channels={matrix.shape[0]}"
            )
        if matrix is not None and matrix.ndim == 2:
            matrix = conv_weight(matrix, layer.in_channels, (layer.kernel_size[0], layer.kernel_size[1]))
        pairs[f"{theirs}.weight"] = (layer.weight, matrix)
        pairs[f"{theirs}.bias"] = (layer.bias, state.get(f"{theirs}.bias"))
    return pairs


def _copy_all(pairs: Pairs, where: str) -> None:
    for name, (own, given) in pairs.items():
        if given is None:
            raise InputError(f"{where}: lacks '{name}': give a state dict of the whole classifier")
        if given.ndim == 4 and own.ndim == 4 and own.shape[1] != given.shape[1] == 3:
            given = adapt_stem_weight(given, own.shape[1])
        if given.shape != own.shape:
            raise InputError(
                f"{where}: '{name}' is {tuple(given.shape)}, the model needs {tuple(own.shape)}: "
                "the file belongs to another network"
            )
        own.copy_(given)
