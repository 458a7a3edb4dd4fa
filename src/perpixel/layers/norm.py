"""Batch normalisation that says what is wrong when it has nothing to average over."""

from __future__ import annotations

from torch import Tensor, nn

from perpixel.errors import InputError


def check_batch_statistics(batch: int, height: int, width: int) -> None:
    """Refuse to train batch normalisation on a single value per channel, whose variance is undefined.

    Raises:
        InputError: batch * height * width is 1.
    """
    if batch * height * width == 1:
        raise InputError(
            "batch of 1 with a 1x1 feature map leaves batch normalisation one value per channel in training: "
            "use a larger image or a larger batch"
        )


class BatchNorm2d(nn.BatchNorm2d):
    """`torch.nn.BatchNorm2d`, (B, C, H, W) -> (B, C, H, W), with an InputError for one value per channel."""

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape, same dtype."""
        if self.training:
            check_batch_statistics(input.shape[0], input.shape[2], input.shape[3])
        return super().forward(input)
