"""What every encoder is: a network that returns a pyramid of features, and says their channels and strides."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from perpixel.errors import InputError
from perpixel.layers.norm import check_batch_statistics

ONE_VALUE = "more than 1 value per channel"  # torch's words


def check_pyramid(name: str, strides: list[int]) -> None:
    """Refuse networks whose features do not go from fine to coarse.

    Raises:
        InputError: one scale only, or scales out of order.
    """
    if len(strides) < 2 or strides != sorted(strides) or strides[0] == strides[-1]:
        raise InputError(
            f"encoder '{name}' gives features at strides {strides}, not a pyramid from fine to coarse "
            "(plain vision transformers keep one scale): choose an encoder such as 'resnet18' or 'convnext_tiny'"
        )


class Encoder(nn.Module):
    """Wraps `net`: image (B, C, H, W) -> features [(B, channels[i], H / strides[i], W / strides[i])], fine to coarse.

    The sizes are exact where H and W are multiples of `multiple`, the coarsest stride; between them networks round
    up or down each in its own way, so models pad to the multiple first and crop at the end, or take the image as it
    is where `takes_any_size` and resize.

    Attributes:
        channels: channels of each feature.
        strides: input size over feature size, never falling; a dilated encoder repeats its last stride.
        multiple: the coarsest stride.
        least: shortest side of an image that it takes; more than the multiple where its layers do not pad.
        takes_any_size: features of any image, from 1x1 on, have its size over the stride rounded up.
    """

    def __init__(
        self,
        name: str,
        net: nn.Module,
        channels: list[int],
        strides: list[int],
        *,
        is_channels_last: bool = False,
        takes_any_size: bool = False,
        least: int | None = None,
    ) -> None:
        super().__init__()
        check_pyramid(name, strides)
        self.name = name
        self.net = net
        self.channels = channels
        self.strides = strides
        self.multiple = strides[-1]
        self.takes_any_size = takes_any_size
        self.least = least or self.multiple
        self.has_batch_norm = any(isinstance(part, nn.BatchNorm2d) for part in net.modules())
        self.is_channels_last = is_channels_last  # of the features of `net`: (B, H, W, C), as Swin gives them

    def forward(self, image: Tensor) -> list[Tensor]:
        """image (B, C, H, W) float -> list of (B, channels[i], ~H / strides[i], ~W / strides[i])."""
        if self.training and self.has_batch_norm:
            rows, cols = (-(-side // self.multiple) for side in image.shape[-2:])
            check_batch_statistics(image.shape[0], rows, cols)
        features = self._features(image)
        features = list(features.values()) if isinstance(features, dict) else list(features)
        return [feature.permute(0, 3, 1, 2) for feature in features] if self.is_channels_last else features

    def _features(self, image: Tensor) -> Any:
        """What `net` returns; some normalise inside over a mean of the image, or over fewer cells than strides say."""
        try:
            return self.net(image)
        except ValueError as error:
            if ONE_VALUE not in str(error):
                raise
            raise InputError(
                f"batch of 1: encoder '{self.name}' has a batch normalisation with one value per channel in training "
                f"at {image.shape[-2]}x{image.shape[-1]} pixels: use batches of 2 or more images"
            ) from error
