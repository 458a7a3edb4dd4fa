"""The weights of a whole model, in and out of one safetensors file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from perpixel.encoders import read_state_dict
from perpixel.errors import InputError
from perpixel.files import save_tensors
from perpixel.layers import BilinearUpsample


def save_weights(model: nn.Module, path: str | Path, *, metadata: Mapping[str, str] | None = None) -> Path:
    """Write every parameter and buffer of `model` to a .safetensors file, atomically.

    Args:
        metadata: text kept in the file's header.
    Raises:
        InputError: the path cannot be written.
    """
    # Contiguous copies, one by one: channels_last weights are strided, and tied ones would share memory.
    state = {name: value.detach().cpu().contiguous().clone() for name, value in model.state_dict().items()}
    return save_tensors(path, state, dict(metadata) if metadata else None)


@torch.no_grad()
def load_weights(model: nn.Module, path: str | Path, strict: bool = True) -> tuple[str, ...]:
    """Copy the tensors of a .safetensors (or weights-only .pth) file into `model`, all of them or none.

    Dense upsampling kernels (the authors' form of FCN) are accepted where the model stores grouped ones, and a pruned
    model takes its share of the full one's tensors (its method `keep_own`).

    Args:
        strict: every tensor must fit; False loads what does, by name and shape.
    Returns:
        Names of the model's tensors that were not loaded; empty when strict.
    Raises:
        InputError: no such file, damaged, or of another architecture, class or channel count (what differs is
            named); with strict=False when nothing fits.
    """
    given = _adopted(model, read_state_dict(path))
    wanted = model.state_dict()
    missing = [name for name in wanted if name not in given]
    unknown = [name for name in given if name not in wanted]
    misshapen = [name for name in wanted if name in given and given[name].shape != wanted[name].shape]
    if strict and (missing or unknown or misshapen):
        raise InputError(_differences(model, path, given, wanted, missing, unknown, misshapen))
    fitting = [name for name in wanted if name in given and name not in set(misshapen)]
    if not fitting:
        raise InputError(f"{path}: no tensor fits {type(model).__name__}: the file belongs to another model")
    for name in fitting:
        wanted[name].copy_(given[name])
    return tuple(missing + misshapen)


def _adopted(model: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    for prefix, part in model.named_modules():
        key = f"{prefix}.weight"
        if isinstance(part, BilinearUpsample) and key in state:
            state[key] = part.adopt(state[key], key)
    keep_own = getattr(model, "keep_own", None)
    return keep_own(state) if callable(keep_own) else state


def _differences(
    model: nn.Module,
    path: str | Path,
    given: Mapping[str, Tensor],
    wanted: Mapping[str, Tensor],
    missing: list[str],
    unknown: list[str],
    misshapen: list[str],
) -> str:
    found = []
    if misshapen:
        name = misshapen[0]
        shapes = f"{tuple(given[name].shape)} where the model has {tuple(wanted[name].shape)}"
        found.append(f"{len(misshapen)} of another shape (first '{name}': {shapes})")
    if missing:
        found.append(f"{len(missing)} missing (first '{missing[0]}')")
    if unknown:
        found.append(f"{len(unknown)} that the model does not know (first '{unknown[0]}')")
    return (
        f"{path}: its {len(given)} tensors do not fit the {len(wanted)} of this {type(model).__name__}: "
        f"{', '.join(found)}; "
        "build the model with the name, options, in_channels and num_classes of the file"
    )
