"""What a model is, stage by stage: sizes, receptive fields, parameters and multiply-adds, read off a real pass."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from perpixel.encoders import Encoder
from perpixel.errors import InputError
from perpixel.layers import BilinearUpsample
from perpixel.models.trace import Trace, View


@dataclass(frozen=True)
class Stage:
    """One row: what a stage returns for the described image, and what it costs.

    `stride` and `receptive_field` are in image pixels; `receptive_field` is None where it is the whole image or
    cannot be told (global pooling, attention). One multiply-add is one multiplication and one addition.
    """

    name: str
    channels: int
    height: int
    width: int
    stride: float
    receptive_field: int | None
    parameters: int
    multiply_adds: int


@dataclass(frozen=True)
class Description:
    """All stages in the order in which they finish, and the totals of the whole model.

    `parameters` are trainable; `frozen` counts the stored values of kernels and weights that are never trained
    (batch statistics are not counted at all). `multiply_adds` includes what lies between the stages.
    """

    model: str
    in_channels: int
    height: int
    width: int
    rows: tuple[Stage, ...]
    parameters: int
    frozen: int
    multiply_adds: int

    def to_json(self) -> dict[str, Any]:
        """Plain dictionaries and lists, ready for JSON."""
        return asdict(self) | {"rows": [asdict(row) for row in self.rows]}

    def to_text(self) -> str:
        """A plain-text table, one line per stage."""
        rows = [("stage", "output", "stride", "sees", "parameters", "multiply-adds")]
        for row in self.rows:
            size = f"{row.channels} x {row.height} x {row.width}"
            field = "all" if row.receptive_field is None else str(row.receptive_field)
            costs = (_short(row.parameters), _short(row.multiply_adds))
            rows.append((row.name, size, f"{row.stride:g}", field, *costs))
        image = f"image {self.in_channels} x {self.height} x {self.width}"
        rows.append(("total", image, "", "", _short(self.parameters), _short(self.multiply_adds)))
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        lines = [
            "  ".join(cell.ljust(width) if column < 2 else cell.rjust(width)
                      for column, (cell, width) in enumerate(zip(row, widths))).rstrip()
            for row in rows
        ]  # fmt: skip
        return "\n".join(lines)


def describe(model: nn.Module, *, in_channels: int, size: tuple[int, int]) -> Description:
    """Follow one image of `size` (height, width) through `model`, without computing a value.

    The rows are the parts that the model's own `stages()` names, or its children. Weights are replaced by empty
    shapes for the pass and the model's mode is put back, so nothing of the model changes.

    Raises:
        InputError: the model does not take this size or channel count.
    """
    stages = _stages(model)
    watch = _Watch(model, stages)
    image = torch.empty(1, in_channels, *size, device="meta")
    try:
        watch.follow(model, image)
    except RuntimeError as error:
        raise InputError(
            f"{type(model).__name__} does not take an image of {in_channels} x {size[0]} x {size[1]} "
            f"({str(error).splitlines()[0]}): use the in_channels that it was built with"
        ) from error
    rows = [_row(name, *seen, stages[name], watch.multiply_adds.get(name, 0)) for name, seen in watch.outputs.items()]
    return Description(
        model=type(model).__name__,
        in_channels=in_channels,
        height=size[0],
        width=size[1],
        rows=tuple(_without_echoes(rows)),
        parameters=sum(value.numel() for value in model.parameters() if value.requires_grad),
        frozen=_count_frozen(model),
        multiply_adds=sum(watch.multiply_adds.values()),
    )


def _stages(model: nn.Module) -> dict[str, nn.Module]:
    named = getattr(model, "stages", None)
    return dict(named()) if callable(named) else dict(model.named_children())


class _Watch:
    """Hooks: which stage is running, what each returned last, and the multiply-adds of each.

    A stage may never be called itself (a traced network calls its parts), so the parts report for it.
    """

    def __init__(self, model: nn.Module, stages: Mapping[str, nn.Module]) -> None:
        # Encoders are heard for their strides, even where only their parts are stages.
        self.owners: dict[nn.Module, str] = {part: "" for part in model.modules() if isinstance(part, Encoder)}
        self.owners |= {part: name for name, stage in stages.items() for part in stage.modules()}
        self.running: list[str] = []
        self.outputs: dict[str, tuple[Tensor, View]] = {}
        self.multiply_adds: dict[str, int] = {}
        self.trace: Trace

    def follow(self, model: nn.Module, image: Tensor) -> None:
        """Pass `image`, on the meta device, through `model` with empty weights, and put everything back."""
        tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        empty = {name: torch.empty_like(value, device="meta") for name, value in tensors.items()}
        with torch.no_grad(), _evaluating(model), ExitStack() as hooks:
            for part in self.owners:
                hooks.callback(part.register_forward_pre_hook(self.enter).remove)
                hooks.callback(part.register_forward_hook(self.leave).remove)
            with Trace(image, self.count) as self.trace:
                functional_call(model, empty, (image,))

    def enter(self, part: nn.Module, args: Any) -> None:
        self.running.append(self.owners[part])

    def leave(self, part: nn.Module, args: Any, output: Any) -> None:
        name = self.running.pop()
        if isinstance(part, Encoder):
            for feature, stride in zip(output, part.strides):
                self.trace.correct(feature, stride)
            output = output[-1]
        view = self.trace.view(output) if isinstance(output, Tensor) else None
        if name and view is not None and output.ndim == 4:
            self.outputs.pop(name, None)
            self.outputs[name] = (output, view)

    def count(self, multiply_adds: int) -> None:
        name = self.running[-1] if self.running else ""
        self.multiply_adds[name] = self.multiply_adds.get(name, 0) + multiply_adds


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    modes = {part: part.training for part in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode


def _row(name: str, output: Tensor, view: View, stage: nn.Module, multiply_adds: int) -> Stage:
    return Stage(
        name=name,
        channels=output.shape[1],
        height=output.shape[2],
        width=output.shape[3],
        stride=view.step,
        receptive_field=None if math.isinf(view.field) else round(view.field),
        parameters=sum(value.numel() for value in stage.parameters()),
        multiply_adds=multiply_adds,
    )


def _without_echoes(rows: list[Stage]) -> list[Stage]:
    """Without rows that only repeat the size before them at no cost: activations, identities."""
    kept: list[Stage] = []
    for row in rows:
        size = (row.channels, row.height, row.width)
        is_free = row.parameters == 0 and row.multiply_adds == 0
        if not (kept and is_free and size == (kept[-1].channels, kept[-1].height, kept[-1].width)):
            kept.append(row)
    return kept


def _count_frozen(model: nn.Module) -> int:
    upsamplers = (part for part in model.modules() if isinstance(part, BilinearUpsample))
    kernels = sum(part.weight.numel() for part in upsamplers if not part.learned)
    return kernels + sum(value.numel() for value in model.parameters() if not value.requires_grad)


def _short(count: int) -> str:
    """1234567 -> '1.235M'; small numbers as they are.

    >>> _short(31030658), _short(0), _short(999)
    ('31.03M', '0', '999')
    """
    for unit, name in ((10**12, "T"), (10**9, "G"), (10**6, "M"), (10**3, "k")):
        if count >= unit:
            return f"{count / unit:.4g}{name}"
    return str(count)
