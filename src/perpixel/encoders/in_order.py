"""Weights whose names are another program's but whose tensors stand in the network's own order."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from perpixel.encoders.weights import copy_weights, read_state_dict
from perpixel.errors import InputError

COUNTER = "num_batches_tracked"  # older versions of torch did not store it


def load_in_order(net: nn.Module, name: str, path: str | Path) -> None:
    """Copy a file into `net`: by name where the names are its own, else by order, if every shape in turn agrees.

    What the file has behind the last tensor of the network (a classifier) is left out. A stem of three channels is
    adapted to the network's.

    Raises:
        InputError: a file that is missing, damaged or of another network.
    """
    state = {key: value for key, value in read_state_dict(path).items() if not key.endswith(COUNTER)}
    wanted = {key: value for key, value in net.state_dict().items() if not key.endswith(COUNTER)}
    if next(iter(wanted)) not in state and len(state) >= len(wanted):
        state = dict(zip(wanted, state.values()))
    copy_weights(name, path, state, wanted)


def check_local(name: str, weights: str | Path | None) -> None:
    """Refuse weights="imagenet" of a network whose weights no library offers.

    Raises:
        InputError: it was asked for.
    """
    if weights == "imagenet":
        raise InputError(
            f"weights='imagenet' of encoder '{name}': nobody offers them in a safe format: use weights=None, or a "
            "local .safetensors or .pth file"
        )
