"""ImageNet classifiers as the start of an FCN: torchvision's VGG16 and GoogLeNet, and CaffeNet by Caffe's names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from perpixel.encoders import read_state_dict
from perpixel.errors import InputError, did_you_mean
from perpixel.models import create_model
from perpixel.models.foreign.foreign import IMAGENET_MEAN, IMAGENET_STD, Foreign, kernel

FCNS = ("fcn32s", "fcn16s", "fcn8s", "fcn8s_atonce")
# Caffe's ImageNet mean in RGB; its networks take values 0..255 with the mean subtracted, blue first.
CAFFE_MEAN = (122.679, 116.669, 104.007)
# A tensor that only this classifier has, and the first fully connected layer, which gives the head's width.
SIGNS = {
    "vgg16": ("features.28.weight", "classifier.0.weight"),
    "googlenet": ("inception3a.branch1.conv.weight", ""),
    "alexnet": ("fc6.weight", "fc6.weight"),
}
NAMES = {"vgg16": "torchvision vgg16", "googlenet": "torchvision googlenet", "alexnet": "CaffeNet"}


@torch.no_grad()
def read_classifier(file: str | Path, *, model: str, num_classes: int) -> Foreign:
    """Recognise a classifier and turn it into an FCN whose scores start at zero.

    Args:
        file: state dict, .pth (opened with weights_only=True) or .safetensors.
        model: fcn32s, fcn16s, fcn8s or fcn8s_atonce.
    Raises:
        InputError: unreadable, another network, or a model that this classifier cannot become.
    """
    if model not in FCNS:
        raise InputError(
            f"model '{model}': a classifier becomes one of the FCNs{did_you_mean(model, FCNS)}; other models take its "
            "file as weights of their encoder (perpixel train DATA --model unet --encoder resnet18 --weights FILE)"
        )
    state, where = read_state_dict(file), str(file)
    backbone = _recognise(state, where)
    options: dict[str, Any] = {"backbone": backbone}
    linear = SIGNS[backbone][1]
    if linear and linear in state:
        options["fc_channels"] = kernel(state, linear, where, NAMES[backbone], dimensions=2).shape[0]
    with torch.random.fork_rng(devices=[]):
        built = create_model(model, num_classes=num_classes, weights=str(file), **options)
    mean, std = IMAGENET_MEAN, IMAGENET_STD
    notes = ["Its scores start at zero: it labels every pixel with the first class until it is trained."]
    if backbone == "alexnet":
        first = next(part for part in built.trunk.modules() if isinstance(part, torch.nn.Conv2d))  # type: ignore[union-attr]
        first.weight.copy_(first.weight.flip(1))
        mean, std = tuple(value / 255 for value in CAFFE_MEAN), (1 / 255,) * 3  # type: ignore[assignment]
        notes.append("Caffe's blue, green, red were turned round in the first layer: it takes RGB as all images here.")
    if backbone == "googlenet":
        mean = std = (0.5,) * 3
        notes.append("It takes colours from -1 to 1, as torchvision's published weights do behind their own rescaling.")
    return Foreign(
        what=NAMES[backbone], where=where, model=model, options=options, in_channels=3, num_classes=num_classes,
        state=dict(built.state_dict()), mean=mean, std=std, notes=tuple(notes),
    )  # fmt: skip


def _recognise(state: dict[str, Tensor], where: str) -> str:
    for backbone, (sign, _) in SIGNS.items():
        if sign in state:
            return backbone
    first = f", the first called '{next(iter(state))}'" if state else ""
    raise InputError(
        f"{where}: {len(state)} tensors{first}: no classifier that FCN starts from; give a state dict of torchvision's "
        "vgg16 or googlenet, or of CaffeNet (conv1.weight ... fc7.bias)"
    )
