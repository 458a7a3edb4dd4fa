"""One file per published architecture, and the table of their names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from perpixel.models.fcn import FCN, fcn8s, fcn8s_atonce, fcn16s, fcn32s
from perpixel.models.table import build, option_names
from perpixel.models.unet import UNet, unet_valid
from perpixel.models.weights import load_weights, save_weights

__all__ = [
    "FCN",
    "MODELS",
    "UNet",
    "create_model",
    "fcn8s",
    "fcn8s_atonce",
    "fcn16s",
    "fcn32s",
    "load_weights",
    "option_names",
    "save_weights",
    "unet_valid",
]

MODELS: dict[str, Callable[..., nn.Module]] = {
    "fcn32s": fcn32s,
    "fcn16s": fcn16s,
    "fcn8s": fcn8s,
    "fcn8s_atonce": fcn8s_atonce,
    "unet": UNet,
    "unet_valid": unet_valid,
}


def create_model(name: str, *, in_channels: int = 3, num_classes: int = 21, **options: Any) -> nn.Module:
    """Build the model `name` of MODELS: image (B, in_channels, H, W) -> logits (B, num_classes, H, W).

    Args:
        in_channels: channels of the image, any count.
        num_classes: classes, the background included.
        options: those of the model's own signature; `option_names(MODELS[name])` lists them with their defaults.
    Raises:
        InputError: unknown name or option (with the nearest one), or a value the model refuses.
    """
    return build(MODELS, name, in_channels, num_classes, options)
