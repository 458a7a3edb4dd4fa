"""From the files of a run to what the report's template prints: one function a section, plain values out."""

from __future__ import annotations

import base64
import json
import shlex
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from perpixel.apps.report_figures import CASE_PIXELS, SHEET_PIXELS, draw_reliability, draw_structures, embed_picture
from perpixel.apps.report_objects import draw_object_curves
from perpixel.apps.report_parts import RunParts
from perpixel.apps.wording import (
    format_duration,
    format_interval,
    format_large,
    format_rate,
    format_score,
    format_setting,
    format_way,
    is_number,
    main_score,
)

MAX_CLASSES = 30  # rows of the heat map; above, the classes with the most pixels are shown
MAX_CASES = 12
MAX_CONFUSIONS = 8
# What becomes of true and of predicted objects.
ERRORS = ("true", "matched", "missed", "false", "merged", "split")
SHEETS = ("image", "truth", "prediction")
PICTURES = ("image", "outlines", "truth", "prediction", "error", "uncertainty")
MAPS = ("outlines", "truth", "prediction", "error")
SCORES = (
    ("structure_dice", "structure Dice"),
    ("mask_ap", "mask AP"),
    ("matching_ap50", "AP50"),
    ("pq", "PQ"),
    ("f1_50", "F1 at IoU 0.5"),
    ("aji", "AJI"),
    ("mask_ap50", "mask AP at 0.5"),
    ("box_ap", "box AP"),
    ("boundary_iou", "boundary IoU"),
    ("miou", "mIoU"),
    ("mean_dice", "mean Dice"),
    ("pixel_accuracy", "pixel accuracy"),
    ("mean_accuracy", "mean accuracy"),
    ("frequency_weighted_iou", "frequency-weighted IoU"),
)
BOUNDARY_SCORES = (
    ("bf_score", "BF score"),
    ("boundary_miou", "boundary mIoU"),
    ("mean_nsd", "mean NSD"),
    ("mean_hd95", "mean HD95, pixels"),
    ("mean_asd", "mean distance, pixels"),
)
# Printed where an evaluation does not carry its own definitions.
DEFINITIONS = {
    "iou": "intersection over union: correct pixels / (true + predicted - correct pixels)",
    "dice": "2 x correct pixels / (true + predicted pixels)",
    "accuracy": "correct pixels / true pixels (recall)",
    "precision": "correct pixels / predicted pixels",
    "miou": "mean of IoU over the classes that occur",
    "mean_dice": "mean of Dice over the classes that occur",
    "pixel_accuracy": "share of all labelled pixels that are right",
    "mean_accuracy": "mean of accuracy over the classes that occur in the truth",
    "frequency_weighted_iou": "IoU weighted by how often the class occurs",
}


def model_name(parts: RunParts) -> str:
    """The architecture: what the bundle says, or the plan, or (perhaps "auto") the run's config."""
    planned = {str(line.get("setting")): line.get("value") for line in parts.plan}
    for source in (parts.bundle, planned, parts.config):
        model = source.get("model")
        name = model.get("name") if isinstance(model, Mapping) else model
        if name:
            return str(name)
    return "model"


def view_subtitle(parts: RunParts) -> str:
    """Model, data, number of images, date."""
    scores = parts.scores or {}
    words = [model_name(parts)]
    if scores.get("data"):
        words.append(f"evaluated on {Path(str(scores['data'])).name}")  # its name: a report is sent to others
    if is_number(scores.get("num_images")):
        noun = "volumes" if scores.get("spatial_dims") == 3 else "images"
        words.append(f"{scores['num_images']:,} {scores.get('split', '')} {noun}")
    if format_way(scores):
        words.append(format_way(scores))
    if scores.get("created"):
        words.append(str(scores["created"]).replace("T", " ").replace("+00:00", " UTC"))
    return " · ".join(words)


def view_headline(parts: RunParts) -> list[dict[str, str]]:
    """Tiles of the header: label, value, small print."""
    tiles = []
    if parts.scores is not None:
        split, intervals = str(parts.scores.get("split", "")), parts.scores.get("intervals") or {}
        for key, title in view_score_names(parts.scores)[:3]:
            value = format_score(parts.scores["scores"].get(key))
            tiles.append({"title": f"{split} {title}", "value": value, "note": format_interval(intervals.get(key))})
    else:
        best = best_validation(parts.log)
        if best is not None:
            key, title = main_score(best)
            note = "best on the validation images; not evaluated on test images yet"
            tiles.append({"title": f"validation {title}", "value": format_score(best[key]), "note": note})
    timing = view_timing(parts)
    if parts.parameters is not None:
        title = "parameters" if timing["trees"] is None else "stored numbers"
        tiles.append({"title": title, "value": format_large(parts.parameters), "note": model_name(parts)})
    if timing["training_s"] is not None:
        note = f"{timing['steps']:,} steps" if timing["trees"] is None else f"{timing['trees']:,} trees"
        tiles.append({"title": "training time", "value": format_duration(timing["training_s"]), "note": note})
    if timing["evaluation_rate"] is not None:
        note = f"{format_rate(timing['evaluation_megapixels'])} megapixels/s"
        value = f"{format_rate(timing['evaluation_rate'])}/s"
        noun = "volumes" if (parts.scores or {}).get("spatial_dims") == 3 else "images"
        tiles.append({"title": f"{noun} predicted", "value": value, "note": note})
    return tiles


def best_validation(log: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The validation with the highest score."""
    found = [event for event in log if event.get("kind") == "validation" and is_number(event.get(main_score(event)[0]))]
    return max(found, key=lambda event: event[main_score(event)[0]], default=None)


def view_score_names(scores: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    """(key, title) of the scores over all classes that an evaluation holds."""
    return [(key, title) for key, title in SCORES if scores is None or key in scores["scores"]]


def view_objects(scores: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Classes of objects, what became of the objects, and the curves; None for label maps."""
    if scores is None or scores.get("task") != "instances":
        return None
    colours = dict(zip(scores["classes"], scores.get("colours") or []))
    rows = [{**row, "colour": css_colour(colours.get(row["name"]))} for row in scores["per_class"]]
    errors = scores.get("errors") or {}
    return {
        "rows": rows,
        "errors": [(name, errors[name]) for name in ERRORS if name in errors],
        "min_score": scores.get("min_score"),
        "curves": draw_object_curves(scores.get("curves") or {}),
    }


def view_structures(scores: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Structures of volumes: means and deviations over the cases, and the Dice of every case; None for images."""
    rows = (scores or {}).get("structures") or []
    if scores is None or not rows:
        return None
    colours = dict(zip(scores["classes"], scores.get("colours") or []))
    shown = [{**row, "colour": css_colour(colours.get(row["name"]))} for row in rows]
    tolerance = scores.get("tolerance_mm")
    figure = draw_structures([(row["name"], row["colour"], row["dice_cases"]) for row in shown])
    return {"rows": shown, "tolerance_mm": tolerance, "has_distances": is_number(tolerance), "svg": figure}


def view_slices(folder: Path, scores: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """What the slice viewer needs of each case that has slices: their sheets as addresses, sizes and colours."""
    shown = []
    for case in ((scores or {}).get("cases") or [])[:MAX_CASES]:
        slices = case.get("slices")
        if not slices:
            continue
        sheets = {kind: _sheet_address(folder, slices["files"].get(kind)) for kind in SHEETS}
        if all(sheets.values()):
            facts = {key: slices[key] for key in ("shape", "columns", "spacing_mm")}
            shown.append({"title": f"{case['rank']}: {case['name']}", **facts, "sheets": sheets})
    return shown


def _sheet_address(folder: Path, name: Any) -> str | None:
    """A sheet of slices as it is: its grey values are numbers that must not change."""
    path = _inside(folder, name)
    if path is None or not path.is_file():
        return None
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()


def view_classes(scores: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row a class: scores, interval and colour; a class without a score (absent) keeps its row."""
    colours = scores.get("colours") or []
    total = sum(row.get("pixels") or 0 for row in scores["per_class"]) or 1
    rows = []
    for i, row in enumerate(scores["per_class"]):
        interval = row.get("interval")
        rows.append(
            {
                **{key: row.get(key) for key in ("name", "iou", "dice", "accuracy", "precision", "images")},
                "share": (row.get("pixels") or 0) / total,
                "interval": interval if format_interval(interval) else None,
                "colour": css_colour(colours[i] if i < len(colours) else None),
            }
        )
    return rows


def view_boundaries(scores: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Outlines of every class, and the means over classes; None where they were not measured."""
    rows = [row for row in (scores or {}).get("per_class") or [] if "bf" in row]
    if scores is None or not rows:
        return None
    colours, intervals = scores.get("colours") or [], scores.get("intervals") or {}
    keys = ("name", "bf", "boundary_iou", "nsd", "hd95", "asd", "one_sided_images")
    means = [
        {"key": key, "title": title, "value": scores["scores"].get(key), "interval": intervals.get(key)}
        for key, title in BOUNDARY_SCORES
    ]
    return {
        "rows": [
            {**{key: row.get(key) for key in keys}, "colour": css_colour(colours[i] if i < len(colours) else None)}
            for i, row in enumerate(rows)
        ],
        "means": means,
        "near": str((scores.get("boundary") or {}).get("near", "")),
    }


def view_calibration(scores: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The reliability diagram and its numbers; None where they were not measured."""
    found = (scores or {}).get("calibration") or {}
    figure = draw_reliability(found.get("bins") or [])
    if scores is None or figure is None:
        return None
    accuracy = scores["scores"].get("pixel_accuracy")
    return {**{key: found.get(key) for key in ("ece", "mce", "mean_confidence")}, "accuracy": accuracy, "svg": figure}


def view_special(scores: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """Thin classes and objects, as rows of name, value and definition."""
    rows: list[dict[str, Any]] = []
    definitions = view_definitions(scores)
    for thin in (scores or {}).get("thin") or []:
        for key, title in (
            ("cldice", "clDice"),
            ("topology_precision", "topology precision"),
            ("topology_sensitivity", "topology sensitivity"),
        ):
            name = f"{title} of {thin['name']}"
            rows.append({"title": name, "value": thin[key], "meaning": definitions.get(key, "")})
    objects = (scores or {}).get("objects") or {}
    for key, title in (("v_rand", "V_Rand"), ("v_info", "V_Info"), ("rand_error", "Rand error")):
        if key in objects:
            title = f"{title} of {objects['class']}"
            rows.append({"title": title, "value": objects[key], "meaning": definitions.get(key, "")})
    return rows


def class_colours(parts: RunParts) -> list[Any]:
    """[r, g, b] a class, from the evaluation or else the run's class table; empty where there is neither."""
    if parts.scores is not None and parts.scores.get("colours"):
        return list(parts.scores["colours"])
    return [entry.get("colour") for entry in parts.classes]


def css_colour(colour: Any) -> str:
    """[r, g, b] as a CSS colour; anything else is grey. Numbers only reach the style sheet."""
    if isinstance(colour, list | tuple) and len(colour) == 3 and all(is_number(value) for value in colour):
        return "rgb({}, {}, {})".format(*(min(255, max(0, int(value))) for value in colour))
    return "rgb(128, 128, 128)"


def view_confusion(scores: Mapping[str, Any]) -> dict[str, Any]:
    """Row-normalised heat map (row = truth) and the largest confusions in words."""
    names, matrix = [str(name) for name in scores["classes"]], scores["confusion"]
    sums = [sum(row) for row in matrix]
    shown = list(range(len(names)))
    if len(names) > MAX_CLASSES:
        shown = sorted(sorted(shown, key=lambda i: -sums[i])[:MAX_CLASSES])
    rows = [
        {
            "name": names[i],
            "cells": [
                {"share": matrix[i][j] / sums[i] if sums[i] else None, "pixels": matrix[i][j], "is_right": i == j}
                for j in shown
            ],
        }
        for i in shown
    ]
    pairs = [
        {"truth": names[i], "predicted": names[j], "share": matrix[i][j] / sums[i], "pixels": matrix[i][j]}
        for i in range(len(names))
        for j in range(len(names))
        if i != j and matrix[i][j]
    ]
    largest = sorted(pairs, key=lambda pair: -pair["share"])[:MAX_CONFUSIONS]
    return {"names": [names[j] for j in shown], "rows": rows, "largest": largest, "left_out": len(names) - len(shown)}


def view_pictures(scores: Mapping[str, Any] | None) -> list[str]:
    """Kinds of pictures that an evaluation has of its cases, in the order in which they stand."""
    files = [case.get("files") or {} for case in (scores or {}).get("cases") or []]
    optional = ("outlines", "uncertainty")
    return [kind for kind in PICTURES if kind not in optional or not files or any(kind in each for each in files)]


def view_cases(folder: Path, scores: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Best, median and worst cases, with their pictures embedded; a picture that is missing is None."""
    cases = []
    for case in (scores.get("cases") or [])[:MAX_CASES]:
        files = case.get("files") or {}
        pictures = {kind: _case_picture(folder, files.get(kind), kind) for kind in view_pictures(scores)}
        cases.append(
            {
                "name": case.get("name"),
                "rank": case.get("rank"),
                "title": "mean Dice" if "mean_dice" in case else "mean F1" if "measure" in case else "mIoU",
                "score": case.get("mean_dice", case.get("score", case.get("miou"))),
                "note": ", ".join(f"{case[name]} {name}" for name in ERRORS if name in case),
                "pictures": pictures,
            }
        )
    return cases


def _case_picture(folder: Path, name: Any, kind: str) -> str | None:
    path = _inside(folder, name)
    return None if path is None else embed_picture(path, max_side=CASE_PIXELS, is_map=kind in MAPS)


def _inside(folder: Path, name: Any) -> Path | None:
    """The file of an evaluation: a run from a stranger must not fetch the reader's own pictures."""
    if not isinstance(name, str):
        return None
    path = (folder / name).resolve()
    return path if path.is_relative_to(folder.resolve()) else None


def view_data(parts: RunParts) -> dict[str, Any] | None:
    """The fingerprint: facts, one row a class with its share of each split, and the sample sheet."""
    fingerprint = parts.fingerprint
    if not fingerprint:
        return None
    pixels: Mapping[str, list[int]] = fingerprint.get("class_pixels") or {}
    images: Mapping[str, list[int]] = fingerprint.get("class_images") or {}
    shares = {split: [count / (sum(counts) or 1) for count in counts] for split, counts in pixels.items()}
    largest = max((share for row in shares.values() for share in row), default=0) or 1
    colours = class_colours(parts)
    rows = [
        {
            "name": name,
            "colour": css_colour(colours[i]) if i < len(colours) else None,
            "shares": [{"share": shares[split][i], "length": shares[split][i] / largest} for split in shares],
            "images": [images[split][i] if split in images else None for split in shares],
        }
        for i, name in enumerate(fingerprint.get("class_names") or [])
    ]
    return {"facts": _data_facts(fingerprint), "splits": list(shares), "rows": rows, "sheet": _sheet(parts.path)}


def _data_facts(fingerprint: Mapping[str, Any]) -> list[tuple[str, str]]:
    counts = fingerprint.get("num_images") or {}
    facts = [("images", ", ".join(f"{count:,} {split}" for split, count in counts.items()))]
    sizes = fingerprint.get("sizes") or {}
    if {"min", "median", "max"} <= set(sizes):
        low, middle, high = (" x ".join(f"{side:g}" for side in sizes[key]) for key in ("min", "median", "max"))
        name = "depth x height x width" if len(sizes["median"]) == 3 else "height x width"
        facts.append((name, middle if low == high else f"{middle} in the middle, {low} to {high}"))
    facts.append(("channels", f"{fingerprint.get('channels')}, {fingerprint.get('dtype')}"))
    low_high = list(zip(fingerprint.get("value_low") or [], fingerprint.get("value_high") or []))
    if low_high:
        facts.append(("value range (0.5 to 99.5 %)", " | ".join(f"{low:g} to {high:g}" for low, high in low_high[:6])))
    if is_number(fingerprint.get("imbalance")):
        facts.append(("imbalance", f"{fingerprint['imbalance']:,.1f} (most frequent class over rarest, in pixels)"))
    facts.append(("layout", str(fingerprint.get("format", ""))))
    if fingerprint.get("digest"):
        facts.append(("digest", str(fingerprint["digest"])[:16]))
    return facts


def _sheet(run: Path) -> str | None:
    for path in (run / "check_sheet.png", run / "overlays" / "check_sheet.png"):
        if path.is_file():
            return embed_picture(path, max_side=SHEET_PIXELS, is_map=False)
    return None


def view_timing(parts: RunParts) -> dict[str, Any]:
    """Seconds and rates, None where unknown."""
    steps = [event for event in parts.log if event.get("kind") == "step"]
    validations = [event for event in parts.log if event.get("kind") == "validation"]
    elapsed = [event["elapsed_s"] for event in parts.log if is_number(event.get("elapsed_s"))]
    step_s = [event["step_s"] for event in steps if is_number(event.get("step_s"))]
    data_s = [event["data_s"] for event in steps if is_number(event.get("data_s"))]
    rates = [event["images_per_s"] for event in steps if is_number(event.get("images_per_s"))]
    timing = (parts.scores or {}).get("timing") or {}
    grown = next((event for event in parts.log if event.get("kind") == "grown"), {})
    return {
        "trees": grown.get("trees"),
        "training_s": max(elapsed, default=None),
        "steps": max((event["step"] for event in steps if is_number(event.get("step"))), default=0),
        "step_s": statistics.median(step_s) if step_s else None,
        "waiting": sum(data_s) / sum(step_s) if data_s and sum(step_s) else None,
        "training_rate": statistics.median(rates) if rates else None,
        "validation_s": sum(event["seconds"] for event in validations if is_number(event.get("seconds"))),
        "validations": len(validations),
        "evaluation_s": timing.get("seconds"),
        "evaluation_images": timing.get("images"),
        "evaluation_rate": timing.get("images_per_s"),
        "evaluation_megapixels": timing.get("megapixels_per_s"),
        "resumed": sum(event.get("kind") == "resume" for event in parts.log),
    }


def view_growth(parts: RunParts) -> list[tuple[str, str]]:
    """What a forest said of its growth, as pairs of words; empty for nets."""
    grown = next((event for event in parts.log if event.get("kind") == "grown"), {})
    facts = {name: value for name, value in grown.items() if name not in ("kind", "elapsed_s") and value is not None}
    rows = []
    for name, value in facts.items():
        if isinstance(value, Mapping):
            text = ", ".join(f"{key} {format_setting(each)}" for key, each in value.items())
        else:
            text = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else format_setting(value)
        rows.append((name.replace("_", " "), text))
    return rows


def view_usage(run: Path) -> dict[str, str]:
    """How to use the model, ready to paste."""
    quoted = shlex.quote(str(run))
    python = "\n".join(
        [
            "import perpixel",
            "",
            f"predictor = perpixel.load({str(run)!r})",
            'prediction = predictor.predict("photo.png")   # or an array of shape (height, width, channels)',
            "prediction.label_map                          # (height, width) class indices",
            "prediction.colour()                           # (height, width, 3) uint8, to look at",
        ]
    )
    shell = "\n".join(
        [
            f"perpixel predict {quoted} IMAGES --out predictions",
            f"perpixel evaluate {quoted} DATA --split test",
            f"perpixel train --resume {quoted} --extend 10m",
        ]
    )
    return {"python": python, "shell": shell}


def view_settings(parts: RunParts) -> list[tuple[str, str]]:
    """The resolved config as names and text."""
    return [(str(key), _setting(value)) for key, value in parts.config.items()]


def _setting(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def view_definitions(scores: Mapping[str, Any] | None) -> dict[str, str]:
    """What each number means: the evaluation's own words, ours where it has none."""
    own = (scores or {}).get("definitions") or {}
    return {**DEFINITIONS, **{str(key): str(text) for key, text in own.items()}}
