"""Training state in one safetensors file: tensors as they are, everything else as JSON in its header. No pickle."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from perpixel.errors import InputError
from perpixel.files import save_tensors


@dataclass
class Progress:
    """What a run must remember besides its tensors.

    Attributes:
        step: steps taken.
        elapsed_s: seconds spent so far, over all sittings.
        best_score, best_step: best validation so far.
        stale_validations: validations since the best one (early stop).
        history: the validations so far, as logged.
    """

    step: int = 0
    elapsed_s: float = 0.0
    best_score: float = -1.0
    best_step: int = -1
    stale_validations: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)


def save_checkpoint(
    path: str | Path,
    *,
    model: torch.nn.Module,
    ema: dict[str, torch.Tensor] | None,
    optimizer: torch.optim.Optimizer,
    progress: Progress,
) -> Path:
    """Write the state of a run to `path`, atomically."""
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    tensors |= {f"ema.{name}": value for name, value in (ema or {}).items()}
    scalars: dict[str, Any] = {}
    for index, name, value in _optimizer_entries(optimizer):
        if isinstance(value, torch.Tensor):
            tensors[f"optimizer.{index}.{name}"] = value
        elif value is not None:
            scalars[f"{index}.{name}"] = value
    header = {"progress": json.dumps(asdict(progress)), "optimizer": json.dumps(scalars)}
    plain = {name: value.detach().to("cpu").contiguous() for name, value in tensors.items()}
    return save_tensors(path, plain, header)


def load_checkpoint(
    path: str | Path,
    *,
    model: torch.nn.Module,
    ema: dict[str, torch.Tensor] | None,
    optimizer: torch.optim.Optimizer,
) -> Progress:
    """Read the state of a run back into `model`, `ema` and `optimizer`, in place.

    Raises:
        InputError: not a checkpoint of this model, or a damaged file.
    """
    tensors, header = _read(path)
    try:
        model.load_state_dict(_part(tensors, "model."))
        if ema is not None:
            for name, value in _part(tensors, "ema.").items():
                ema[name].copy_(value)
        _load_optimizer(optimizer, _part(tensors, "optimizer."), json.loads(header["optimizer"]))
        return Progress(**json.loads(header["progress"]))
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path}: not a checkpoint of this run ({reason}): train again into a new folder") from error


def _read(path: str | Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    try:
        with safe_open(str(path), framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such checkpoint: check the run folder") from error
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: a damaged checkpoint ({error}): train again into a new folder") from error


def _part(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _parameters(optimizer: torch.optim.Optimizer) -> list[torch.nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _optimizer_entries(optimizer: torch.optim.Optimizer) -> Iterator[tuple[int, str, Any]]:
    for index, parameter in enumerate(_parameters(optimizer)):
        for name, value in optimizer.state.get(parameter, {}).items():
            yield index, name, value


def _load_optimizer(
    optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor], scalars: dict[str, Any]
) -> None:
    parameters = _parameters(optimizer)
    optimizer.state.clear()
    for key, value in [*tensors.items(), *scalars.items()]:
        index, _, name = key.partition(".")
        parameter = parameters[int(index)]
        if isinstance(value, torch.Tensor) and name != "step":
            # The layout of the parameter (channels_last), so that the update runs over the same order of numbers.
            value = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
        optimizer.state[parameter][name] = value
