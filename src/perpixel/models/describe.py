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
from perpixel.models.drawing import draw
from perpixel.models.mask_rcnn import MaskRCNN
from perpixel.models.stages import IMAGE, LOGITS, Edge, Stage, short_count
from perpixel.models.trace import Link, Trace, View


@dataclass(frozen=True)
class Description:
    """All stages in the order in which they finish, the edges between them, and the totals of the whole model.

    `parameters` are trainable; `frozen` counts the stored values of kernels and weights that are never trained
    (batch statistics are not counted at all). `multiply_adds` includes what lies between the stages. `output` is the
    logits' (channels, height, width), of volumes (channels, depth, height, width); `depth` is None for images.
    """

    model: str
    in_channels: int
    height: int
    width: int
    rows: tuple[Stage, ...]
    parameters: int
    frozen: int
    multiply_adds: int
    edges: tuple[Edge, ...]
    output: tuple[int, ...]
    depth: int | None = None

    @property
    def image(self) -> tuple[int, ...]:
        """(channels, height, width) of the described image, of a volume (channels, depth, height, width)."""
        depths = () if self.depth is None else (self.depth,)
        return (self.in_channels, *depths, self.height, self.width)

    def to_json(self) -> dict[str, Any]:
        """Plain dictionaries and lists, ready for JSON."""
        lists = {"rows": [asdict(row) for row in self.rows], "edges": [asdict(edge) for edge in self.edges]}
        return asdict(self) | lists | {"output": list(self.output)}

    def to_svg(self, title: str = "") -> str:
        """The stages drawn by their resolution, with the edges between them, as the text of an SVG file."""
        return draw(
            title or self.model, self.rows, self.edges, self.image, self.output,
            parameters=self.parameters, multiply_adds=self.multiply_adds,
        )  # fmt: skip

    def to_text(self) -> str:
        """A plain-text table, one line per stage."""
        rows = [("stage", "output", "stride", "sees", "parameters", "multiply-adds")]
        for row in self.rows:
            size = " x ".join(map(str, (row.channels, *row.size)))
            field = "all" if row.receptive_field is None else str(row.receptive_field)
            costs = (short_count(row.parameters), short_count(row.multiply_adds))
            rows.append((row.name, size, f"{row.stride:g}", field, *costs))
        image = f"image {' x '.join(map(str, self.image))}"
        rows.append(("total", image, "", "", short_count(self.parameters), short_count(self.multiply_adds)))
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        lines = [
            "  ".join(cell.ljust(width) if column < 2 else cell.rjust(width)
                      for column, (cell, width) in enumerate(zip(row, widths))).rstrip()
            for row in rows
        ]  # fmt: skip
        return "\n".join(lines)


def describe(model: nn.Module, *, in_channels: int, size: tuple[int, ...]) -> Description:
    """Follow one image of `size` (height, width) through `model`, without computing a value.

    For a model of volumes `size` is (depth, height, width).

    The rows are the parts that the model's own `stages()` names, or its children. Weights are replaced by empty
    shapes for the pass and the model's mode is put back, so nothing of the model changes.

    Raises:
        InputError: the model does not take this size or channel count, or is a forest.
    """
    if hasattr(model, "grow"):
        raise InputError(
            f"{type(model).__name__} is a forest, without the stages of a net: `perpixel models` lists its options"
        )
    axes = getattr(model, "spatial_dims", 2)
    if len(size) != axes:
        words = "volumes, depth x height x width" if axes == 3 else "images, height x width"
        raise InputError(f"size {'x'.join(map(str, size))}: {type(model).__name__} takes {words}: give {axes} sides")
    if isinstance(model, MaskRCNN):
        raise InputError(
            f"{type(model).__name__}: what it computes depends on what it finds, so that it has no fixed stages: "
            "perpixel models lists its options"
        )
    stages = _stages(model)
    watch = _Watch(model, stages)
    image = torch.empty(1, in_channels, *size, device="meta")
    try:
        watch.follow(model, image)
    except RuntimeError as error:
        raise InputError(
            f"{type(model).__name__} does not take an image of {' x '.join(map(str, (in_channels, *size)))} "
            f"({str(error).splitlines()[0]}): use the in_channels that it was built with"
        ) from error
    rows = [_row(name, *seen, stages[name], watch.multiply_adds.get(name, 0)) for name, seen in watch.outputs.items()]
    rows = _without_echoes(rows, [target for _, target in watch.links])
    return Description(
        model=type(model).__name__,
        in_channels=in_channels,
        height=size[-2],
        width=size[-1],
        rows=tuple(rows),
        parameters=sum(value.numel() for value in model.parameters() if value.requires_grad),
        frozen=_count_frozen(model),
        multiply_adds=sum(watch.multiply_adds.values()),
        edges=_edges(watch.links, [row.name for row in rows]),
        output=watch.size,
        depth=size[0] if axes == 3 else None,
    )


def _stages(model: nn.Module) -> dict[str, nn.Module]:
    named = getattr(model, "stages", None)
    return dict(named()) if callable(named) else dict(model.named_children())


class _Watch:
    """Hooks: which stage is running, what each returned last, whose outputs it used, and the multiply-adds of each.

    A stage may never be called itself (a traced network calls its parts), so the parts report for it.
    """

    def __init__(self, model: nn.Module, stages: Mapping[str, nn.Module]) -> None:
        # Encoders are heard for their strides, even where only their parts are stages.
        self.owners: dict[nn.Module, str] = {part: "" for part in model.modules() if isinstance(part, Encoder)}
        self.owners |= {part: name for name, stage in stages.items() for part in stage.modules()}
        self.running: list[str] = []
        self.outputs: dict[str, tuple[Tensor, View]] = {}
        self.multiply_adds: dict[str, int] = {}
        self.links: dict[tuple[str, str], Link] = {}
        self.size: tuple[int, ...] = ()
        self.trace: Trace
        self.ndim = 4

    def follow(self, model: nn.Module, image: Tensor) -> None:
        """Pass `image`, on the meta device, through `model` with empty weights, and put everything back."""
        tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        self.ndim = image.ndim
        empty = {name: torch.empty_like(value, device="meta") for name, value in tensors.items()}
        with torch.no_grad(), _evaluating(model), ExitStack() as hooks:
            for part in self.owners:
                hooks.callback(part.register_forward_pre_hook(self.enter).remove)
                hooks.callback(part.register_forward_hook(self.leave).remove)
            with Trace(image, self.count) as self.trace:
                logits = functional_call(model, empty, (image,))
        self.link(logits, LOGITS)
        self.size = tuple(logits.shape[1:])

    def enter(self, part: nn.Module, args: Any) -> None:
        self.running.append(self.owners[part])
        self.trace.is_inside = any(self.running)

    def link(self, output: Any, name: str) -> None:
        """Note whose outputs went into that of `name`, which from here on is an origin itself."""
        for origin, link in self.trace.origins(output).items():
            self.links[origin, name] = self.links.get((origin, name), Link()).then(link)
        self.trace.sign(output, name)

    def leave(self, part: nn.Module, args: Any, output: Any) -> None:
        name = self.running.pop()
        self.trace.is_inside = any(self.running)
        if name and name not in self.running:
            self.link(output, name)
        if isinstance(part, Encoder):
            for feature, stride in zip(output, part.strides):
                self.trace.correct(feature, stride)
            output = output[-1]
        elif hasattr(part, "image_step"):  # it puts answers of windows in their place, so no operation shows their step
            self.trace.correct(output, float(part.image_step))  # type: ignore[arg-type]
        if isinstance(output, (tuple, list)):  # maps with what belongs to them, such as the indices of their pool
            output = next((each for each in output if isinstance(each, Tensor) and each.ndim == self.ndim), None)
        view = self.trace.view(output) if isinstance(output, Tensor) else None
        if name and view is not None and output.ndim == self.ndim:
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
        height=output.shape[-2],
        width=output.shape[-1],
        stride=view.step,
        receptive_field=None if math.isinf(view.field) else round(view.field),
        parameters=sum(value.numel() for value in stage.parameters()),
        multiply_adds=multiply_adds,
        depth=output.shape[2] if output.ndim == 5 else None,
    )


def _without_echoes(rows: list[Stage], targets: list[str]) -> list[Stage]:
    """Without rows that only repeat the size before them at no cost and join nothing: activations, identities.

    `targets` holds the name of a stage once for every stage whose output enters it.
    """
    kept: list[Stage] = []
    for row in rows:
        size = (row.channels, row.size)
        is_free = row.parameters == 0 and row.multiply_adds == 0 and targets.count(row.name) < 2
        if not (kept and is_free and size == (kept[-1].channels, kept[-1].size)):
            kept.append(row)
    return kept


def _edges(links: Mapping[tuple[str, str], Link], kept: list[str]) -> tuple[Edge, ...]:
    """The links between the kept stages; one that led to a stage without a row leads to what came behind it."""
    found = {ends: link for ends, link in links.items() if ends[0] != ends[1]}
    nodes = [IMAGE, *kept, LOGITS]
    for left_out in {name for ends in found for name in ends} - set(nodes):
        before = {source: found.pop((source, end)) for source, end in list(found) if end == left_out}
        behind = {target: found.pop((start, target)) for start, target in list(found) if start == left_out}
        for source, link in before.items():
            for target, later in behind.items():
                if source != target:
                    found[source, target] = found.get((source, target), link.then(later))
    order = {name: place for place, name in enumerate(nodes)}
    ends = sorted(found, key=lambda pair: (order[pair[1]], order[pair[0]]))
    return tuple(Edge(*pair, found[pair].join, found[pair].resize) for pair in ends)


def _count_frozen(model: nn.Module) -> int:
    upsamplers = (part for part in model.modules() if isinstance(part, BilinearUpsample))
    kernels = sum(part.weight.numel() for part in upsamplers if not part.learned)
    return kernels + sum(value.numel() for value in model.parameters() if not value.requires_grad)
