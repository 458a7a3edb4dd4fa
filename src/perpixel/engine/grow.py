"""Growing a forest: it asks for labelled images one by one and is done when they are learnt; there are no steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F

from perpixel.data import Dataset
from perpixel.inference.bundle import BundleConfig
from perpixel.labels import resize_label_map

# Number of a training image -> (C, H, W) float32 as the model takes it, (H, W) class indices.
Load = Callable[[int], tuple[np.ndarray, np.ndarray]]


class Grower(Protocol):
    """What `grow_forest` needs of a forest."""

    def grow(
        self,
        load: Load,
        count: int,
        *,
        ignore_index: int,
        seed: int,
        seconds: float | None,
        on_progress: Callable[[int, int, str], None] | None,
    ) -> dict[str, Any]:
        """Learn from `count` images; what was used and found, as plain values."""


def grow_forest(
    model: Grower,
    dataset: Dataset,
    config: BundleConfig,
    *,
    seed: int,
    seconds: float | None = None,
    on_progress: Callable[[int, int, str], None] | None = None,
) -> dict[str, Any]:
    """Grow `model` on the train split.

    Args:
        config: value range and working scale, the same that prediction will use.
        seconds: what it may take.
        on_progress: called with (done, total, what).
    Returns:
        What the forest says of its growth.
    Raises:
        InputError: too few labelled pixels, or of one class only.
    """
    samples = dataset.split("train")

    def load(number: int) -> tuple[np.ndarray, np.ndarray]:
        image, label_map = dataset.load(samples[number])
        unit = np.ascontiguousarray(config.normalisation.apply(image).transpose(2, 0, 1))
        if config.scale == 1.0:
            return unit, label_map
        # As the predictor does it, so that both see the same values.
        size = [max(1, round(side * config.scale)) for side in label_map.shape]
        mode = "area" if config.scale < 1 else "bilinear"
        resized = F.interpolate(torch.from_numpy(unit)[None], size, mode=mode)[0].numpy()
        return resized, resize_label_map(label_map, (size[0], size[1]))

    return model.grow(
        load,
        len(samples),
        ignore_index=dataset.classes.ignore_index,
        seed=seed,
        seconds=seconds,
        on_progress=on_progress,
    )
