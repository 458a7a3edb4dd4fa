"""The encoder under DeepLab v3, v3+ and the dilated FCN: one of our ResNets where it can be, else any backbone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor, nn

from perpixel.encoders import Encoder, create_encoder, resnet_encoder
from perpixel.encoders.resnet import UNITS
from perpixel.errors import InputError
from perpixel.layers import pad_to_least, pad_to_multiple, resize_like


def is_own_resnet(encoder: str, variant: str | None) -> bool:
    """Whether `encoder` means a ResNet of encoders/resnet.py, which alone takes multi-grids and a first dilation."""
    return variant is not None and encoder in UNITS


def dilated_encoder(
    model: str,
    encoder: str,
    *,
    in_channels: int,
    weights: str | Path | None,
    output_stride: int,
    variant: str | None,
    multi_grid: Sequence[int] | None = None,
    keep_first: bool | None = None,
) -> Encoder:
    """Build the encoder of `model`, a name for messages.

    Args:
        variant: of our ResNets; other backbones have none and take no multi-grid either.
        multi_grid: None means none.
        keep_first: first units of dilated stages keep the dilation before them; None means no.
    Raises:
        InputError: an option that this backbone cannot take.
    """
    if is_own_resnet(encoder, variant):
        return resnet_encoder(
            encoder, in_channels=in_channels, variant=variant or "b", weights=weights, output_stride=output_stride,
            multi_grid=(1,) if multi_grid is None else multi_grid, keep_first=bool(keep_first),
        )  # fmt: skip
    given = {"multi_grid": multi_grid and list(multi_grid), "keep_first": keep_first}
    for option, value in given.items():
        if value is not None:
            raise InputError(
                f"option {option}={value} of {model} with encoder={encoder!r}, variant={variant!r}: only the ResNets "
                f"{', '.join(UNITS)} with a variant take it: choose one, or leave it out"
            )
    return create_encoder(encoder, in_channels=in_channels, weights=weights, output_stride=output_stride)


def fit_image(image: Tensor, encoder: Encoder) -> Tensor:
    """The image as it is, or padded at the end to the multiple of an encoder that rounds sizes in its own way."""
    return image if encoder.takes_any_size else pad_to_least(pad_to_multiple(image, encoder.multiple), encoder.least)


def logits_of(scores: Tensor, fitted: Tensor, image: Tensor, *, align_corners: bool) -> Tensor:
    """Coarse scores (B, K, h, w) at the size of `image`, which `fit_image` made `fitted`."""
    return resize_like(scores, fitted, align_corners=align_corners)[..., : image.shape[-2], : image.shape[-1]]


def feature_at(encoder: Encoder, stride: int, model: str) -> int:
    """Index of the deepest feature at `stride`, the last one of a dilated encoder left out.

    Raises:
        InputError: the encoder has none.
    """
    found = [index for index, each in enumerate(encoder.strides[:-1]) if each == stride]
    if not found:
        raise InputError(
            f"{model} needs a feature at stride {stride}, encoder '{encoder.name}' gives strides {encoder.strides}: "
            "choose another encoder or output_stride"
        )
    return found[-1]


def aux_feature(encoder: Encoder, *, is_resnet: bool, model: str) -> int:
    """Index of the feature that an auxiliary head stands on.

    Stage 3 of a ResNet, whatever the output stride, so that weights of one fit the other; of other encoders the
    deepest feature at stride 8 but the last.

    Raises:
        InputError: the encoder has none.
    """
    return len(encoder.channels) - 2 if is_resnet else feature_at(encoder, 8, model)


def encoder_parts(encoder: Encoder) -> dict[str, nn.Module]:
    """The encoder's own parts for `stages()`; one part where they do not give maps (B, C, H, W)."""
    if encoder.is_channels_last:
        return {"encoder": encoder}
    return {f"encoder {name}": part for name, part in encoder.net.named_children()}
