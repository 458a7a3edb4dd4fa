"""Model + image of any size -> its objects: tiles, each object once, and the label map that they make."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perpixel.errors import InputError
from perpixel.images import Normalisation
from perpixel.inference.inputs import image_array, scale_and_offset, torch_ready
from perpixel.inference.instance_tiles import merge_tiles
from perpixel.inference.instance_views import tile_image
from perpixel.inference.predictor import OVERLAP, Prediction
from perpixel.labels import ClassTable, Instances


class Detector(Protocol):
    """What a model of objects offers besides being an `nn.Module`."""

    def detect(self, image: Tensor, *, size: tuple[int, int] | None = None) -> Instances:
        """The objects of (1, C, h, w) float32 normalised, on a grid of `size` (H, W); scored, the best first."""
        ...


class InstancePredictor:
    """A model of objects with everything around it that turns an image into its objects.

    Args:
        model: an `nn.Module` with `detect`, as `Detector` says.
        classes: class 0 is background.
        channels: of the images.
        normalisation: raw values -> what the model takes; limits that are each image's own are taken once an image.
        scale: images are resized by this factor before the model; objects come back on the image's own grid.
        tile: (height, width) in pixels of the image; larger images are predicted in overlapping tiles.
        overlap: least share of a tile that it has in common with the next. Objects that are smaller than that are seen
            whole by one tile; larger ones are joined.
        min_score: objects below are left out.
        max_objects: the best so many are kept; None keeps all, however crowded the image is.
        precision: "bf16" | "fp32".
    Raises:
        InputError: a model without `detect`, an overlap, score or number that makes no sense.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        classes: ClassTable,
        channels: int,
        normalisation: Normalisation,
        scale: float = 1.0,
        tile: tuple[int, int] = (1024, 1024),
        overlap: float = OVERLAP,
        min_score: float = 0.0,
        max_objects: int | None = None,
        device: str | torch.device = "cpu",
        precision: str = "fp32",
    ) -> None:
        if not hasattr(model, "detect"):
            raise InputError(f"{type(model).__name__} finds no objects: give a model with `detect`, such as mask_rcnn")
        if min(tile) < 1 or not 0 <= overlap < 1 or not scale > 0:
            raise InputError(
                f"tile {tuple(tile)}, overlap {overlap}, scale {scale}: give sides of 1 or more, an overlap from 0 to "
                "below 1, and a positive scale"
            )
        if max_objects is not None and max_objects < 1:
            raise InputError(f"max_objects is {max_objects}: give 1 or more, or leave it out to keep all")
        check_score(min_score)
        self.classes, self.channels, self.normalisation = classes, channels, normalisation
        self.scale, self.tile, self.overlap = scale, (int(tile[0]), int(tile[1])), overlap
        self.min_score, self.max_objects = min_score, max_objects
        self.device, self.precision = torch.device(device), precision
        self.model = model.to(self.device).eval()

    def predict(
        self,
        image: np.ndarray | str | os.PathLike[str],
        *,
        min_score: float | None = None,
        on_tile: Callable[[int, int], None] | None = None,
    ) -> Prediction:
        """Find the objects of one image.

        Args:
            image: a file, or (H, W, C) / (H, W) of the value range that the training images had.
            min_score: in place of the predictor's own.
            on_tile: called with (done, total) tiles.
        Returns:
            `instances` with scores, the best first, and `label_map`, their classes painted over background (high scores
            on top, then small objects).
        Raises:
            InputError: unreadable file, wrong number of channels, not an image array, NaN or infinite values.
        """
        least = self.min_score if min_score is None else check_score(min_score)
        array = self.as_image(image)
        size = (array.shape[0], array.shape[1])
        shape = (1, -1, 1, 1)
        factor, offset = (torch.from_numpy(each).view(shape).to(self.device) for each in self._normalising(array))
        tiles = tile_image(size, self.tile, self.overlap)
        found = []
        for number, tile in enumerate(tiles):
            x0, y0, x1, y1 = tile.box
            window = torch.from_numpy(torch_ready(array[y0:y1, x0:x1])).permute(2, 0, 1)[None]
            found.append(self._detect(window.to(self.device).float() * factor + offset))
            if on_tile is not None:
                on_tile(number + 1, len(tiles))
        instances = merge_tiles(size, tiles, found, min_score=least)
        if self.max_objects is not None and len(instances) > self.max_objects:
            instances = instances.take(np.arange(self.max_objects))
        label_map = instances.masks.paint(instances.painting_order(), instances.classes)
        return Prediction(label_map.astype(self.classes.dtype), self.classes, instances=instances)

    def as_image(self, image: np.ndarray | str | os.PathLike[str]) -> np.ndarray:
        """(H, W, C) with the model's channels, from a file or an array. Raises InputError as `predict`."""
        return image_array(image, self.channels)

    def settings(self) -> dict[str, Any]:
        """Everything that changes an answer, in plain values; the weights as a SHA-256."""
        digest = hashlib.sha256()
        for name, value in sorted(self.model.state_dict().items()):
            digest.update(name.encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return {
            "model": type(self.model).__name__,
            "weights": digest.hexdigest(),
            "channels": self.channels,
            "normalisation": self.normalisation.to_json(),
            "scale": self.scale,
            "tile": list(self.tile),
            "overlap": self.overlap,
            "min_score": self.min_score,
            "max_objects": self.max_objects,
            "precision": self.precision,
            "classes": self.classes.to_json(),
        }

    def fingerprint(self) -> str:
        """SHA-256 over the settings."""
        return hashlib.sha256(json.dumps(self.settings(), sort_keys=True).encode()).hexdigest()

    def _normalising(self, array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return scale_and_offset(self.normalisation, array)

    @torch.inference_mode()
    def _detect(self, window: Tensor) -> Instances:
        """(1, C, h, w) normalised -> its objects on its own grid."""
        size = (int(window.shape[2]), int(window.shape[3]))
        if self.scale != 1.0:
            small = [max(1, round(side * self.scale)) for side in size]
            window = F.interpolate(window, small, mode="area" if self.scale < 1 else "bilinear")
        with self._autocast():
            found: Instances = self.model.detect(window, size=size)  # type: ignore[operator]
        if found.size != size:
            raise InputError(f"the model gave objects of an image of {found.size} for {size}: check its `detect`")
        unknown = (found.classes < 1) | (found.classes >= self.classes.num_classes)
        if unknown.any():
            raise InputError(
                f"the model found class {int(found.classes[unknown][0])}, but the objects are of classes 1 to "
                f"{self.classes.num_classes - 1}: give the classes that it was trained on"
            )
        return found

    def _autocast(self) -> AbstractContextManager:
        if self.precision != "bf16":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)


def check_score(min_score: float) -> float:
    """`min_score` itself. Raises InputError where it is no number from 0 to 1."""
    if not 0 <= min_score <= 1:
        raise InputError(f"min_score is {min_score}: give a score from 0 to 1")
    return min_score
