"""How large training crops are and how many make a batch: what the speed allows, then what the memory allows."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from perpixel.planning.net import Costs

BATCH_SIZES = {"cpu": 4, "cuda": 8, "mps": 8}
# The smallest batch: layers that normalise over it cannot learn from one image where their maps are single cells.
MIN_BATCH = 2
# Steps below which the batch is made smaller, since more steps then teach more than surer ones.
FEW_STEPS = 150
# Share of the free memory that a training step may take (decoded images may take a quarter more on a CPU), and the
# smallest side that crops are cut to for it.
MEMORY_SHARES = {"cpu": 0.6, "cuda": 0.85, "mps": 0.6}
MIN_CROP_SIDE = 64

# Height and width of a crop, and images a step -> bytes that the step takes.
Takes = Callable[[tuple[int, int], int], float]


@dataclass(frozen=True)
class Machine:
    """What planning needs to know of the hardware.

    Attributes:
        accelerator: "cpu" | "cuda" | "mps".
        has_bf16: bf16 arithmetic is native.
        memory_bytes: of one device, free for use; 0 where it cannot be told.
    """

    accelerator: str
    name: str
    has_bf16: bool
    devices: int = 1
    memory_bytes: int = 0


@dataclass(frozen=True)
class Crops:
    """Crop (height, width) and batch size, each with the reason."""

    crop: list[int]
    batch_size: int
    why_crop: str
    why_batch: str


def plan_crops(
    machine: Machine,
    costs: Costs,
    scale: float,
    given: Mapping[str, Any],
    *,
    time_of: Callable[[list[int]], float | None],
    takes: Takes | None,
) -> Crops:
    """Crop and batch size.

    Args:
        given: settings of the user; a crop or a batch size among them stands.
        time_of: crop -> seconds of training that one takes; None without a budget.
        takes: what a step takes of the memory; None if that is not to be looked at.
    """
    crop, why_crop = _largest_crop(costs, scale)
    crop = given.get("crop", crop)
    batch, why_batch = _batch(machine, costs, time_of(crop))
    batch = given.get("batch_size", batch)
    if takes is not None and machine.memory_bytes:
        most_bytes = machine.memory_bytes * MEMORY_SHARES[machine.accelerator]
        fitted = fit_memory(crop, batch, most_bytes, takes, given)
        if fitted != (crop, batch):
            full = takes((crop[0], crop[1]), batch) / 1e9
            why = f"{batch} of {crop[0]}x{crop[1]} would take about {full:.1f} GB of memory, too much here"
            why_crop = why_crop if fitted[0] == crop else why
            why_batch = why_batch if fitted[1] == batch else why
        crop, batch = fitted
    return Crops(crop, batch, why_crop, why_batch)


def _largest_crop(costs: Costs, scale: float) -> tuple[list[int], str]:
    height, width = (max(1, round(side * scale)) for side in costs.size)
    most = costs.most_pixels
    if height * width <= most:
        return [height, width], "whole images: they are small enough"
    side = math.isqrt(most)
    shape = [min(height, side), min(width, side)]
    shape = [min(height, most // shape[1]), min(width, most // shape[0])]
    return [max(1, side // 16 * 16) for side in shape], f"whole images of {height}x{width} would make few, slow steps"


def _batch(machine: Machine, costs: Costs, image_s: float | None) -> tuple[int, str]:
    batch = max(MIN_BATCH, min(BATCH_SIZES[machine.accelerator], costs.images))
    if batch > MIN_BATCH and image_s is not None and costs.training_s is not None:
        steps = costs.training_s / (image_s * batch)
        if steps < FEW_STEPS:
            return MIN_BATCH, f"only about {steps:.0f} steps fit with {batch}: smaller batches make more of them"
    return batch, "small batches make more steps of the same time, which a short run needs"


def fit_memory(
    crop: list[int], batch: int, most_bytes: float, takes: Takes, given: Mapping[str, Any]
) -> tuple[list[int], int]:
    """Crop and batch size cut down until a step takes no more than `most_bytes`, as far as they are not in `given`."""
    while takes((crop[0], crop[1]), batch) > most_bytes:
        if batch > MIN_BATCH and "batch_size" not in given:
            batch = max(MIN_BATCH, batch // 2)
        elif max(crop) > MIN_CROP_SIDE and "crop" not in given:
            crop = [max(min(side, MIN_CROP_SIDE), int(0.75 * side) // 16 * 16) for side in crop]
        else:
            break  # to be tried, since the user wants it so, or nothing smaller makes sense
    return crop, batch
