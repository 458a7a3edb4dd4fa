"""MONAI's V-Net (`monai.networks.nets.VNet`) into ours: other names, the same tensors."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from perpixel.errors import InputError

# Blocks of MONAI's net and ours, in the order in which they run.
BLOCKS = {
    "in_tr": "down.0", "down_tr32": "down.1", "down_tr64": "down.2", "down_tr128": "down.3", "down_tr256": "down.4",
    "up_tr256": "up.0", "up_tr128": "up.1", "up_tr64": "up.2", "up_tr32": "up.3", "out_tr": "head",
}  # fmt: skip
# Parts of a block: the first, the others, the head.
FIRST = {"conv_block.conv": "convs.0.0", "conv_block.adn.N": "convs.0.1", "act_function": "acts.0"}
OTHERS = {
    "down_conv": "step", "up_conv": "step", "bn1": "norm", "act_function1": "act", "act_function2": "stage.last_act",
}  # fmt: skip
INSIDE = {"conv_block.conv": "convs.{}.0", "conv_block.adn.N": "convs.{}.1", "act_function": "acts.{}"}
HEAD = {"conv_block.conv": "0.0", "conv_block.adn.N": "0.1", "act_function1": "1", "conv2": "2"}


def from_monai(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of MONAI's VNet under the names of `vnet_monai`, for `load_state_dict`.

    Args:
        state: its state dict (3-D, bias=False as by default). With act="prelu" build ours with activation="prelu".
    Raises:
        InputError: a tensor that such a net does not have.
    """
    return {_renamed(name): value for name, value in state.items()}


def _renamed(name: str) -> str:
    block, _, rest = name.partition(".")
    part, _, tensor = rest.rpartition(".")
    inside = re.fullmatch(r"ops\.(\d+)\.(.+)", part)
    parts = {"in_tr": FIRST, "out_tr": HEAD}.get(block, OTHERS)
    if block in BLOCKS and inside is not None and inside[2] in INSIDE:
        return f"{BLOCKS[block]}.stage.{INSIDE[inside[2]].format(inside[1])}.{tensor}"
    if block in BLOCKS and part in parts:
        return f"{BLOCKS[block]}.{parts[part]}.{tensor}"
    raise InputError(f"tensor '{name}' belongs to no VNet of MONAI: give the state dict of monai.networks.nets.VNet")
