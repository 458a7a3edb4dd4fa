"""The semantic task on volumes: patches -> loss, whole cases -> label maps -> Dice of each structure and case."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from perpixel.data import Dataset, Sample
from perpixel.data.batches import Batch
from perpixel.data.volume_batches import VolumeCrops, volume_batches
from perpixel.engine.semantic import spread, weighted_loss
from perpixel.errors import InputError
from perpixel.images import VolumeNormalisation, find_coarse_axis, resample_label_map
from perpixel.inference import (
    LARGEST_ONLY,
    BundleConfig,
    ComponentRule,
    VolumePredictor,
    choose_rules,
    clean_components,
    prepare_volume,
    volume_predictor,
)
from perpixel.metrics import compute_scores, confusion_matrix, dice

OnImage = Callable[[int, int], None]


class PreparedCases:
    """The volumes of some samples as a net sees them: normalised, at the training spacing. Called with a number.

    Args:
        spacing_mm: of the training, (depth, row, column).
    """

    def __init__(
        self,
        dataset: Dataset,
        samples: Sequence[Sample],
        normalisation: VolumeNormalisation,
        spacing_mm: tuple[float, float, float],
    ) -> None:
        self.dataset, self.samples = dataset, tuple(samples)
        self.normalisation, self.spacing_mm = normalisation, spacing_mm

    def __call__(self, index: int, /) -> tuple[np.ndarray, np.ndarray]:
        """(C, d, h, w) float32, (d, h, w) class indices.

        Raises:
            InputError: a damaged file, or no label map.
        """
        case = self.dataset.load_case(self.samples[index])
        if case.label_map is None:
            raise InputError(f"{self.samples[index].where}: has no label map: add one or leave it to prediction")
        image = prepare_volume(
            case.image, case.spacing_mm, normalise=self.normalisation.apply, target_mm=self.spacing_mm
        )
        depth, height, width = image.shape[1:]
        coarse = find_coarse_axis(case.spacing_mm, self.spacing_mm)
        return image, resample_label_map(case.label_map, (depth, height, width), coarse_axis=coarse)


class VolumeTask:
    """Patches, loss and whole-case validation for `fit`.

    Args:
        crops: training draws.
        batch_size: draws a step, on each device.
        loss: (logits, target) -> scalar.
        aux_weights: weights of the model's further training outputs.
        dataset, samples: validation cases, predicted whole with the pipeline that `predict` uses.
        config: normalisation, spacing and tile of that pipeline.
        max_validation: cases of a validation; a fixed, evenly spread choice where there are more.
        device: where validation runs.
        num_workers: threads that draw patches ahead; 0 draws them when they are asked for.
        on_image: called with (done, total) while validating.
    """

    def __init__(
        self,
        *,
        crops: VolumeCrops,
        batch_size: int,
        loss: nn.Module,
        aux_weights: tuple[float, ...],
        dataset: Dataset,
        samples: tuple[Sample, ...],
        config: BundleConfig,
        max_validation: int | None = None,
        device: torch.device | str = "cpu",
        num_workers: int = 0,
        on_image: OnImage | None = None,
    ) -> None:
        self.crops, self.batch_size, self.aux_weights = crops, batch_size, aux_weights
        self.loss_module = loss.to(device)
        self.dataset, self.config, self.device = dataset, config, torch.device(device)
        self.num_workers, self.on_image = num_workers, on_image
        self.samples = spread(samples, max_validation)

    def batches(self, *, start_step: int, end_step: int, shrink: int, rank: int, world_size: int) -> Iterator[Batch]:
        return volume_batches(
            self.crops,
            batch_size=self.batch_size,
            start_step=start_step,
            end_step=end_step,
            shrink=shrink,
            rank=rank,
            world_size=world_size,
            num_workers=self.num_workers,
        )

    def forward(self, model: nn.Module, batch: Batch, device: torch.device) -> Any:
        return model(batch.image.to(device, non_blocking=True))

    def loss(self, outputs: Tensor | tuple[Tensor, ...], batch: Batch) -> Tensor:
        """Loss of the main logits plus the weighted losses of the deeply supervised ones."""
        ignore_index = self.config.classes.ignore_index
        return weighted_loss(self.loss_module, self.aux_weights, outputs, batch.target, ignore_index)

    def validate(self, model: nn.Module) -> dict[str, Any]:
        """Scores over whole validation cases; "score" is the mean Dice of the structures."""
        predictor = volume_predictor(model, self.config, device=self.device)
        return score_volumes(predictor, self.dataset, self.samples, on_image=self.on_image)


def score_volumes(
    predictor: VolumePredictor, dataset: Dataset, samples: Sequence[Sample], *, on_image: OnImage | None = None
) -> dict[str, Any]:
    """Scores of whole cases on their own grids; "score" is `structure_dice`.

    Args:
        on_image: called with (done, total).
    """
    matrices = []
    for done, sample in enumerate(samples):
        case = dataset.load_case(sample)
        pred = predictor.predict(case.image, spacing_mm=case.spacing_mm).label_map
        matrices.append(_counts(pred, case.label_map, dataset))
        if on_image:
            on_image(done + 1, len(samples))
    table = np.stack(matrices)
    result = compute_scores(table.sum(0)).to_json(dataset.classes.names)
    found, by_structure = structure_dice(table)
    return {
        "score": 0.0 if np.isnan(found) else found,
        "structure_dice": None if np.isnan(found) else found,
        "dice": [None if np.isnan(value) else float(value) for value in by_structure],
        **{name: result["scores"][name] for name in ("miou", "pixel_accuracy", "mean_dice")},
        "iou": [row["iou"] for row in result["per_class"]],
    }


def structure_dice(matrices: np.ndarray) -> tuple[float, np.ndarray]:
    """Mean Dice of all structures, and of each class over the cases.

    The Dice of a structure is the mean over the cases that have it in truth or prediction, as in nnU-Net; the first is
    the mean over the classes but the first, which is background. Where there is one class only, over that one.

    Args:
        matrices: (N, K, K) confusion of each case, row = truth.
    Returns:
        (mean, (K,)); NaN where no case has any.
    """
    each = dice(matrices)
    there = np.isfinite(each)
    counts = there.sum(axis=0)
    means = np.divide(
        np.where(there, each, 0).sum(axis=0), counts, out=np.full(each.shape[1], np.nan), where=counts > 0
    )
    structures = means[1:] if len(means) > 1 else means
    known = structures[np.isfinite(structures)]
    return (float(known.mean()) if len(known) else float("nan")), means


def find_rules(
    predictor: VolumePredictor, dataset: Dataset, samples: Sequence[Sample], *, on_image: OnImage | None = None
) -> tuple[dict[int, ComponentRule], dict[str, Any]]:
    """Which structures to clean up: those whose mean Dice over these cases is better with their largest piece only.

    Args:
        predictor: without rules.
        samples: validation cases, not those of the test.
    Returns:
        (class -> rule, what was found, as plain values).
    """
    plain, cleaned = [], []
    structures = range(1, dataset.classes.num_classes)
    for done, sample in enumerate(samples):
        case = dataset.load_case(sample)
        pred = predictor.predict(case.image, spacing_mm=case.spacing_mm).label_map
        plain.append(dice(_counts(pred, case.label_map, dataset)))
        row = plain[-1].copy()
        for label in structures:  # each by itself: whether one is cleaned does not change what is best for another
            after = clean_components(pred, {label: LARGEST_ONLY})
            row[label] = dice(_counts(after, case.label_map, dataset))[label]
        cleaned.append(row)
        if on_image:
            on_image(done + 1, len(samples))
    rules = choose_rules(np.stack(plain), {LARGEST_ONLY: np.stack(cleaned)})
    names = dataset.classes.names
    found = {
        "cases": len(samples),
        "largest_only": [names[label] for label in rules],
        "dice_before": _means(plain, names),
        "dice_after": _means(cleaned, names),
    }
    return rules, found


def _means(rows: Sequence[np.ndarray], names: Sequence[str]) -> dict[str, float | None]:
    table = np.stack(rows)
    counted = {name: column[np.isfinite(column)] for name, column in zip(names, table.T)}
    return {name: float(column.mean()) if len(column) else None for name, column in counted.items()}


def _counts(pred: np.ndarray, target: np.ndarray | None, dataset: Dataset) -> np.ndarray:
    assert target is not None
    classes = dataset.classes
    return confusion_matrix(pred, target, num_classes=classes.num_classes, ignore_index=classes.ignore_index)
