"""What every source is read into: which model it is here, and its tensors under our names."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from perpixel.errors import InputError
from perpixel.models import create_model

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Foreign:
    """A checkpoint of another library.

    Attributes:
        what: what it was recognised as, such as "torchvision fcn_resnet50".
        where: the file, for messages.
        model, options: name in MODELS and the options that make the same network.
        state: tensors under the names of that model.
        mean, std: of each channel of the image, on the scale 0..1 that its maker's preprocessing has.
        notes: what a user should know, one sentence each.
    """

    what: str
    where: str
    model: str
    options: dict[str, Any]
    in_channels: int
    num_classes: int
    state: dict[str, Tensor]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    notes: tuple[str, ...] = field(default=())


def build_foreign(foreign: Foreign) -> nn.Module:
    """The model with the checkpoint's weights, in eval mode.

    Raises:
        InputError: tensors are missing, left over, or of another shape than the network recognised has.
    """
    with torch.random.fork_rng(devices=[]):  # building draws initial weights; the caller's generator stays as it was
        model = create_model(
            foreign.model, in_channels=foreign.in_channels, num_classes=foreign.num_classes, **foreign.options
        )
    return load_foreign(model, foreign)


@torch.no_grad()
def load_foreign(model: nn.Module, foreign: Foreign) -> nn.Module:
    """`model`, built as `foreign` says, with the checkpoint's weights and in eval mode.

    Raises:
        InputError: as for `build_foreign`.
    """
    wanted = model.state_dict()
    for name in wanted:
        if name not in foreign.state and not name.endswith("num_batches_tracked"):  # old files lack the counters
            raise InputError(f"{foreign.where}: recognised as {foreign.what}, but lacks what is '{name}' here: "
                             "the file is of another network, or damaged")  # fmt: skip
    for name, value in foreign.state.items():
        if name not in wanted:
            raise InputError(f"{foreign.where}: recognised as {foreign.what}, but holds '{name}' besides: "
                             "the file is of another network")  # fmt: skip
        if value.shape != wanted[name].shape:
            raise InputError(
                f"{foreign.where}: recognised as {foreign.what}, but '{name}' is {tuple(value.shape)} and not "
                f"{tuple(wanted[name].shape)}: the file is of another network"
            )
        wanted[name].copy_(value)
    return model.eval()


def renamed(state: Mapping[str, Tensor], table: Sequence[tuple[str, str]], where: str, what: str) -> dict[str, Tensor]:
    """`state` with the first prefix of `table` that fits each name replaced; "" as replacement leaves the tensor out.

    Raises:
        InputError: a name that no prefix fits.
    """
    made = {}
    for name, value in state.items():
        found = next(((theirs, ours) for theirs, ours in table if name.startswith(theirs)), None)
        if found is None:
            raise InputError(f"{where}: recognised as {what}, but tensor '{name}' has no place in it: "
                             "the file is of another network")  # fmt: skip
        if found[1]:
            made[found[1] + name.removeprefix(found[0])] = value
    return made


def count_units(names: Collection[str], prefix: str) -> tuple[int, ...]:
    """Residual units of the four stages of a ResNet whose tensors begin with `prefix`."""
    found = {match.groups() for name in names if (match := re.match(rf"{re.escape(prefix)}layer(\d+)\.(\d+)\.", name))}
    return tuple(sum(1 for stage, _ in found if stage == str(number)) for number in range(1, 5))


def kernel(state: Mapping[str, Tensor], name: str, where: str, what: str, dimensions: int = 4) -> Tensor:
    """The weight `name` of a convolution, or of a linear layer where `dimensions` is 2.

    Raises:
        InputError: it is missing, or no such weight.
    """
    value = state.get(name)
    if value is None or value.ndim < dimensions:
        found = "is missing" if value is None else f"is {tuple(value.shape)}"
        raise InputError(f"{where}: recognised as {what}, but its '{name}' {found}: the file is damaged")
    return value


def imagenet_statistics(channels: int) -> tuple[tuple[float, ...], tuple[float, ...], tuple[str, ...]]:
    """(mean, std, notes) for an image of so many channels: ImageNet's, or their averages where there are not three."""
    if channels == 3:
        return IMAGENET_MEAN, IMAGENET_STD, ()
    mean, std = (round(sum(each) / 3, 4) for each in (IMAGENET_MEAN, IMAGENET_STD))
    note = (
        f"The normalisation of {channels} channel(s) is a guess (values 0..255, mean {mean}, deviation {std} after "
        "division by 255): if it was trained otherwise, mend 'normalisation' in config.json."
    )
    return (mean,) * channels, (std,) * channels, (note,)
