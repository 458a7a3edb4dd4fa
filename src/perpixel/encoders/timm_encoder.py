"""timm's networks as encoders, through its `features_only` interface."""

from __future__ import annotations

import difflib
from typing import Any

import timm
from torch import Tensor, nn

from perpixel.encoders.encoder import Encoder, check_pyramid
from perpixel.encoders.unpadded import least_side
from perpixel.encoders.weights import check_covers, read_state_dict
from perpixel.errors import InputError

# What timm raises when a network has no feature pyramid or does not know an argument; it has no type of its own.
REFUSALS = (RuntimeError, TypeError, AttributeError, AssertionError, NotImplementedError, KeyError, ValueError)


def timm_encoder(name: str, in_channels: int, weights: str | None, output_stride: int, depth: int) -> Encoder:
    """Build timm's `name`; the arguments are those of `create_encoder`."""
    architecture = name.partition(".")[0]
    if ":" in name or not timm.is_model(architecture):
        raise InputError(_unknown(name))
    options: dict[str, Any] = {"in_chans": in_channels}
    if output_stride != 32:
        options["output_stride"] = output_stride
    net = _build(name, options)
    strides: list[int] = net.feature_info.reduction()
    check_pyramid(name, strides)
    every = list(range(len(strides)))
    kept = [index for index in every if strides[index] <= 2**depth]
    if kept != every:
        options["out_indices"] = tuple(kept)
    if _is_tied_to_size(net):
        options["strict_img_size"] = False
    elif _has_trait(name, "fixed_input_size"):
        raise InputError(
            f"encoder '{name}' is built for one image size only: choose an encoder of any size, such as 'resnet18'"
        )
    if weights is not None:
        options |= {"pretrained": True, **_weight_options(name, in_channels, weights)}
    if options.keys() - {"in_chans", "output_stride"}:
        net = _build(name, options)
    is_channels_last = getattr(net, "output_fmt", None) == "NHWC"
    channels, strides = list(net.feature_info.channels()), list(net.feature_info.reduction())
    least = least_side(net, in_channels, strides[-1])
    return Encoder(name, net, channels, strides, is_channels_last=is_channels_last, least=least)


def _build(name: str, options: dict[str, Any]) -> Any:
    try:
        return timm.create_model(name, features_only=True, **options)
    except REFUSALS as error:
        asked = ", ".join(f"{key}={value}" for key, value in options.items() if key != "pretrained_cfg_overlay")
        instead = "output_stride=32" if "output_stride" in options else "leave out what it does not take"
        raise InputError(
            f"encoder '{name}' cannot be built with {asked} ({_first_line(error)}): "
            f"choose another encoder, or {instead}"
        ) from error
    except OSError as error:
        raise InputError(
            f"weights of encoder '{name}' could not be downloaded ({_first_line(error)}): "
            "check the network, give a local file, or use weights=None"
        ) from error


def _weight_options(name: str, in_channels: int, weights: str) -> dict[str, Any]:
    if weights == "imagenet":
        if not _has_trait(name, "has_weights"):
            raise InputError(f"encoder '{name}' has no pretrained weights: use weights=None or a local file")
        return {}
    state = read_state_dict(weights)
    wanted = timm.create_model(name, in_chans=in_channels, num_classes=0).state_dict()
    check_covers(name, weights, state, wanted)
    return {"pretrained_cfg_overlay": {"state_dict": _without_classifier(state, wanted)}}


def _without_classifier(state: dict[str, Tensor], wanted: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value for key, value in state.items() if key in wanted}


def _is_tied_to_size(net: nn.Module) -> bool:
    """Swin-like networks are built for one image size unless told otherwise."""
    return any(getattr(part, "strict_img_size", False) is True for part in net.modules())


def _has_trait(name: str, trait: str) -> bool:
    return bool(getattr(timm.models.get_pretrained_cfg(name), trait, False))


def _first_line(error: BaseException) -> str:
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__


def _unknown(name: str) -> str:
    near = difflib.get_close_matches(name, timm.list_models(), n=5, cutoff=0.4)
    guess = f"nearest: {', '.join(near)}" if near else "nothing is near"
    return f"unknown encoder '{name}'; {guess}; timm.list_models() shows all, 'torchvision/NAME' takes torchvision's"
