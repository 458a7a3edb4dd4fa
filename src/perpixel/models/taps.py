"""Which of an encoder's features a decoder starts from that climbs from the coarsest to the finest."""

from __future__ import annotations

import itertools

from perpixel.encoders import Encoder
from perpixel.errors import InputError


def taps(encoder: Encoder, model: str, *, finest: int = 4) -> list[int]:
    """Indices of the last feature at every stride from `finest` on, coarse to fine; `model` is a name for messages.

    Raises:
        InputError: the encoder has none at one of them.
    """
    last = {stride: index for index, stride in enumerate(encoder.strides) if stride >= finest}
    strides = sorted(last, reverse=True)
    if strides[-1] != finest or any(coarse != 2 * fine for coarse, fine in itertools.pairwise(strides)):
        raise InputError(
            f"{model} needs features at every stride from {finest} on, encoder '{encoder.name}' gives strides "
            f"{encoder.strides}: choose an encoder such as 'resnet50' or 'convnext_tiny'"
        )
    return [last[stride] for stride in strides]
