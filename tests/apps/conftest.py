"""Fixtures of the tests of apps: a run folder as training and evaluation leave it, drawn from a seed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

ROADS = ("sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist")
COLOURS = (
    (128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (60, 40, 222), (128, 128, 0),
    (192, 128, 128), (64, 64, 128), (64, 0, 128), (64, 64, 0), (0, 128, 192),
)  # fmt: skip
SIZE = (120, 160)


@pytest.fixture
def fake_run(tmp_path: Path) -> Callable[..., Path]:
    """Makes a run folder: fake_run(names=..., evaluated=..., validations=..., absent=..., seed=...)."""
    return lambda **settings: make_run(tmp_path / "runs" / "roads", **settings)


def make_run(
    folder: Path,
    *,
    names: tuple[str, ...] = ROADS,
    evaluated: bool = True,
    validations: int = 10,
    absent: int | None = None,
    seed: int = 0,
) -> Path:
    """Write a run with `names` as classes; `absent` is a class that the test images do not have."""
    rng = np.random.default_rng(seed)
    write(
        folder / "config.json", {"data": "data/camvid", "model": "unet", "options": {"encoder": "resnet34"}, "seed": 0}
    )
    classes = [{"name": name, "colour": list(COLOURS[i % 11]), "values": [i]} for i, name in enumerate(names)]
    write(folder / "classes.json", {"classes": classes})
    write(folder / "plan.json", {"lines": _plan()})
    write(folder / "fingerprint.json", _fingerprint(names))
    write(folder / "check.json", {"problems": [_problem()]})
    write_log(folder / "log.jsonl", _log(rng, len(names), validations))
    if evaluated:
        write(
            folder / "evaluation" / "test" / "scores.json", _scores(folder / "evaluation" / "test", names, absent, rng)
        )
    return folder


def write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def write_log(path: Path, events: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(event) + "\n" for event in events))


def _plan() -> list[dict[str, Any]]:
    return [
        {
            "setting": "model",
            "value": "unet",
            "reason": "367 images at 480x360 on 2 cores: small decoder, strong encoder",
        },
        {
            "setting": "crop",
            "value": [256, 256],
            "reason": "8 crops a step fill the cores and keep 5 car lengths of context",
        },
        {
            "setting": "class_weights",
            "value": "sqrt_inverse",
            "reason": "imbalance 109: bicyclist has 0.3 % of the pixels",
        },
    ]


def _problem() -> dict[str, Any]:
    return {
        "severity": "warning",
        "code": "rare_class",
        "file": None,
        "message": "class bicyclist has 0.29 % of the training pixels",
        "count": 1,
        "remedy": "expect a low score, or add images of it",
    }


def _frequencies(count: int) -> np.ndarray:
    weights = 0.62 ** np.arange(count)
    return weights / weights.sum()


def _fingerprint(names: tuple[str, ...]) -> dict[str, Any]:
    shares = _frequencies(len(names))
    images = {"train": 367, "val": 101, "test": 233}
    return {
        "format": "split folders (images/ + masks/)",
        "num_images": images,
        "sizes": {"min": [360, 480], "median": [360, 480], "max": [360, 480]},
        "channels": 3,
        "dtype": "uint8",
        "value_low": [3.0, 4.0, 6.0],
        "value_high": [255.0, 255.0, 255.0],
        "class_names": list(names),
        "class_pixels": {split: (shares * n * 172800).astype(int).tolist() for split, n in images.items()},
        "class_images": {split: [max(1, round(n * min(1, 4 * s))) for s in shares] for split, n in images.items()},
        "imbalance": 109.3,
        "groups": 5,
        "digest": "6f1d" * 16,
    }


def _log(rng: np.random.Generator, num_classes: int, validations: int) -> list[dict[str, Any]]:
    steps = 400
    events: list[dict[str, Any]] = [{"kind": "start", "total_steps": steps, "steps_per_epoch": 46}]
    for step in range(1, steps + 1):
        loss = 2.2 * np.exp(-step / 120) + 0.35 + 0.12 * rng.standard_normal()
        lr = 1e-3 * np.sin(np.pi * step / (steps + 1))
        timing = {"images_per_s": 6.4, "data_s": 0.012, "step_s": 1.25, "elapsed_s": 1.3 * step}
        events.append({"kind": "step", "step": step, "loss": float(abs(loss)), "lr": float(lr), **timing})
        if validations and step % (steps // validations) == 0:
            miou = float(0.62 - 0.5 * np.exp(-step / 130) + 0.02 * rng.standard_normal())
            more = {"iou": [miou] * num_classes, "seconds": 5.1, "is_best": True, "elapsed_s": 1.3 * step}
            events.append({"kind": "validation", "step": step, "miou": miou, "pixel_accuracy": 0.8, **more})
    events.append({"kind": "end", "step": steps, "score": 0.61, "seconds": 575.0})
    return events


def _scores(folder: Path, names: tuple[str, ...], absent: int | None, rng: np.random.Generator) -> dict[str, Any]:
    count = len(names)
    truth = (_frequencies(count) * 4e7).astype(int)
    mixing = rng.dirichlet(np.full(count, 0.35), size=count) * 0.4 + 0.6 * np.eye(count)
    if count == 1:
        mixing = np.ones((1, 1))
    matrix = np.floor(truth[:, None] * mixing).astype(int)
    if absent is not None:
        matrix[absent] = 0
        matrix[:, absent] = 0
    per_class = [_class_row(name, i, matrix) for i, name in enumerate(names)]
    ious = [row["iou"] for row in per_class if row["iou"] is not None]
    miou, accuracy = sum(ious) / len(ious), float(np.trace(matrix) / matrix.sum())
    scores = {
        "miou": miou,
        "mean_dice": miou + 0.12,
        "pixel_accuracy": accuracy,
        "mean_accuracy": miou + 0.1,
        "frequency_weighted_iou": accuracy - 0.1,
    }
    return {
        "split": "test",
        "num_images": 233,
        "classes": list(names),
        "colours": [list(COLOURS[i % len(COLOURS)]) for i in range(count)],
        "confusion": matrix.tolist(),
        "definitions": {"iou": "n_cc / (t_c + p_c - n_cc)"},
        "scores": scores,
        "intervals": {key: [value - 0.02, value + 0.02] for key, value in scores.items()},
        "per_class": per_class,
        "cases": [
            _case(folder, i, rank, 0.8 - 0.2 * i, count, rng) for i, rank in enumerate(("best", "median", "worst"))
        ],
        "timing": {"images": 233, "seconds": 21.4, "images_per_s": 10.9, "megapixels_per_s": 1.88},
        "data": "data/camvid",
        "bundle": "runs/camvid/bundle",
        "created": "2026-01-02 10:11",
    }


def _class_row(name: str, i: int, matrix: np.ndarray) -> dict[str, Any]:
    right, truth, predicted = int(matrix[i, i]), int(matrix[i].sum()), int(matrix[:, i].sum())
    if truth + predicted == 0:
        empty = dict.fromkeys(("iou", "dice", "accuracy", "precision", "interval"))
        return {"name": name, "pixels": 0, "images": 0, **empty}
    iou = right / (truth + predicted - right)
    return {
        "name": name,
        "iou": iou,
        "dice": 2 * right / (truth + predicted),
        "accuracy": right / truth if truth else None,
        "precision": right / predicted if predicted else None,
        "pixels": truth,
        "images": 200 - i,
        "interval": [max(0, iou - 0.03 - 0.005 * i), min(1, iou + 0.03 + 0.005 * i)],
    }


def _case(folder: Path, number: int, rank: str, miou: float, count: int, rng: np.random.Generator) -> dict[str, Any]:
    rows, cols = np.mgrid[: SIZE[0], : SIZE[1]]
    truth = (rows // 24 + (cols // 40) * 2 + number) % count
    prediction = np.roll(truth, 3 + 4 * number, axis=1)
    palette = np.array(COLOURS, np.uint8)[np.arange(count) % len(COLOURS)]
    noise = rng.integers(0, 60, (*SIZE, 3))
    uncertainty = (255 * np.exp(-np.abs((cols % 40) - 3) / 4)).astype(np.uint8)
    error = np.where((truth == prediction)[..., None], (40, 44, 52), (239, 68, 68))
    pictures = {
        "image": np.clip(palette[truth] * 0.6 + noise + 30, 0, 255),
        "truth": palette[truth],
        "prediction": palette[prediction],
        "error": error,
        "uncertainty": np.repeat(uncertainty[..., None], 3, 2),
    }
    files = {}
    for kind, picture in pictures.items():
        files[kind] = f"cases/{rank}_{kind}.png"
        (folder / "cases").mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture.astype(np.uint8)).save(folder / files[kind])
    return {"name": f"Seq05VD_f0{number}230", "rank": rank, "miou": miou, "files": files}
