"""Everything that evaluation measures besides the confusion matrix: one call an image, then one table for the set."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from perpixel.errors import InputError, did_you_mean
from perpixel.labels import ClassTable
from perpixel.metrics import (
    BINS,
    CALIBRATION_DEFINITIONS,
    OBJECT_DEFINITIONS,
    SKELETON_DEFINITIONS,
    BoundaryRow,
    ObjectCounts,
    boundary_intervals,
    boundary_row,
    boundary_scores,
    calibration_counts,
    calibration_scores,
    connected_objects,
    exact_mean,
    match_f1,
    match_precision,
    match_recall,
    object_counts,
    skeleton_counts,
    thin_borders,
)


class Measures:
    """Boundaries, calibration, thin classes and objects of the images of one evaluation.

    Args:
        classes: of the data set.
        boundary: measure outlines.
        tolerance: in pixels, within which an outline is met; None is 0.75 % of each image's diagonal.
        thin: names of classes whose skeletons are compared (clDice).
        objects: name of the class whose connected parts are scored as objects (V_Rand, V_Info); None for none.
    Raises:
        InputError: an unknown class, a tolerance that is negative or for boundaries that are not measured.
    """

    def __init__(
        self,
        classes: ClassTable,
        *,
        boundary: bool = True,
        tolerance: float | None = None,
        thin: Sequence[str] = (),
        objects: str | None = None,
    ) -> None:
        if tolerance is not None and not boundary:
            raise InputError(f"tolerance {tolerance:g}: boundaries are not measured: leave one of the two out")
        if tolerance is not None and not 0 <= tolerance < float("inf"):
            raise InputError(f"tolerance is {tolerance}: give a distance in pixels, 0 or more")
        self.classes, self.boundary, self.tolerance = classes, boundary, tolerance
        self.thin = {name: _index(classes, name, "thin") for name in thin}
        self.objects = None if objects is None else _index(classes, objects, "objects")
        self.object_class = objects
        self.calibration = np.zeros((BINS, 3), np.int64)
        self.rows: list[BoundaryRow] = []
        self.skeletons: dict[str, list[np.ndarray]] = {name: [] for name in self.thin}
        self.parts: dict[str, list[ObjectCounts]] = {"thinned": [], "plain": []}

    def add(self, pred: np.ndarray, target: np.ndarray, confidence: np.ndarray) -> None:
        """Measure one image: its label map, the truth, and the probability of each pixel's class."""
        ids: dict[str, Any] = {"num_classes": self.classes.num_classes, "ignore_index": self.classes.ignore_index}
        self.calibration += calibration_counts(confidence, pred, target, ignore_index=self.classes.ignore_index)
        if self.boundary:
            self.rows.append(boundary_row(pred, target, tolerance=self.tolerance, **ids))
        for name, label in self.thin.items():
            self.skeletons[name].append(skeleton_counts(pred, target, label=label, **ids))
        if self.objects is not None:
            truth, found = connected_objects(target == self.objects), connected_objects(pred == self.objects)
            self.parts["thinned"].append(object_counts(thin_borders(found), truth))
            self.parts["plain"].append(object_counts(found, truth))

    def take(self, other: Measures) -> None:
        """Append the images that another process or machine measured.

        Scores are the same to the last bit however the images were shared out; intervals are where the images end in
        the same order, since they are drawn by their places in it.

        Raises:
            InputError: the other one measured something else.
        """
        if self._settings() != other._settings():
            raise InputError(f"measures differ: {self._settings()} and {other._settings()}: measure all images alike")
        self.calibration += other.calibration
        self.rows += other.rows
        for name, counts in other.skeletons.items():
            self.skeletons[name] += counts
        for kind, parts in other.parts.items():
            self.parts[kind] += parts

    def _settings(self) -> tuple[Any, ...]:
        classes = self.classes
        return (*classes.names, classes.ignore_index, self.boundary, self.tolerance, *self.thin, self.object_class)

    def columns(self, image: int) -> dict[str, float | None]:
        """What the table of images says of image number `image`."""
        if not self.boundary:
            return {}
        row = self.rows[image]
        return {"bf_score": _plain(row.bf_score), "hd95": _plain(row.hd95)}

    def add_to(self, result: dict[str, Any], *, seed: int, groups: Sequence[Hashable] | None = None) -> None:
        """Put the scores of all images into what scores.json holds."""
        if self.boundary:
            found = boundary_scores(self.rows, self.classes.names)
            result["scores"] |= found["scores"]
            for row, more in zip(result["per_class"], found["per_class"], strict=True):
                row.update(more)
            result["intervals"] |= boundary_intervals(self.rows, seed=seed, groups=groups)
            result["definitions"] |= found["definitions"]
            near = "0.75 % of the image's diagonal" if self.tolerance is None else f"{self.tolerance:g} pixels"
            result["boundary"] = {"near": near, "unit": "pixels"}
        result["calibration"] = calibration_scores(self.calibration).to_json()
        result["definitions"] |= CALIBRATION_DEFINITIONS
        if self.thin:
            result["thin"] = [_thin_row(name, np.stack(counts)) for name, counts in self.skeletons.items()]
            result["definitions"] |= SKELETON_DEFINITIONS
        if self.objects is not None:
            result["objects"] = self._objects()
            result["definitions"] |= OBJECT_DEFINITIONS

    def _objects(self) -> dict[str, Any]:
        thinned, plain = (ObjectCounts.join(self.parts[kind]) for kind in ("thinned", "plain"))
        rand, info = thinned.rand(), thinned.info()
        return {
            "class": self.object_class,
            "true_objects": len(thinned.target),
            "v_rand": _plain(rand.score),
            "v_rand_split": _plain(rand.split),
            "v_rand_merge": _plain(rand.merge),
            "v_info": _plain(info.score),
            "v_info_split": _plain(info.split),
            "v_info_merge": _plain(info.merge),
            "rand_error": _plain(1 - plain.rand().score),
        }


def _index(classes: ClassTable, name: str, option: str) -> int:
    names = list(classes.names)
    if name not in names:
        raise InputError(f"{option}: unknown class '{name}'{did_you_mean(name, names)}")
    return names.index(name)


def _thin_row(name: str, counts: np.ndarray) -> dict[str, Any]:
    """Scores of the skeleton pixels of all images together, and the mean of the images by themselves."""
    total = counts.sum(axis=0)
    values = {
        "cldice": match_f1(total),
        "topology_precision": match_precision(total),
        "topology_sensitivity": match_recall(total),
        "cldice_per_image": exact_mean(match_f1(counts)),
    }
    return {"name": name, **{key: _plain(value) for key, value in values.items()}}


def _plain(value: Any) -> float | None:
    return None if np.isnan(value) else float(value)
