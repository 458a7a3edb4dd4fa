"""Follows one forward pass operation by operation: multiply-adds, how far each map sees, and whose maps met in it.

The pass runs on the meta device, shapes without values. For every tensor that comes from the image it keeps the
step between neighbouring cells and the receptive field, both in image pixels along the width, by the arithmetic of
Araujo, Norris, Sim, "Computing receptive fields of convolutional neural networks", Distill 2019; where paths meet (sum,
concatenation) the larger field counts, so the field is that of the deepest path. It also keeps the origins: the
stages whose outputs went into the tensor since, with the operation at which they met.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from perpixel.models.stages import IMAGE

aten = torch.ops.aten


@dataclass(frozen=True)
class View:
    """What one cell of a map sees: `field` image pixels on a side, cells `step` image pixels apart.

    `field` is infinite where it is the whole image whatever its size, or cannot be told: global pooling, attention.
    """

    step: float
    field: float

    def windowed(self, taps: int, dilation: int = 1, stride: float = 1) -> View:
        """Through a window of `taps` cells, moved by `stride` cells (below 1 when upsampling)."""
        return View(self.step * stride, self.field + (taps - 1) * dilation * self.step)


IMAGE_VIEW = View(1.0, 1.0)


@dataclass(frozen=True)
class Link:
    """How the output of one stage reached where it is: met others in a `join`, was brought to size by `resize`.

    Both are words for people, empty where nothing happened; only a resize between stages counts.
    """

    join: str = ""
    resize: str = ""

    def then(self, later: Link) -> Link:
        """This link and a later one as one; the first join and the first resize name it."""
        return Link(self.join or later.join, self.resize or later.resize)


def _convolution(view: View, args: tuple[Any, ...], image: Tensor, out: Tensor) -> View:
    kernel, stride, dilation, is_transposed = args[1].shape[-1], args[3][-1], args[5][-1], args[6]
    if is_transposed:
        return view.windowed(math.ceil(kernel / stride), stride=1 / stride)
    return view.windowed(kernel, dilation, stride)


def _pool(view: View, args: tuple[Any, ...], image: Tensor, out: Tensor) -> View:
    kernel = args[1][-1]
    stride = args[2][-1] if len(args) > 2 and len(args[2]) else kernel
    is_dilated = len(args) > 4 and isinstance(args[4], (list, tuple))  # of average pools this is a flag
    return view.windowed(kernel, args[4][-1] if is_dilated else 1, stride)


def _adaptive_pool(view: View, args: tuple[Any, ...], image: Tensor, out: Tensor) -> View:
    window = image.shape[-1] / out.shape[-1]
    if set(out.shape[2:]) == {1}:
        return View(view.step * window, math.inf)
    return view.windowed(math.ceil(window), stride=window)


def _interpolation(taps: int) -> Callable[[View, tuple[Any, ...], Tensor, Tensor], View]:
    def rule(view: View, args: tuple[Any, ...], image: Tensor, out: Tensor) -> View:
        return view.windowed(taps, stride=image.shape[-1] / out.shape[-1])

    return rule


def _expansion(view: View, args: tuple[Any, ...], image: Tensor, out: Tensor) -> View:
    return view.windowed(1, stride=image.shape[-1] / out.shape[-1]) if image.ndim in (4, 5) else view


def _reduction(view: View, args: tuple[Any, ...], image: Tensor, out: Tensor) -> View:
    is_spatial = image.ndim in (4, 5) and math.prod(out.shape[1:]) <= image.shape[1] < image.numel() // image.shape[0]
    if is_spatial:
        return View(view.step * image.shape[-1], math.inf)
    # The mean of a slice: one cell of an adaptive pool.
    is_window = image.ndim == out.ndim in (4, 5) and out.shape[-1] == 1
    return view.windowed(image.shape[-1], stride=image.shape[-1]) if is_window else view


# Every other operation leaves the view as it is.
RULES: dict[Any, Callable[[View, tuple[Any, ...], Tensor, Tensor], View]] = {
    aten.convolution: _convolution,
    aten.max_pool2d_with_indices: _pool,
    aten.max_pool2d: _pool,
    aten.avg_pool2d: _pool,
    aten.max_pool3d_with_indices: _pool,
    aten.avg_pool3d: _pool,
    aten._adaptive_avg_pool2d: _adaptive_pool,
    aten.adaptive_max_pool2d: _adaptive_pool,
    aten.upsample_bilinear2d: _interpolation(2),
    aten.upsample_nearest2d: _interpolation(1),
    aten.upsample_bicubic2d: _interpolation(4),
    aten.upsample_trilinear3d: _interpolation(2),
    aten.upsample_nearest3d: _interpolation(1),
    aten.expand: _expansion,
    aten.mean: _reduction,
    aten.amax: _reduction,
}
# With two maps from the image as factors these are attention, else a linear layer on every cell.
PRODUCTS = (aten.mm, aten.bmm, aten.addmm, aten.baddbmm, aten._scaled_dot_product_flash_attention_for_cpu,
            aten._scaled_dot_product_attention_math)  # fmt: skip

JOINS: dict[Any, str] = {
    aten.cat: "concatenation",
    aten.stack: "concatenation",
    aten.add: "sum",
    aten.add_: "sum",
    aten.sub: "sum",
    aten.mul: "product",
    aten.mul_: "product",
    aten.maximum: "maximum",
} | dict.fromkeys(PRODUCTS, "product")
INDICES = "indices"  # the join of whole numbers with what they place: unpooling
RESIZES: dict[Any, str] = {
    aten.max_pool2d_with_indices: "pool",
    aten.max_pool2d: "pool",
    aten.avg_pool2d: "pool",
    aten.max_pool3d_with_indices: "pool",
    aten.avg_pool3d: "pool",
    aten._adaptive_avg_pool2d: "pool",
    aten.adaptive_max_pool2d: "pool",
    aten.upsample_bilinear2d: "interpolation",
    aten.upsample_nearest2d: "interpolation",
    aten.upsample_bicubic2d: "interpolation",
    aten.upsample_trilinear3d: "interpolation",
    aten.upsample_nearest3d: "interpolation",
    aten.max_unpool2d: "unpooling",
}


class Trace(TorchDispatchMode):
    """Within it, every operation on tensors reports its multiply-adds and passes views and origins on from `image`.

    Set `is_inside` while a stage runs: what it does to the size of its maps is then its own affair.
    """

    def __init__(self, image: Tensor, on_multiply_adds: Callable[[int], None]) -> None:
        super().__init__()
        self._views: dict[int, tuple[Tensor, View]] = {id(image): (image, IMAGE_VIEW)}
        self._origins: dict[int, dict[str, Link]] = {id(image): {IMAGE: Link()}}
        self._on_multiply_adds = on_multiply_adds
        self.is_inside = False

    def view(self, maps: Tensor) -> View | None:
        """What a cell of `maps` sees; None where it does not come from the image."""
        known = self._views.get(id(maps))
        return known[1] if known else None

    def origins(self, value: Any) -> dict[str, Link]:
        """The stages whose outputs went into a tensor, or any of a list of tensors, since they were stages' outputs."""
        found: dict[str, Link] = {}
        for tensor in _tensors(value):
            for name, link in self._origins.get(id(tensor), {}).items():
                found[name] = found.get(name, Link()).then(link)
        return found

    def sign(self, value: Any, name: str) -> None:
        """Make the stage `name` the only origin of these tensors: they are its output."""
        for tensor in _tensors(value):
            if id(tensor) in self._views:
                self._origins[id(tensor)] = {name: Link()}

    def correct(self, maps: Tensor, step: float) -> None:
        """Set the step of `maps` where the operations do not show it: reshapes that move pixels into channels."""
        known = self.view(maps)
        if known is not None:
            self._views[id(maps)] = (maps, View(step, known.field))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation, then count and note."""
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        packet = func._overloadpacket
        if packet in flop_registry:
            self._on_multiply_adds(flop_registry[packet](*args, **kwargs, out_val=result) // 2)
        seen = [value for value in _tensors((args, tuple(kwargs.values()))) if id(value) in self._views]
        if seen:
            self._note(packet, args, seen, result)
        return result

    def _note(self, packet: Any, args: tuple[Any, ...], seen: list[Tensor], result: Any) -> None:
        views = [self._views[id(value)][1] for value in seen]
        # Cells of the finest map that takes part, as wide a field as the widest.
        view = View(min(each.step for each in views), max(each.field for each in views))
        outputs = _tensors(result)
        if packet in PRODUCTS and len(seen) > 1:
            view = View(view.step, math.inf)
        elif packet in RULES and outputs:
            view = RULES[packet](view, args, seen[0], outputs[0])
        origins = self._merged(packet, seen)
        for output in outputs:
            self._views[id(output)] = (output, view)  # the tensor is kept so that its id is not given to another
            self._origins[id(output)] = origins

    def _merged(self, packet: Any, seen: list[Tensor]) -> dict[str, Link]:
        each = [self._origins[id(value)] for value in seen]
        shared = set.intersection(*(set(origins) for origins in each))
        has_indices = len({value.is_floating_point() for value in seen}) == 2
        join = INDICES if has_indices else JOINS.get(packet, "")
        resize = "" if self.is_inside else RESIZES.get(packet, "")
        # What comes from one stage alone joins nothing, save the values and the indices of one pool.
        alone = set() if has_indices else shared
        return {
            name: link.then(Link("" if name in alone else join, resize)) for name, link in self.origins(seen).items()
        }


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return [tensor for each in value for tensor in _tensors(each)]
    return []
