"""The outcome of a comparison as one document (compare.json) and one table (compare.csv)."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from perpixel.apps.compare_settings import result_of
from perpixel.apps.wording import main_score
from perpixel.files import read_json, write_text

FORMAT = 1


def assemble(folder: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """compare.json from the files of a comparison, finished or not; models in the order in which they were named."""
    path = folder / "measured.json"
    measured = read_json(path) if path.is_file() else {}
    check = read_json(folder / "check.json")["fingerprint"]
    rows = []
    for entry in settings["models"]:
        label = entry["label"]
        result = result_of(folder, label)
        speed = (measured.get("speed") or {}).get(label)
        rows.append({**entry, "given": entry["options"], **result, "run": label, "speed": speed})
    return {
        "format": FORMAT,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "data": settings["data"],
        "digest": check["digest"],
        "split": settings["split"],
        "num_images": check["num_images"],
        "size": measured.get("size"),
        "settings": {**settings["training"], **settings["reading"]},
        "classes": read_json(folder / "classes.json")["classes"],
        "models": rows,
        "pictures": measured.get("pictures") or [],
    }


def ranked(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The models, best test score first; those that failed or wait come last."""
    main = score_key(document)

    def key(row: Mapping[str, Any]) -> tuple[bool, float]:
        score = (row.get("scores") or {}).get(main)
        return (row["state"] != "done", -(score if score is not None else -1.0))

    return sorted(document["models"], key=key)


def score_key(document: Mapping[str, Any]) -> str:
    """The name of the score that the models are ranked by: mIoU of images, structure Dice of volumes."""
    return main_score(next((row["scores"] for row in document["models"] if row.get("scores")), {}))[0]


def write_table(path: Path, document: Mapping[str, Any]) -> Path:
    """compare.csv: one row a model, best first; a cell is empty where there is no number."""
    names = [entry["name"] for entry in document["classes"]]
    main = score_key(document)
    rows = [_row(row, names, main) for row in ranked(document)]
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return write_text(path, text.getvalue())


def _row(row: Mapping[str, Any], names: list[str], main: str) -> dict[str, Any]:
    plan, scores, speed = row.get("plan") or {}, row.get("scores") or {}, row.get("speed") or {}
    low, high = (row.get("intervals") or {}).get(main) or (None, None)
    ious = {each["name"]: each["iou"] for each in row.get("per_class") or []}
    size = plan.get("crop")
    return {
        "label": row["label"],
        "model": row["model"],
        "options": json.dumps(row["options"], ensure_ascii=False),
        "state": row["state"],
        "parameters": row.get("parameters"),
        "multiply_adds": row.get("multiply_adds"),
        "scale": plan.get("scale"),
        "crop": "x".join(map(str, size)) if size else None,
        "batch_size": plan.get("batch_size"),
        "learning_rate": plan.get("learning_rate"),
        "steps": row.get("steps"),
        "images_seen": row.get("images_seen"),
        "training_s": row.get("training_s"),
        main: scores.get(main),
        f"{main}_low": low,
        f"{main}_high": high,
        "miou": scores.get("miou"),
        "pixel_accuracy": scores.get("pixel_accuracy"),
        "mean_dice": scores.get("mean_dice"),
        "prediction_ms": speed.get("ms"),
        "megapixels_per_s": speed.get("megapixels_per_s"),
        **{f"iou {name}": ious.get(name) for name in names},
        "reason": row.get("reason"),
    }
