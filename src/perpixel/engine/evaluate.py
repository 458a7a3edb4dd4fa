"""Scores of a predictor on a split: one confusion matrix over all images, intervals, a table and pictures of cases."""

from __future__ import annotations

import csv
import io
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from perpixel.data import Dataset, Sample
from perpixel.engine.measures import Measures
from perpixel.errors import InputError
from perpixel.files import make_folder, write_json, write_text
from perpixel.images import resize_image, to_display, write_png
from perpixel.inference.crf import CrfSettings
from perpixel.inference.predictor import Predictor
from perpixel.inference.sampling import check_samples
from perpixel.labels import ClassTable, colourise, error_map, resize_label_map
from perpixel.metrics import (
    bootstrap_intervals,
    compute_scores,
    confusion_matrix,
    per_group_table,
    per_image_table,
)

# Cases shown of each kind, and the longest side of their pictures.
CASES = 3
CASE_SIDE = 640
# Intervals are drawn over groups of images where there are at least so many.
MIN_GROUPS = 10

OnImage = Callable[[int, int, str], None]


def evaluate_split(
    predictor: Predictor,
    dataset: Dataset,
    split: str,
    out: str | Path,
    *,
    tta: bool = False,
    dropout_samples: int = 0,
    seed: int = 0,
    crf: CrfSettings | None = None,
    boundary: bool = True,
    tolerance: float | None = None,
    thin: Sequence[str] = (),
    objects: str | None = None,
    on_image: OnImage | None = None,
) -> dict[str, Any]:
    """Predict every image of a split at its full size, score it, and write the results to `out`.

    The results that stood in `out` before are removed first, so that no stale result can be taken for a new one.

    Args:
        predictor: model with its classes; the data set must have the same ones, in the same order.
        split: a split of the data set.
        tta: average over mirror images of the kinds that the model was trained with.
        dropout_samples: average over this many passes with dropout on; 0 is one pass without.
        seed: of the bootstrap and of the dropout.
        crf: refine every prediction by this fully connected CRF.
        boundary, tolerance, thin, objects: what else is measured, as `Measures` takes them.
        on_image: called with (done, total, name).
    Returns:
        What scores.json holds.
    Raises:
        InputError: classes differ, the split is empty, or a measure names an unknown class.
    """
    check_classes(predictor.config.classes, dataset)
    samples = dataset.split(split)
    measures = Measures(dataset.classes, boundary=boundary, tolerance=tolerance, thin=thin, objects=objects)
    if tta:
        predictor.mirrors()  # refuses before anything is written
    check_samples(predictor.model, dropout_samples)
    way: dict[str, Any] = {"tta": tta, "samples": dropout_samples, "seed": seed, "crf": crf}
    folder = empty_folder(Path(out))
    matrices, timing = _predict_all(predictor, dataset, samples, way, measures, on_image)

    names = list(dataset.classes.names)
    table = per_image_table([sample.name for sample in samples], matrices, names)
    for image, row in enumerate(table):
        row |= measures.columns(image)
    write_csv(folder / "per_image.csv", table)
    groups = image_groups(samples)
    if any(sample.group is not None for sample in samples):
        write_csv(folder / "per_group.csv", per_group_table(_named_groups(samples), matrices, names))
    result = {
        "split": split,
        "num_images": len(samples),
        "classes": names,
        "colours": dataset.classes.colours.tolist(),
        **_scores(matrices, names, seed, groups, measures),
        "cases": list(_write_cases(predictor, dataset, samples, way, table, folder)),
        "timing": timing,
        "tta": tta,
        "dropout_samples": dropout_samples,
        "crf": None if crf is None else crf.to_json(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    write_json(folder / "scores.json", result)
    return result


def empty_folder(folder: Path) -> Path:
    """`folder` without the results of an earlier evaluation.

    Raises:
        InputError: other files are in it: they are the user's.
    """
    own = {"scores.json", "per_image.csv", "per_group.csv", "per_case.csv", "cases"}
    if folder.is_dir():
        strange = sorted({entry.name for entry in folder.iterdir()} - own)
        if strange:
            raise InputError(f"{folder}: holds other files than results ({strange[0]}): choose another --out")
        shutil.rmtree(folder)
    return make_folder(folder)


def check_classes(table: ClassTable, dataset: Dataset) -> None:
    """Refuse to score a model against other classes than its own.

    Raises:
        InputError: number or names of the classes differ.
    """
    have, need = list(table.names), list(dataset.classes.names)
    if have != need:
        raise InputError(
            f"{dataset.root}: its classes are {', '.join(need)}, the model's are {', '.join(have)}: "
            "give the data set that the model was trained on, or a classes.json with the model's classes"
        )


def _predict_all(
    predictor: Predictor,
    dataset: Dataset,
    samples: Sequence[Sample],
    way: dict[str, Any],
    measures: Measures,
    on_image: OnImage | None,
) -> tuple[np.ndarray, dict[str, Any]]:
    """(N, K, K) counts, and how long it took: seconds of reading and predicting, and of measuring."""
    classes = dataset.classes
    matrices, pixels, seconds, measuring = [], 0, 0.0, 0.0
    for done, sample in enumerate(samples):
        began = time.perf_counter()
        image, target = dataset.load(sample)
        prediction = predictor.predict(image, confidence=True, **way)
        predicted = time.perf_counter()
        pred = prediction.label_map
        matrices.append(
            confusion_matrix(pred, target, num_classes=classes.num_classes, ignore_index=classes.ignore_index)
        )
        assert prediction.confidence is not None
        measures.add(pred, target, prediction.confidence)
        seconds += predicted - began
        measuring += time.perf_counter() - predicted
        pixels += target.size
        if on_image:
            on_image(done + 1, len(samples), sample.name)
    return np.stack(matrices), {
        "images": len(samples),
        "seconds": round(seconds, 3),
        "images_per_s": round(len(samples) / seconds, 3),
        "megapixels_per_s": round(pixels / seconds / 1e6, 3),
        "measuring_s": round(measuring, 3),
    }


def image_groups(samples: Sequence[Sample]) -> list[str] | None:
    """The group of each image, from which intervals are drawn; None where images stand for themselves.

    Images of one group (a patient, a city) are alike, so that drawing them one by one gives intervals that are too
    narrow. Below MIN_GROUPS groups there is too little to draw from.
    """
    groups = _named_groups(samples)
    return groups if MIN_GROUPS <= len(set(groups)) < len(groups) else None


def _named_groups(samples: Sequence[Sample]) -> list[str]:
    return [sample.name if sample.group is None else sample.group for sample in samples]


def _scores(
    matrices: np.ndarray, names: list[str], seed: int, groups: list[str] | None, measures: Measures
) -> dict[str, Any]:
    result = confusion_scores(matrices, names, seed, groups)
    measures.add_to(result, seed=seed, groups=groups)
    return result


def confusion_scores(matrices: np.ndarray, names: list[str], seed: int, groups: Sequence[str] | None) -> dict[str, Any]:
    """Scores, intervals and the number of images of each class, from (N, K, K) counts."""
    result = compute_scores(matrices.sum(0)).to_json(names)
    statistics = tuple(result["scores"])
    intervals = bootstrap_intervals(matrices, statistics=(*statistics, "iou"), seed=seed, groups=groups)
    low, high = intervals.pop("iou")
    present = (matrices.sum(2) > 0).sum(0)
    for index, row in enumerate(result["per_class"]):
        row["images"] = int(present[index])
        row["interval"] = [plain_number(np.asarray(low)[index]), plain_number(np.asarray(high)[index])]
    result["intervals"] = {name: [plain_number(a), plain_number(b)] for name, (a, b) in intervals.items()}
    result["intervals_over"] = "images" if groups is None else "groups"
    return result


def plain_number(value: Any) -> float | None:
    """A float for JSON: None for NaN."""
    return None if np.isnan(value) else float(value)


def write_csv(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """A table with a head; the rows have the keys of the first."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def _write_cases(
    predictor: Predictor,
    dataset: Dataset,
    samples: Sequence[Sample],
    way: dict[str, Any],
    table: list[dict[str, Any]],
    folder: Path,
) -> Iterator[dict[str, Any]]:
    """Pictures of the best, the median and the worst images, by the mIoU of each by itself."""
    by_name = {sample.name: sample for sample in samples}
    for rank, row in choose_cases(table):
        stem = f"{rank}-{len(list((folder / 'cases').glob(f'{rank}-*_image.png'))) + 1}"
        pictures = case_pictures(predictor, dataset, by_name[row["name"]], way)
        files = {kind: f"cases/{stem}_{kind}.png" for kind in pictures}
        for kind, picture in pictures.items():
            write_png(folder / files[kind], picture)
        yield {"name": row["name"], "rank": rank, "miou": row["miou"], "files": files}


def choose_cases(table: list[dict[str, Any]], by: str = "miou") -> list[tuple[str, dict[str, Any]]]:
    """(rank, row) of up to CASES best, median and worst images, no image twice."""
    rows = sorted((row for row in table if row[by] is not None), key=lambda row: -row[by])
    count = min(CASES, max(1, len(rows) // 3))
    middle = (len(rows) - count) // 2
    parts = {"best": rows[:count], "median": rows[middle : middle + count], "worst": rows[-count:]}
    chosen: list[tuple[str, dict[str, Any]]] = []
    for rank, part in parts.items():
        known = [row for _, row in chosen]
        chosen += [(rank, row) for row in part if row not in known]
    return chosen


def case_pictures(predictor: Predictor, dataset: Dataset, sample: Sample, way: dict[str, Any]) -> dict[str, np.ndarray]:
    """image, truth, prediction, error and uncertainty of one sample, (h, w, 3) uint8 each, predicted in this way."""
    image, target = dataset.load(sample)
    prediction = predictor.predict(image, uncertainty=True, **way)
    assert prediction.uncertainty is not None
    height, width = target.shape
    factor = min(1.0, CASE_SIDE / max(height, width))
    size = max(1, round(height * factor)), max(1, round(width * factor))
    small_target, small_pred = resize_label_map(target, size), resize_label_map(prediction.label_map, size)
    heat = (np.clip(prediction.uncertainty, 0, 1) * 255).astype(np.uint8)
    heat = cv2.resize(heat, (size[1], size[0]), interpolation=cv2.INTER_AREA)
    return {
        "image": resize_image(to_display(image), size),
        "truth": colourise(small_target, dataset.classes),
        "prediction": colourise(small_pred, dataset.classes),
        "error": error_map(small_pred, small_target, dataset.classes.ignore_index),
        "uncertainty": cv2.applyColorMap(heat, cv2.COLORMAP_INFERNO)[..., ::-1].copy(),
    }
