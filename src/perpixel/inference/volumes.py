"""Model + volume -> label map on the volume's own grid, in memory that does not grow with the volume's length.

    voxels as read -> normalise -> training spacing -> windows -> probabilities, slab by slab -> own grid -> classes

Probabilities are turned into classes as soon as no later window reaches them (`sliding.py`), on the volume's own grid
(`regrid.py`): beside the voxels and the label map only a slab one window thick is held.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perpixel.errors import InputError
from perpixel.images import Volume, find_coarse_axis, read_volume, resample_image, resampled_shape
from perpixel.inference.components import ComponentRule, clean_components
from perpixel.inference.predictor import Prediction
from perpixel.inference.regrid import Regrid
from perpixel.inference.sliding import Run, part_at, sliding_window
from perpixel.labels import ClassTable

# Share of a window that it has in common with the next along each axis, as in nnU-Net.
VOLUME_OVERLAP = 0.5

Triple = tuple[float, float, float]
# (C, D, H, W) of the file's values -> float32 of the same shape.
Normalise = Callable[[np.ndarray], np.ndarray]


def prepare_volume(
    image: np.ndarray, spacing_mm: Triple, *, normalise: Normalise | None = None, target_mm: Triple | None = None
) -> np.ndarray:
    """What a net sees of a volume, in training and in prediction alike.

    Args:
        image: (C, D, H, W) of the file's values.
        spacing_mm: size of its voxels along (depth, row, column).
        normalise: such as `images.normalise_mr`, or `images.normalise_ct` with its numbers; None leaves the values.
        target_mm: the training spacing; None leaves the grid.
    Returns:
        (C, d, h, w) float32.
    """
    values = np.asarray(image if normalise is None else normalise(image), np.float32)
    if target_mm is None:
        return values
    shape = resampled_shape(image.shape[1:], spacing_mm, target_mm)
    if shape == image.shape[1:]:
        return values
    return resample_image(values, shape, coarse_axis=find_coarse_axis(spacing_mm, target_mm))


class VolumePredictor:
    """A net with everything around it that turns a volume into a label map.

    Args:
        model: (B, C, d, h, w) -> (B, K, d, h, w) logits.
        channels: C.
        tile: (d, h, w) of a window. A volume that is smaller is laid into the middle of one, among zeros, as training
            patches are.
        normalise, spacing_mm: as in `prepare_volume`; `spacing_mm` is the training spacing.
        mirror: axes (depth, row, column) along which the model was trained with mirror images.
        rules: class -> which of its connected components are kept; the others become background. Probabilities stay.
        temperature: logits are divided by it.
        precision: "bf16" | "fp32".
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        classes: ClassTable,
        channels: int,
        tile: tuple[int, int, int],
        normalise: Normalise | None = None,
        spacing_mm: Triple | None = None,
        mirror: Sequence[bool] = (False, False, False),
        rules: Mapping[int, ComponentRule] | None = None,
        overlap: float = VOLUME_OVERLAP,
        temperature: float = 1.0,
        device: str | torch.device = "cpu",
        precision: str = "fp32",
    ) -> None:
        self.device = torch.device(device)
        self.model = model.to(self.device).eval()
        self.classes, self.channels, self.tile = classes, channels, tile
        self.normalise, self.spacing_mm, self.mirror = normalise, spacing_mm, tuple(mirror)
        self.rules = dict(rules or {})
        self.overlap, self.temperature, self.precision = overlap, temperature, precision

    def predict(
        self,
        volume: np.ndarray | Volume | str | os.PathLike[str],
        *,
        spacing_mm: Triple | None = None,
        probs: bool = False,
        uncertainty: bool = False,
        confidence: bool = False,
        tta: bool = False,
        on_tile: Callable[[int, int], None] | None = None,
    ) -> Prediction:
        """Label every voxel of one volume; all results lie on its own grid.

        Args:
            volume: a file, a `Volume`, or (C, D, H, W) / (D, H, W) of the values that the training files had.
            spacing_mm: voxel size of an array along (depth, row, column); needed where the net has a training spacing.
            probs: also return probabilities, (K, D, H, W) float32: this much memory is avoided otherwise.
            uncertainty: also return the entropy map.
            confidence: also return the probability of the class chosen for each voxel.
            tta: average over the mirror images along the axes that the model was trained with, 8 passes for three.
            on_tile: called with (done, total) windows.
        Raises:
            InputError: unreadable file, wrong number of channels, no volume, NaN or infinite voxels, an array without
                its spacing, tta without such training.
        """
        views = self.mirrors() if tta else []
        image, spacing = self.as_volume(volume, spacing_mm)
        shape = image.shape[1:]
        values = prepare_volume(image, spacing, normalise=self.normalise, target_mm=self.spacing_mm)
        onto = None
        if self.spacing_mm is not None and values.shape[1:] != shape:
            onto = Regrid(shape, find_coarse_axis(spacing, self.spacing_mm))
        result = sliding_window(
            self._runner(views),
            torch.from_numpy(values)[None],
            num_classes=self.classes.num_classes,
            tile=self.tile,
            overlap=self.overlap,
            probs=probs,
            uncertainty=uncertainty,
            confidence=confidence,
            onto=onto,
            on_tile=on_tile,
        )
        label_map = result.label_map.astype(self.classes.dtype, copy=False)
        if self.rules:
            label_map = clean_components(label_map, self.rules)
        return Prediction(
            label_map=label_map,
            classes=self.classes,
            probs=result.probs,
            uncertainty=result.uncertainty,
            confidence=result.confidence,
        )

    def as_volume(
        self, volume: np.ndarray | Volume | str | os.PathLike[str], spacing_mm: Triple | None = None
    ) -> tuple[np.ndarray, Triple]:
        """(C, D, H, W) with the model's channels, and its spacing.

        Raises:
            InputError: as `predict`.
        """
        where = "volume"
        if isinstance(volume, np.ndarray):
            array = volume[None] if volume.ndim == 3 else volume
        else:
            if not isinstance(volume, Volume):
                where, volume = str(volume), read_volume(Path(volume))
            array, spacing_mm = volume.array, volume.spacing_mm
        if array.ndim != 4 or array.size == 0 or array.dtype.kind not in "uif":
            raise InputError(
                f"{where}: shape {array.shape}, dtype {array.dtype}: give numbers of shape (channels, depth, height, "
                "width)"
            )
        if len(array) != self.channels:
            raise InputError(
                f"{where}: {len(array)} channels, but the model was trained on {self.channels}: give volumes like the "
                "training volumes"
            )
        if spacing_mm is None and self.spacing_mm is not None:
            raise InputError(
                f"{where}: an array has no voxel size, but the model was trained at {self.spacing_mm} mm: give "
                "spacing_mm=(depth, row, column)"
            )
        if array.dtype.kind == "f":
            # Slice by slice, so that the test needs no further memory.
            bad = sum(part.size - int(np.isfinite(part).sum()) for channel in array for part in channel)
            if bad:
                raise InputError(f"{where}: {bad} of {array.size} voxels are NaN or infinite: replace them by numbers")
        return array, spacing_mm or (1.0, 1.0, 1.0)

    def mirrors(self) -> list[tuple[int, ...]]:
        """Axes of (B, C, d, h, w) to flip for each mirror image that test-time augmentation averages over.

        Raises:
            InputError: the model was trained without mirror images.
        """
        axes = [2 + axis for axis, is_mirrored in enumerate(self.mirror) if is_mirrored]
        if not axes:
            raise InputError(
                "tta: averaging over mirror images would make this model worse, since it was trained without them: "
                "leave it out"
            )
        return [some for count in range(1, len(axes) + 1) for some in combinations(axes, count)]

    def _runner(self, views: list[tuple[int, ...]]) -> Run:
        def run(window: Tensor) -> Tensor:
            image = window.to(self.device).float()
            size = image.shape[2:]
            before = [max(0, side - own) // 2 for side, own in zip(self.tile, size)]
            after = [max(0, side - own) - first for side, own, first in zip(self.tile, size, before)]
            if any(after):
                image = F.pad(image, [pad for pair in zip(before[::-1], after[::-1]) for pad in pair])
            own = part_at(before, size)
            logits = self._logits(image)[own]
            if not views:
                return logits
            total = _chances(logits)
            for axes in views:
                total += _chances(self._logits(image.flip(axes)).flip(axes)[own])
            mean = total / (1 + len(views))
            return mean.log() if mean.shape[1] > 1 else mean.logit()

        return run

    @torch.inference_mode()
    def _logits(self, image: Tensor) -> Tensor:
        """(B, C, d, h, w) normalised -> (B, K, d, h, w) float32, divided by the temperature."""
        with self._autocast():
            logits = self.model(image)
        logits = logits.float()
        return logits if self.temperature == 1.0 else logits / self.temperature

    def _autocast(self) -> AbstractContextManager:
        if self.precision != "bf16":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)


def _chances(logits: Tensor) -> Tensor:
    return logits.softmax(1) if logits.shape[1] > 1 else logits.sigmoid()
