"""The steps of a comparison that run nets: train and judge one of them, then time all of them turn by turn."""

from __future__ import annotations

import csv
import math
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from perpixel.apps.compare_settings import entries_of, entry_config, read_settings, result_of
from perpixel.apps.reading import AnyDataset, choose_task, open_any
from perpixel.apps.report_parts import read_log
from perpixel.apps.wording import is_number, main_score
from perpixel.data import CheckResult, InstanceDataset, Sample
from perpixel.engine.run_folder import RunFolder
from perpixel.engine.volume_pictures import PredictedCase, plane_pictures
from perpixel.errors import InputError
from perpixel.files import read_json, write_json
from perpixel.images import resize_image, to_display, write_png
from perpixel.inference import AnyPredictor, Prediction, VolumePredictor
from perpixel.inference.instance_files import display_bright
from perpixel.labels import ClassTable, Instances, colourise, draw_objects, resize_label_map
from perpixel.planning import Plan

OnEvent = Callable[[dict[str, Any]], None]

# Every model is timed in so many turns, each of them at least so long or so many passes: what else the machine does
# for a while then falls on all of them.
TURNS, TURN_S, TURN_PASSES = 3, 0.5, 10
# Longest side of the pictures side by side.
PICTURE_SIDE = 420


@dataclass(frozen=True, eq=False)
class Loaded:
    """An image or a volume with its truth: `image` as its predictor takes it, `spacing_mm` of a volume."""

    image: np.ndarray
    target: np.ndarray | Instances
    spacing_mm: tuple[float, float, float] | None

    @classmethod
    def of(cls, dataset: AnyDataset, sample: Sample) -> Loaded:
        """Read a sample."""
        if isinstance(dataset, InstanceDataset) or dataset.spatial_dims == 2:
            image, target = dataset.load(sample)
            return cls(image, target, None)
        case = dataset.load_case(sample)
        assert case.label_map is not None
        return cls(case.image, case.label_map, case.spacing_mm)

    @property
    def size(self) -> tuple[int, ...]:
        """(H, W) or (D, H, W)."""
        return self.target.size if isinstance(self.target, Instances) else self.target.shape

    def predict(self, predictor: AnyPredictor) -> Prediction:
        """What a model says of it."""
        if isinstance(predictor, VolumePredictor):
            return predictor.predict(self.image, spacing_mm=self.spacing_mm)
        return predictor.predict(self.image)

    def pictures(self, table: ClassTable) -> dict[str, np.ndarray]:
        """The image and the truth."""
        if isinstance(self.target, Instances):
            shown = display_bright(self.image)
            return {"image": shown, "truth": draw_objects(shown, self.target.without_crowds(), table, legend=False)}
        if self.spacing_mm is not None:
            planes = self._planes(self.target, self.target, table)
            return {kind: planes[kind] for kind in ("image", "truth")}
        shown = resize_image(to_display(self.image), self._shown_size())
        return {"image": shown, "truth": colourise(resize_label_map(self.target, self._shown_size()), table)}

    def picture_of(self, prediction: Prediction, table: ClassTable) -> np.ndarray:
        """A label map in class colours; of a volume three planes; objects over their image."""
        if prediction.instances is not None:
            return draw_objects(display_bright(self.image), prediction.instances, table, legend=False)
        if self.spacing_mm is not None:
            assert not isinstance(self.target, Instances)
            return self._planes(self.target, prediction.label_map, table)["prediction"]
        return colourise(resize_label_map(prediction.label_map, self._shown_size()), table)

    def _planes(self, target: np.ndarray, label_map: np.ndarray, table: ClassTable) -> dict[str, np.ndarray]:
        assert self.spacing_mm is not None
        nowhere = np.zeros(self.size, np.float32)
        return plane_pictures(PredictedCase(self.image, target, label_map, nowhere, self.spacing_mm), table)

    def _shown_size(self) -> tuple[int, int]:
        height, width = self.size
        factor = min(1.0, PICTURE_SIDE / max(height, width))
        return max(1, round(height * factor)), max(1, round(width * factor))


def train_and_judge(folder: Path, label: str, *, on_event: OnEvent) -> dict[str, Any]:
    """Train one model (or go on with it), evaluate and report it; what is there already is kept.

    Returns:
        The result that compare.json will hold.
    """
    from perpixel.apps import api
    from perpixel.apps.training import finish_run, train_run

    settings = read_settings(folder)
    entry = next(each for each in entries_of(settings) if each.label == label)
    config = entry_config(settings, entry, folder)
    run = RunFolder(folder / label)
    if not run.config.is_file():
        known = CheckResult.from_json(read_json(folder / "check.json"))
        train_run(config, out=run.path, began=time.perf_counter(), on_event=on_event, known=known)
    elif not (run.bundle / "config.json").is_file():
        finish_run(run, on_event=on_event)
    if int(os.environ.get("LOCAL_RANK", "0")):
        return {"state": "done"}  # with several devices the first process does the rest
    if not (run.path / "evaluation" / settings["split"] / "scores.json").is_file():
        device = None if config.device == "auto" else config.device
        api.evaluate(run.path, split=settings["split"], device=device, on_event=on_event)
    api.report(run.path)
    return {"state": "done", **_facts(run, settings["split"])}


def _facts(run: RunFolder, split: str) -> dict[str, Any]:
    """Everything about a judged run that tables and charts show."""
    plan = Plan.from_json({"lines": run.read("plan.json")["lines"]})
    config, metrics = run.read("config.json"), read_json(run.bundle / "metrics.json")
    scores = read_json(run.path / "evaluation" / split / "scores.json")
    main, _ = main_score(scores["scores"])
    validations = [event for event in read_log(run.log) if event["kind"] == "validation" and is_number(event.get(main))]
    shown = ("scale", "crop", "batch_size", "learning_rate", "optimizer", "loss", "precision")
    return {
        "options": {name: value for name, value in plan["options"].items() if name != "weights" or value},
        "plan": {name: plan[name] for name in shown if name in plan},
        **_describe(run),
        **_length(run, plan, config, metrics),
        "curve": [[event["elapsed_s"], event["step"], event[main]] for event in validations],
        "num_images": scores["num_images"],
        "scores": scores["scores"],
        "intervals": scores["intervals"],
        "per_class": [
            {"name": row["name"], "iou": row.get("iou", row.get("mask_ap")), "interval": row.get("interval")}
            for row in scores["per_class"]
        ],
        "machine": _machine(config),
    }


def _length(run: RunFolder, plan: Plan, config: dict[str, Any], metrics: dict[str, Any]) -> dict[str, Any]:
    """How long it learnt, in steps (a forest has none), images and seconds."""
    if "trees" in metrics:
        seen = run.read("fingerprint.json")["num_images"]["train"]
        return {"steps": None, "best_step": None, "images_seen": seen, "training_s": metrics["seconds"]}
    return {
        "steps": metrics["steps"],
        "best_step": metrics["step"],
        "images_seen": metrics["steps"] * plan["batch_size"] * config["devices"],
        "training_s": round(metrics["seconds"] + run.read("plan.json")["spent_s"], 1),
    }


def _describe(run: RunFolder) -> dict[str, Any]:
    """Parameters, and the multiply-adds of a pass over the median image at the working scale."""
    from perpixel.inference import load_bundle
    from perpixel.models import FORESTS
    from perpixel.models.describe import describe

    model, config = load_bundle(run.bundle)
    sides = run.read("fingerprint.json")["sizes"]["median"]
    if config.volume is not None:
        sides = run.read("fingerprint.json")["volumes"]["resampled_sizes"]["median"]
    working = [max(1, round(side * config.scale)) for side in sides]
    if config.model in FORESTS:  # what it holds is counted in nodes, and what it does in comparisons
        return {"parameters": None, "multiply_adds": None, "working_size": working}
    margin = getattr(model, "margin", 0)
    size = model.fit_size(tuple(side + 2 * margin for side in working)) if margin else tuple(working)  # type: ignore[operator]
    try:
        described = describe(model, in_channels=config.channels, size=size)
        multiply_adds: int | None = described.multiply_adds
    except InputError:
        multiply_adds = None
    parameters = sum(value.numel() for value in model.parameters() if value.requires_grad)
    return {"parameters": parameters, "multiply_adds": multiply_adds, "working_size": working}


def _machine(config: dict[str, Any]) -> str:
    from perpixel.engine.hardware import find_hardware

    hardware = find_hardware(config["device"])
    threads = config["threads"]
    return f"{hardware.name}, {threads} threads" if hardware.accelerator == "cpu" else hardware.name


def measure(folder: Path, *, on_event: OnEvent) -> dict[str, Any]:
    """Time the predictions of all models that are done and let each predict the same images; writes measured.json."""
    settings = read_settings(folder)
    labels = [entry.label for entry in entries_of(settings) if result_of(folder, entry.label)["state"] == "done"]
    reading = {name: settings["reading"][name] for name in ("format", "group", "snap") if name in settings["reading"]}
    task = choose_task(settings["training"].get("task", "auto"), settings["models"][0]["model"])
    reading |= {"classes": folder / "classes.json", "splits": folder / "splits.json"}
    dataset = open_any(settings["data"], task=task, **reading)
    samples = dataset.split(settings["split"])
    device = settings["training"].get("device", "auto")
    speed, size = _time_all(folder, labels, Loaded.of(dataset, samples[0]), device, on_event)
    chosen = choose_images(folder, labels, settings["split"])
    pictures = _side_by_side(folder, labels, dataset, samples, chosen, device, on_event)
    measured = {"state": "done", "speed": speed, "size": size, "pictures": pictures}
    write_json(folder / "measured.json", measured)
    return measured


def _time_all(
    folder: Path, labels: Sequence[str], loaded: Loaded, device: str, on_event: OnEvent
) -> tuple[dict[str, Any], list[int]]:
    """Seconds that each model takes for one image, in fp32: median and least of all passes over all turns."""
    passes: dict[str, list[float]] = {label: [] for label in labels}
    total = TURNS * len(labels)
    for turn in range(TURNS):
        for number, label in enumerate(labels):
            passes[label] += _time_one(folder / label, loaded, device)
            done = turn * len(labels) + number + 1
            on_event({"kind": "progress", "done": done, "total": total, "text": f"time {label}"})
    megapixels = math.prod(loaded.size) / 1e6
    speed = {}
    for label, seconds in passes.items():
        median = statistics.median(seconds)
        speed[label] = {
            "ms": round(1000 * median, 3),
            "least_ms": round(1000 * min(seconds), 3),
            "megapixels_per_s": round(megapixels / median, 4),
            "passes": len(seconds),
        }
    return speed, list(loaded.size)


def _time_one(run: Path, loaded: Loaded, device: str) -> list[float]:
    """Seconds of each pass of one turn. One model is in memory at a time."""
    from perpixel.inference import load_bundle, make_predictor

    model, config = load_bundle(run)
    predictor = make_predictor(model, config, device=_torch_device(device), precision="fp32")
    loaded.predict(predictor)  # warms up
    seconds: list[float] = []
    while len(seconds) < TURN_PASSES and sum(seconds) < TURN_S:
        began = time.perf_counter()
        loaded.predict(predictor)  # the label map is on the CPU: a GPU has finished too
        seconds.append(time.perf_counter() - began)
    return seconds


def _torch_device(device: str) -> str:
    from perpixel.engine.hardware import find_hardware

    return find_hardware(device).accelerator


def choose_images(folder: Path, labels: Sequence[str], split: str) -> list[tuple[str, str, dict[str, float]]]:
    """(why, name, label -> score) of the images to show: easiest, typical and hardest for the models together, and the
    one that they disagree about most; no image twice."""
    table = {label: _read_scores(folder / label / "evaluation" / split / "per_image.csv") for label in labels}
    names = [name for name in table[labels[0]] if all(name in scores for scores in table.values())]
    rows = [(name, {label: table[label][name] for label in labels}) for name in names]
    if not rows:
        return []
    ranked = sorted(rows, key=lambda row: -statistics.fmean(row[1].values()))
    chosen = [("easiest", ranked[0]), ("typical", ranked[len(ranked) // 2]), ("hardest", ranked[-1])]
    if len(labels) > 1:
        spread = max(rows, key=lambda row: max(row[1].values()) - min(row[1].values()))
        chosen.append(("most disputed", spread))
    found: dict[str, tuple[str, str, dict[str, float]]] = {}
    for why, (name, scores) in chosen:
        found.setdefault(name, (why, name, scores))
    return list(found.values())


def _read_scores(path: Path) -> dict[str, float]:
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    # Of label maps, of volumes (their structures), of objects.
    key = next((name for name in ("miou", "mean_dice", "mean_f1") if rows and name in rows[0]), "miou")
    return {row["name"]: float(row[key]) for row in rows if row[key]}


def _side_by_side(
    folder: Path,
    labels: Sequence[str],
    dataset: AnyDataset,
    samples: Sequence[Sample],
    chosen: Sequence[tuple[str, str, dict[str, float]]],
    device: str,
    on_event: OnEvent,
) -> list[dict[str, Any]]:
    """Image, truth, and what each model says of it, as files in pictures/."""
    from perpixel.inference import load

    by_name = {sample.name: sample for sample in samples}
    rows: list[dict[str, Any]] = []
    loaded: list[Loaded] = []
    for number, (why, name, scores) in enumerate(chosen, 1):
        loaded.append(Loaded.of(dataset, by_name[name]))
        files = {kind: f"pictures/{number}_{kind}.png" for kind in ("image", "truth")}
        for kind, picture in loaded[-1].pictures(dataset.classes).items():
            write_png(folder / files[kind], picture)
        rows.append({"why": why, "name": name, "scores": scores, **files, "predictions": {}})
    for done, label in enumerate(labels, 1):
        predictor = load(folder / label, device=_torch_device(device))
        for number, (row, each) in enumerate(zip(rows, loaded), 1):
            row["predictions"][label] = f"pictures/{number}_by_{label}.png"
            found = each.picture_of(each.predict(predictor), dataset.classes)
            write_png(folder / row["predictions"][label], found)
        on_event({"kind": "progress", "done": done, "total": len(labels), "text": f"pictures of {label}"})
    return rows
