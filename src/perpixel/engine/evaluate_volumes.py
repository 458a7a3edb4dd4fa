"""Scores of a predictor on a split of volumes: Dice, IoU and distances in mm of each structure in each case."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from perpixel.data import Dataset, Sample
from perpixel.engine.evaluate import (
    OnImage,
    check_classes,
    choose_cases,
    confusion_scores,
    empty_folder,
    image_groups,
    plain_number,
    write_csv,
)
from perpixel.engine.volume_pictures import PredictedCase, plane_pictures, write_slices
from perpixel.engine.volumes import structure_dice
from perpixel.errors import InputError
from perpixel.files import write_json
from perpixel.images import write_png
from perpixel.inference import BundleConfig, VolumePredictor
from perpixel.metrics import bootstrap_sums, confusion_matrix, dice, iou, surface_distances

DEFINITIONS = {
    "structure_dice": "mean over the structures (all classes but the first) of their mean Dice over the cases",
    "case_dice": "mean over the cases that have the structure in truth or prediction of 2 n_cc / (t_c + p_c)",
    "case_iou": "the same of n_cc / (t_c + p_c - n_cc)",
    "hd95_mm": "95 % of both surfaces lie nearer to the other one than this (the larger of both directions); mean over "
    "the cases; where only truth or prediction has the structure, the diagonal of the volume",
    "asd_mm": "mean distance of both surfaces to each other, mean over the cases; one-sided cases as for HD95",
    "nsd": "share of both surfaces that lie within the tolerance of the other one, mean over the cases",
}
MEASURES = ("dice", "iou", "hd95_mm", "asd_mm", "nsd", "true_ml", "predicted_ml")


@dataclass(frozen=True)
class CaseRow:
    """One structure in one case; NaN where it has no score, since it is in neither truth nor prediction."""

    case: str
    structure: str
    dice: float
    iou: float
    hd95_mm: float
    asd_mm: float
    nsd: float
    true_ml: float
    predicted_ml: float
    is_one_sided: bool


def evaluate_volumes(
    predictor: VolumePredictor,
    config: BundleConfig,
    dataset: Dataset,
    split: str,
    out: str | Path,
    *,
    tta: bool = False,
    seed: int = 0,
    boundary: bool = True,
    tolerance_mm: float | None = None,
    on_image: OnImage | None = None,
) -> dict[str, Any]:
    """Predict every volume of a split on its own grid, score it, and write the results to `out`.

    The results that stood in `out` before are removed first, so that no stale result can be taken for a new one.

    Args:
        predictor: of the bundle that `config` is of; the data set must have the same classes, in the same order.
        split: a split of the data set.
        tta: average over mirror images along the axes that the model was trained with.
        seed: of the bootstrap.
        boundary: measure distances between surfaces.
        tolerance_mm: distance within which a surface is met; None is the longest side of a voxel in training.
        on_image: called with (done, total, name).
    Returns:
        What scores.json holds: what `evaluate_split` gives of images, and "structures", "tolerance_mm".
    Raises:
        InputError: classes differ, the split is empty, or a tolerance below 0.
    """
    check_classes(config.classes, dataset)
    samples = dataset.split(split)
    assert config.volume is not None
    tolerance = max(config.volume.spacing_mm) if tolerance_mm is None else tolerance_mm
    if not 0 <= tolerance < math.inf:
        raise InputError(f"tolerance is {tolerance_mm}: give a distance in mm, 0 or more")
    if tta:
        predictor.mirrors()  # refuses before anything is written
    folder = empty_folder(Path(out))
    names = list(dataset.classes.names)
    matrices, rows, timing = _measure_all(predictor, dataset, samples, tta, tolerance if boundary else None, on_image)
    write_csv(folder / "per_case.csv", [_as_table(row) for row in rows])
    table = [_case_summary(sample.name, rows) for sample in samples]
    write_csv(folder / "per_image.csv", table)
    groups = image_groups(samples)
    result = {
        "split": split,
        "num_images": len(samples),
        "spatial_dims": 3,
        "classes": names,
        "colours": dataset.classes.colours.tolist(),
        **confusion_scores(matrices, names, seed, groups),
        "structures": [_structure(name, rows) for name in (names[1:] if len(names) > 1 else names)],
        "tolerance_mm": tolerance if boundary else None,
        "cases": _write_cases(predictor, dataset, samples, tta, table, folder),
        "timing": timing,
        "tta": tta,
        "dropout_samples": 0,
        "crf": None,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    _add_structure_dice(result, matrices, seed, groups)
    write_json(folder / "scores.json", result)
    return result


def _measure_all(
    predictor: VolumePredictor,
    dataset: Dataset,
    samples: Sequence[Sample],
    tta: bool,
    tolerance_mm: float | None,
    on_image: OnImage | None,
) -> tuple[np.ndarray, list[CaseRow], dict[str, Any]]:
    """(N, K, K) counts, a row for each structure of each case, and how long it took."""
    classes = dataset.classes
    matrices, rows, voxels, seconds, measuring = [], [], 0, 0.0, 0.0
    for done, sample in enumerate(samples):
        began = time.perf_counter()
        case = dataset.load_case(sample)
        if case.label_map is None:
            raise InputError(f"{sample.where}: has no label map, so that nothing can be scored: choose another split")
        pred = predictor.predict(case.image, spacing_mm=case.spacing_mm, tta=tta).label_map
        predicted = time.perf_counter()
        matrices.append(
            confusion_matrix(pred, case.label_map, num_classes=classes.num_classes, ignore_index=classes.ignore_index)
        )
        rows += _case_rows(sample.name, pred, case.label_map, matrices[-1], dataset, case.spacing_mm, tolerance_mm)
        seconds += predicted - began
        measuring += time.perf_counter() - predicted
        voxels += pred.size
        if on_image:
            on_image(done + 1, len(samples), sample.name)
    return (
        np.stack(matrices),
        rows,
        {
            "images": len(samples),
            "seconds": round(seconds, 3),
            "images_per_s": round(len(samples) / seconds, 3),
            "megapixels_per_s": round(voxels / seconds / 1e6, 3),
            "measuring_s": round(measuring, 3),
        },
    )


def _case_rows(
    case: str,
    pred: np.ndarray,
    target: np.ndarray,
    counts: np.ndarray,
    dataset: Dataset,
    spacing_mm: tuple[float, float, float],
    tolerance_mm: float | None,
) -> list[CaseRow]:
    classes = dataset.classes
    overlap = {"dice": dice(counts), "iou": iou(counts)}
    millilitres = math.prod(spacing_mm) / 1000
    diagonal = float(np.linalg.norm(np.asarray(pred.shape) * spacing_mm))
    distances = None
    if tolerance_mm is not None:
        distances = surface_distances(
            pred, target, num_classes=classes.num_classes, ignore_index=classes.ignore_index, spacing=spacing_mm
        )
    rows = []
    for label in range(1 if classes.num_classes > 1 else 0, classes.num_classes):
        found = None if distances is None else distances[label]
        rows.append(
            CaseRow(
                case,
                classes.names[label],
                dice=float(overlap["dice"][label]),
                iou=float(overlap["iou"][label]),
                hd95_mm=math.nan if found is None else found.hausdorff(95, one_sided=diagonal),
                asd_mm=math.nan if found is None else found.average(one_sided=diagonal),
                nsd=math.nan if found is None or tolerance_mm is None else found.within(tolerance_mm),
                true_ml=float(counts[label].sum()) * millilitres,
                predicted_ml=float(counts[:, label].sum()) * millilitres,
                is_one_sided=bool((counts[label].sum() > 0) != (counts[:, label].sum() > 0)),
            )
        )
    return rows


def _as_table(row: CaseRow) -> dict[str, Any]:
    values = {name: plain_number(getattr(row, name)) for name in MEASURES}
    return {"case": row.case, "structure": row.structure, **values, "one_sided": row.is_one_sided}


def _case_summary(name: str, rows: Sequence[CaseRow]) -> dict[str, Any]:
    """One row a case: the mean Dice of its structures, which cases are ranked by, and the Dice of each."""
    own = [row for row in rows if row.case == name]
    found = [row.dice for row in own if not math.isnan(row.dice)]
    mean = sum(found) / len(found) if found else None
    return {"name": name, "mean_dice": mean, **{f"dice {row.structure}": plain_number(row.dice) for row in own}}


def _structure(name: str, rows: Sequence[CaseRow]) -> dict[str, Any]:
    """Mean, standard deviation and the values of all cases, of one structure."""
    own = [row for row in rows if row.structure == name]
    result: dict[str, Any] = {"name": name, "one_sided": sum(row.is_one_sided for row in own)}
    result["cases"] = sum(not math.isnan(row.dice) for row in own)
    for measure in MEASURES:
        values = np.array([getattr(row, measure) for row in own])
        values = values[~np.isnan(values)]
        result[measure] = float(values.mean()) if len(values) else None
        result[f"{measure}_std"] = float(values.std()) if len(values) else None
        result[f"{measure}_cases"] = [plain_number(getattr(row, measure)) for row in own]
    return result


def _add_structure_dice(result: dict[str, Any], matrices: np.ndarray, seed: int, groups: Sequence[str] | None) -> None:
    """The score that volumes are compared by, with its interval: a mean over cases is a ratio of two sums."""
    each = dice(matrices)
    there = np.isfinite(each)
    sums = np.stack([np.where(there, each, 0.0), there.astype(float)], axis=1)
    first = 1 if each.shape[1] > 1 else 0

    def mean(drawn: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore", divide="ignore"):
            by_structure = drawn[:, 0, first:] / drawn[:, 1, first:]
        known = np.isfinite(by_structure)
        count = known.sum(axis=1)
        total = np.where(known, by_structure, 0).sum(axis=1)
        return np.divide(total, count, out=np.full(len(drawn), np.nan), where=count > 0)

    low, high = bootstrap_sums(sums, {"found": mean}, seed=seed, groups=groups)["found"]
    found, _ = structure_dice(matrices)
    result["scores"] = {"structure_dice": plain_number(found), **result["scores"]}
    result["intervals"] = {"structure_dice": [plain_number(low), plain_number(high)], **result["intervals"]}
    result["definitions"] |= DEFINITIONS


def _write_cases(
    predictor: VolumePredictor,
    dataset: Dataset,
    samples: Sequence[Sample],
    tta: bool,
    table: list[dict[str, Any]],
    folder: Path,
) -> list[dict[str, Any]]:
    """Planes of the best, the median and the worst cases by the mean Dice of each, and slices of the first of each."""
    by_name, cases, seen = {sample.name: sample for sample in samples}, [], set[str]()
    for number, (rank, row) in enumerate(choose_cases(table, by="mean_dice"), start=1):
        case = dataset.load_case(by_name[row["name"]])
        assert case.label_map is not None
        prediction = predictor.predict(case.image, spacing_mm=case.spacing_mm, tta=tta, uncertainty=True)
        assert prediction.uncertainty is not None
        shown = PredictedCase(case.image, case.label_map, prediction.label_map, prediction.uncertainty, case.spacing_mm)
        stem = f"cases/{number}-{rank}"
        pictures = plane_pictures(shown, dataset.classes)
        files = {kind: f"{stem}_{kind}.png" for kind in pictures}
        for kind, picture in pictures.items():
            write_png(folder / files[kind], picture)
        entry = {"name": row["name"], "rank": rank, "mean_dice": row["mean_dice"], "files": files}
        if rank not in seen:
            seen.add(rank)
            entry["slices"] = write_slices(shown, folder, stem)
        cases.append(entry)
    return cases
