"""An FCN taken apart: what each of its score layers adds to the logits, and where its maps lie.

Behind its score layers an FCN only upsamples, crops and adds, all of it linear. So its logits are exactly a sum with
one part for each score layer: what the net returns while the other score layers return zeros.

    deepest scores (1/32) ------ x2 -- + ---------- x2 -- + ---------- x8 -> logits
    scores of the middle skip (1/16) --'                  |
    scores of the finest skip (1/8) ----------------------'
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from perpixel.inference.predictor import run_model
from perpixel.inference.stage_maps import stage_maps
from perpixel.models import FCN
from perpixel.models.fcn import Skip

DEEPEST = "score"

Frame = tuple[slice, slice]  # rows and columns of a map


@dataclass(frozen=True)
class Rung:
    """One score layer of an FCN.

    Attributes:
        name: "score" for the deepest one, else the maps that the skip starts from, such as "pool4".
        stride: of its cells, in pixels of the working size.
        scores: (K, h, w) the net's scores there, before upsampling: all that is coarser is in them.
        own: (K, h, w) what this layer itself brings to them; the same as `scores` for the deepest one.
        rows, cols: (H,) and (W,) the cell nearest to each pixel of the image, since maps begin outside of it.
        logits: (K, H, W) what it brings to the logits; those of all rungs add up to the net's.
    """

    name: str
    stride: int
    scores: np.ndarray
    own: np.ndarray
    rows: np.ndarray
    cols: np.ndarray
    logits: np.ndarray

    def over_image(self, maps: np.ndarray) -> np.ndarray:
        """(..., h, w) -> (..., H, W): each pixel gets the value of the cell nearest to it."""
        return maps[..., self.rows[:, None], self.cols[None, :]]


@torch.no_grad()
def coarse_to_fine(model: nn.Module, image: Tensor) -> tuple[Rung, ...]:
    """The score layers of an FCN, coarse to fine, for (1, C, H, W); of other nets none."""
    if not isinstance(model, FCN):
        return ()
    layers = {DEEPEST: model.score} | {name: skip.get_submodule("score") for name, skip in model.skips.items()}
    joined: dict[str, nn.Module] = {DEEPEST: model.score, **model.skips}  # what returns the scores of each stride
    with _heard(joined) as scores:
        run_model(model, image)
    rungs = []
    for (name, _), (centre, step) in zip(layers.items(), _grids(model)):
        others = [layer for other, layer in layers.items() if other != name]
        with _silenced(others), _heard({name: joined[name]}) as own:
            logits = run_model(model, image)
        rows, cols = (
            np.clip(np.rint((np.arange(side) - centre) / step).astype(int), 0, cells - 1)
            for side, cells in zip(image.shape[-2:], scores[name].shape[-2:])
        )
        rungs.append(Rung(name, step, scores[name], own[name], rows, cols, logits[0].float().cpu().numpy()))
    return tuple(rungs)


def _grids(model: FCN) -> Iterator[tuple[float, int]]:
    """Where the first cell lies in the image, and the distance of two, of the scores at each stride."""
    grids = model.trunk.grids()
    deepest = grids["deep"].after((model.trunk.fc_kernel or 1, 1, 0))
    yield deepest.centre, deepest.step
    for name, skip in model.skips.items():
        assert isinstance(skip, Skip)
        yield grids[name].centre + skip.offset * grids[name].step, grids[name].step


@torch.no_grad()
def frames(model: nn.Module, image: Tensor) -> dict[str, Frame]:
    """The cells over the image (1, C, H, W) of each stage of an FCN; the others lie in its padding of 100 pixels.

    Of maps finer than any that the trunk tells the place of, whole halvings of the distance of cells are assumed, and
    that the maps begin at the same pixel.
    """
    if not isinstance(model, FCN):
        return {}
    features = model.trunk(image)
    known = {features[name].shape[-2:]: grid for name, grid in model.trunk.grids().items() if name in features}
    by_score = list(_grids(model))
    exact = dict(zip(["score", *(f"skip {name}" for name in model.skips)], by_score))
    exact |= dict.fromkeys(("fc6", "fc7"), by_score[0]) | {"upsample": (-float(model.offset), 1)}
    finest = min(known.items(), key=lambda each: each[1].step)
    found = {}
    for name, maps in stage_maps(model, image).items():
        size = torch.Size(maps.size[1:])
        if name in exact:
            centre, step = exact[name]
        elif size in known:
            centre, step = known[size].centre, known[size].step
        else:
            halvings = max(0, round(math.log2(size[0] / finest[0][0])))
            step = max(1, finest[1].step >> halvings)
            centre = finest[1].centre - (finest[1].step - step) / 2
        found[name] = tuple(
            slice(max(0, _nearest(0, centre, step)), 1 + max(0, _nearest(side - 1, centre, step)))
            for side in image.shape[-2:]
        )
    return found  # type: ignore[return-value]


def _nearest(pixel: int, centre: float, step: int) -> int:
    return math.floor((pixel - centre) / step + 0.5)


@contextmanager
def _heard(parts: Mapping[str, nn.Module]) -> Iterator[dict[str, np.ndarray]]:
    """Within the block the maps (K, h, w) that each part returns are written down."""
    maps: dict[str, np.ndarray] = {}

    def listen(name: str) -> Any:
        def hear(part: nn.Module, args: Any, output: Tensor) -> None:
            maps[name] = output[0].float().cpu().numpy().copy()  # what is not copied may be changed in place

        return hear

    with ExitStack() as hooks:
        for name, part in parts.items():
            hooks.callback(part.register_forward_hook(listen(name)).remove)
        yield maps


@contextmanager
def _silenced(parts: list[nn.Module]) -> Iterator[None]:
    """Within the block these modules return zeros."""
    with ExitStack() as hooks:
        for part in parts:
            hooks.callback(part.register_forward_hook(lambda _, __, output: torch.zeros_like(output)).remove)
        yield
