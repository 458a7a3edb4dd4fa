"""The maps that a net's stages return: the most telling of each, and what becomes of the labels without them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perpixel.inference.predictor import run_model

# Maps shown of each stage, the channels with the largest spread from which they are taken, and the correlation from
# which two maps show the same.
SHOWN, CANDIDATES, ALIKE = 5, 24, 0.9
# Side to which maps are reduced before they are compared with each other.
COMPARED_SIDE = 48
# Seconds that may be spent on finding out what stages are worth, one pass each.
WORTH_S = 40.0

OnProgress = Callable[[int, int, str], None]
Frames = Mapping[str, tuple[slice, slice]]  # rows and columns over the image, of the stages that have others, too
WHOLE = (slice(None), slice(None))


@dataclass(frozen=True)
class StageMaps:
    """What one stage returned.

    Attributes:
        size: (channels, height, width), with what lies beside the image.
        low, high: smallest and largest value in all its maps.
        activity: (h, w) mean absolute value over the channels.
        maps: (n, h, w) of the channels that vary most over the image and are not alike; `channels` says which.
        worth: share of the pixels whose class changes when each map of the stage is replaced by its mean over the
            image; None if it was not tried or cannot be.
    """

    name: str
    size: tuple[int, int, int]
    low: float
    high: float
    activity: np.ndarray
    maps: np.ndarray
    channels: tuple[int, ...]
    worth: float | None = None


def follow_stages(
    model: nn.Module,
    image: Tensor,
    logits: Tensor,
    *,
    on_progress: OnProgress,
    frames: Frames | None = None,
    worth_s: float = WORTH_S,
) -> tuple[StageMaps, ...]:
    """The stages of a net in the order in which they finish, and the worth of as many as the time allows.

    Args:
        image, logits: what the net gets (1, C, H, W), and what it returns for it.
        on_progress: called as (done, total, what).
        frames: the cells over the image of stages whose maps begin outside of it; only these are looked at.
        worth_s: seconds that may be spent on passes without a stage.
    """
    frames = frames or {}
    seen, stages = stage_maps(model, image, frames), stages_of(model)
    found, until = [], time.monotonic() + worth_s
    for done, (name, maps) in enumerate(seen.items(), 1):
        worth = (
            worth_of(model, stages[name], image, logits, frames.get(name, WHOLE)) if time.monotonic() < until else None
        )
        found.append(replace(maps, worth=worth))
        on_progress(done, len(seen), f"without {name}")
    return tuple(found)


def stages_of(model: nn.Module) -> dict[str, nn.Module]:
    """The parts under the paper's names; of a net that names none, its children."""
    named = getattr(model, "stages", None)
    return dict(named()) if callable(named) else dict(model.named_children())


@torch.no_grad()
def stage_maps(model: nn.Module, image: Tensor, frames: Frames | None = None) -> dict[str, StageMaps]:
    """What each stage returned last in one pass, in the order in which they finished.

    A stage may never be called itself (a traced network calls its parts): then its last part speaks for it.
    """
    stages = stages_of(model)
    frames = frames or {}
    found = _listen(model, image, {stage: name for name, stage in stages.items()}, frames)
    silent = {name: stage for name, stage in stages.items() if name not in found}
    if silent:
        parts = {part: name for name, stage in silent.items() for part in stage.modules()}
        found = _listen(model, image, {**parts, **{stages[name]: name for name in found}}, frames)
    return found


def _listen(model: nn.Module, image: Tensor, owners: Mapping[nn.Module, str], frames: Frames) -> dict[str, StageMaps]:
    found: dict[str, StageMaps] = {}

    def hear(part: nn.Module, args: Any, output: Any) -> None:
        maps = maps_of(output)
        if maps is not None:
            found.pop(owners[part], None)
            # At once, since a later layer may change the maps in place, and all of them would need much memory.
            found[owners[part]] = _summary(owners[part], maps, frames.get(owners[part], WHOLE))

    with ExitStack() as hooks:
        for part in owners:
            hooks.callback(part.register_forward_hook(hear).remove)
        run_model(model, image)
    return found


def maps_of(output: Any) -> Tensor | None:
    """The (first) maps of one image in what a module returns: pools return indices with them, encoders several."""
    for each in output if isinstance(output, (tuple, list)) else (output,):
        if isinstance(each, Tensor) and each.ndim == 4 and each.shape[0] == 1 and each.is_floating_point():
            return each
    return None


def _summary(name: str, output: Tensor, frame: tuple[slice, slice]) -> StageMaps:
    maps = output[0, :, frame[0], frame[1]].float()
    channels = strongest(maps)
    return StageMaps(
        name=name,
        size=(output.shape[1], output.shape[2], output.shape[3]),
        low=float(maps.min()),
        high=float(maps.max()),
        activity=maps.abs().mean(0).cpu().numpy(),
        maps=maps[channels].cpu().numpy(),
        channels=tuple(channels),
    )


def strongest(maps: Tensor, count: int = SHOWN) -> list[int]:
    """Channels of (C, h, w) that vary most over the image, leaving out those that look like one before them."""
    spread = maps.flatten(1).std(1, unbiased=False)
    order = spread.argsort(descending=True)[:CANDIDATES].tolist()
    size = (min(maps.shape[1], COMPARED_SIDE), min(maps.shape[2], COMPARED_SIDE))
    small = F.adaptive_avg_pool2d(maps[order], size).flatten(1)
    small = small - small.mean(1, keepdim=True)
    small = small / small.norm(dim=1, keepdim=True).clamp_min(1e-12)
    alike = (small @ small.T).abs()
    chosen: list[int] = []
    for place in range(len(order)):
        if all(alike[place, other] < ALIKE for other in chosen):
            chosen.append(place)
    return [order[place] for place in chosen[:count]]


@torch.no_grad()
def worth_of(
    model: nn.Module, stage: nn.Module, image: Tensor, logits: Tensor, frame: tuple[slice, slice] = WHOLE
) -> float | None:
    """Share of the pixels whose class changes when the maps of `stage` are replaced by their means over the image."""
    heard = [False]

    def flatten(part: nn.Module, args: Any, output: Any) -> Any:
        maps = maps_of(output)
        if maps is None:
            return None
        heard[0] = True
        flat = maps[:, :, frame[0], frame[1]].mean((2, 3), keepdim=True).expand_as(maps).clone()
        if isinstance(output, (tuple, list)):
            return type(output)(flat if each is maps else each for each in output)
        return flat

    handle = stage.register_forward_hook(flatten)
    try:
        changed = run_model(model, image)
    finally:
        handle.remove()
    if not heard[0]:
        return None
    before, after = (each > 0 if each.shape[1] == 1 else each.argmax(1) for each in (logits, changed))
    return float((before != after).float().mean())
