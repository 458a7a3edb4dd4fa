"""Results as terminal screens: tables, then what was made, where, and the command to type next."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from perpixel.apps.wording import (
    format_count,
    format_duration,
    format_interval,
    format_large,
    format_length,
    format_rate,
    format_score,
    format_setting,
    format_share,
    format_way,
    is_number,
    main_score,
    plural,
    printable,
)

PIPE_WIDTH = 120  # columns where there is no terminal to ask
BAR_CELLS = 20
EXPLAINED_CLASSES = 8
SEVERITY_STYLES = {"error": "bold red", "warning": "yellow", "info": "cyan"}
SCORE_TITLES = {
    "structure_dice": "structure Dice",
    "mask_ap": "mask AP",
    "mask_ap50": "mask AP at IoU 0.5",
    "box_ap": "box AP",
    "matching_ap50": "AP50 = TP/(TP+FP+FN)",
    "matching_ap": "the same, mean over IoU",
    "f1_50": "F1 at IoU 0.5",
    "pq": "PQ",
    "aji": "AJI",
    "miou": "mIoU",
    "mean_dice": "mean Dice",
    "pixel_accuracy": "pixel accuracy",
    "mean_accuracy": "mean accuracy",
    "frequency_weighted_iou": "frequency-weighted IoU",
}
# The definitions in full are in scores.json and in the report.
MEANING = (
    "IoU: correct pixels over true or predicted ones, counted over the whole split; mIoU: mean over the classes that "
    "occur; accuracy: share of a class's true pixels that are found; precision: share of its predicted ones that are so"
)
BOUNDARY_TITLES = {"bf_score": "BF score", "boundary_miou": "boundary mIoU", "mean_nsd": "mean NSD"}
IMAGE_WORDS = ("images", "height x width", "pixels")
MODALITIES = {
    "ct": "CT (one scale for all cases)",
    "mr": "MR (each case normalised by itself)",
    "other": "neither CT nor MR (each case normalised by itself)",
}
PAIR_TITLES = {"v_rand": "V_Rand", "v_info": "V_Info"}


def make_console(file: TextIO | None = None) -> Console:
    """A console on standard output (or `file`); plain and 120 wide where it is no terminal."""
    stream = file or sys.stdout
    is_terminal = bool(getattr(stream, "isatty", lambda: False)())
    return Console(file=stream, highlight=False, emoji=False, markup=False, width=None if is_terminal else PIPE_WIDTH)


def command(*words: object) -> str:
    """A command line that can be pasted into a shell: words with blanks or quotes are quoted."""
    return " ".join(shlex.quote(printable(word)) for word in words)


def end(console: Console, made: Iterable[tuple[str, object]], next_commands: Sequence[str]) -> None:
    """The last lines of every command: what was made, where, and what to type next."""
    console.print()
    for what, where in made:
        console.print(Text.assemble((f"{what:<12}", "bold"), printable(where)), soft_wrap=True)
    for i, line in enumerate(next_commands):
        console.print(Text.assemble((f"{'next' if i == 0 else '':<12}", "bold"), (line, "green")), soft_wrap=True)


def show_check(console: Console, result: Any) -> None:
    """The fingerprint, the classes and the problems of a CheckResult."""
    _show_fingerprint(console, result.fingerprint)
    _show_classes(console, result.fingerprint)
    show_problems(console, result.problems)


def _show_fingerprint(console: Console, fingerprint: Any) -> None:
    table = _facts()
    splits = ", ".join(f"{name} {count:,}" for name, count in fingerprint.num_images.items())
    is_volume = fingerprint.spatial_dims == 3
    noun, sides, unit = ("volumes", "depth x height x width", "voxels") if is_volume else IMAGE_WORDS
    table.add_row(noun, f"{sum(fingerprint.num_images.values()):,}  ({printable(splits)})")
    table.add_row("layout", printable(fingerprint.format))
    table.add_row(sides, _sizes(fingerprint.sizes))
    if fingerprint.volumes is not None:
        _show_spacing(table, fingerprint.volumes)
    table.add_row("channels", f"{fingerprint.channels}, {fingerprint.dtype}")
    table.add_row("value range", _value_ranges(fingerprint, unit))
    if fingerprint.volumes is not None:
        _show_foreground(table, fingerprint.volumes)
    if fingerprint.instances is not None:
        _show_object_facts(table, fingerprint.instances)
    if fingerprint.groups:
        table.add_row("groups", f"{fingerprint.groups:,}")
    if is_number(fingerprint.imbalance):
        table.add_row("imbalance", f"{fingerprint.imbalance:,.1f}  (most frequent class over rarest, in {unit})")
    console.print(table)


def _show_spacing(table: Table, volumes: Any) -> None:
    spacing = {key: [round(side, 3) for side in sides] for key, sides in volumes.spacing_mm.items()}
    table.add_row("voxel size", f"{_sizes(spacing)} mm")
    if spacing["min"] != spacing["max"]:
        target = "x".join(f"{side:.3g}" for side in volumes.target_spacing_mm)
        table.add_row("resampled", f"{_sizes(volumes.resampled_sizes)} at {target} mm")


def _show_object_facts(table: Table, facts: Any) -> None:
    empty = f", {facts.empty_images:,} images without" if facts.empty_images else ""
    many = f"{facts.objects_per_image:g} in the median image, at most {facts.most_objects:,}"
    table.add_row("train objects", f"{facts.objects:,}: {many}{empty}")
    sides = (
        f"{facts.median_side:.0f} pixels a side in the middle, boxes of {facts.small_box:.0f} to {facts.large_box:.0f}"
    )
    table.add_row("their size", sides)
    shares = f"{facts.contact_share:.0%} touch another one, {facts.overlap_share:.0%} overlap"
    table.add_row("their place", f"{shares}, {facts.frame_share:.0%} at the frame")


def _show_foreground(table: Table, volumes: Any) -> None:
    """Modality of each channel, and the values inside the classes that CT is normalised by."""
    table.add_row("modality", " | ".join(MODALITIES[modality] for modality in volumes.modalities))
    for modality, values in zip(volumes.modalities, volumes.foreground):
        if modality == "ct":
            ends = f"{values.low:g} to {values.high:g}, mean {values.mean:.4g}, deviation {values.std:.4g}"
            table.add_row("in the classes", ends)


def _sizes(sizes: Mapping[str, Sequence[int]]) -> str:
    least, middle, most = (tuple(sizes[key]) for key in ("min", "median", "max"))
    text, low, high = ("x".join(f"{side:g}" for side in sides) for sides in (middle, least, most))
    return text if low == high else f"{text} in the middle, {low} to {high}"


def _value_ranges(fingerprint: Any, unit: str) -> str:
    ranges = [f"{low:g} to {high:g}" for low, high in zip(fingerprint.value_low, fingerprint.value_high)]
    shown = ranges[:1] if len(set(ranges)) == 1 else ranges[:6]
    return " | ".join(shown) + (" | ..." if len(ranges) > len(shown) > 1 else "") + f"  (0.5 % to 99.5 % of the {unit})"


def _show_classes(console: Console, fingerprint: Any) -> None:
    splits = list(fingerprint.class_pixels)
    is_volume = fingerprint.spatial_dims == 3
    parts, wholes = ("voxels", "volumes") if is_volume else ("pixels", "images")
    table = _table("class", *[f"{split} {parts}" for split in splits], *[f"{split} {wholes}" for split in splits], "")
    table.columns[-1].justify = "left"
    totals = {split: sum(fingerprint.class_pixels[split]) for split in splits}
    largest = max((max(fingerprint.class_pixels[s], default=0) / (totals[s] or 1) for s in splits), default=0) or 1
    for i, name in enumerate(fingerprint.class_names):
        shares = [fingerprint.class_pixels[split][i] / (totals[split] or 1) for split in splits]
        cells = [format_share(share) for share in shares]
        bar = Text("█" * max(int(bool(shares and shares[0])), round(BAR_CELLS * shares[0] / largest)), style="blue")
        images = [format_count(fingerprint.class_images[split][i]) for split in splits]
        table.add_row(printable(name), *cells, *images, bar)
    console.print(table)


def show_problems(console: Console, problems: Sequence[Any]) -> None:
    """Each problem with its file, value, count and remedy, errors first."""
    console.print()
    if not problems:
        console.print(Text("no problems found", style="green"))
        return
    order = {severity: i for i, severity in enumerate(SEVERITY_STYLES)}
    for problem in sorted(problems, key=lambda p: order.get(p.severity, len(order))):
        style = SEVERITY_STYLES.get(problem.severity, "")
        times = f" ({problem.count:,} times)" if problem.count > 1 else ""
        where = f"{printable(problem.file)}: " if problem.file else ""
        console.print(
            Text.assemble((f"{problem.severity:<8}", style), where, printable(problem.message), times), soft_wrap=True
        )
        if problem.remedy:
            console.print(Text(f"{'':<8}{printable(problem.remedy)}", style="dim"), soft_wrap=True)
    counts = {severity: sum(p.severity == severity for p in problems) for severity in SEVERITY_STYLES}
    parts = [plural(n, severity if severity != "info" else "note") for severity, n in counts.items() if n]
    console.print(Text(", ".join(parts), style="bold"))


def show_plan(console: Console, lines: Sequence[Mapping[str, Any]]) -> None:
    """The settings of a plan, each with its reason."""
    table = _table("setting", "value", "reason")
    for column in table.columns[1:]:
        column.justify = "left"
        column.overflow = "fold"
    for line in lines:
        table.add_row(
            printable(line["setting"]),
            Text(format_setting(line["value"]), style="bold"),
            printable(line["reason"]),
        )
    console.print(table)


def show_scores(console: Console, scores: Mapping[str, Any]) -> None:
    """Headline scores with their intervals, then one row a class, of a scores.json."""
    table = _facts()
    noun = "volumes" if scores.get("spatial_dims") == 3 else "images"
    table.add_row(noun, f"{format_count(scores.get('num_images'))}  (split {printable(scores.get('split', '?'))})")
    if format_way(scores):
        table.add_row("predicted by", format_way(scores))
    intervals = scores.get("intervals") or {}
    main, _ = main_score(scores["scores"])
    for key, title in (SCORE_TITLES | BOUNDARY_TITLES).items():
        if key not in scores["scores"]:
            continue
        interval = format_interval(intervals.get(key))
        style = "bold green" if key == main else ""
        table.add_row(
            title,
            Text.assemble(
                (format_score(scores["scores"].get(key)), style), (f"  {interval}" if interval else "", "dim")
            ),
        )
    _add_further_scores(table, scores)
    console.print(table)
    if intervals:
        over = scores.get("intervals_over", "images")
        console.print(Text(f"ranges: 95 % bootstrap intervals over {over}", style="dim"))
    if scores.get("task") == "instances":
        return _show_objects(console, scores)
    if scores.get("structures"):
        _show_structures(console, scores)
    _show_class_scores(console, scores.get("per_class") or [])
    console.print(Text(MEANING, style="dim"))
    _show_boundaries(console, scores)


def _add_further_scores(table: Table, scores: Mapping[str, Any]) -> None:
    """Calibration, thin classes and objects, where they were measured."""
    calibration = scores.get("calibration") or {}
    if is_number(calibration.get("ece")):
        confidence = format_score(calibration.get("mean_confidence"))
        table.add_row("calibration error", f"{format_score(calibration['ece'])}  (ECE; mean confidence {confidence})")
    for row in scores.get("thin") or []:
        sides = f"precision {format_score(row['topology_precision'])}, "
        sides += f"sensitivity {format_score(row['topology_sensitivity'])}"
        table.add_row(f"clDice of {printable(row['name'])}", f"{format_score(row['cldice'])}  ({sides})")
    objects = scores.get("objects") or {}
    for key, title in PAIR_TITLES.items():
        if key in objects:
            sides = f"split {format_score(objects[f'{key}_split'])}, merge {format_score(objects[f'{key}_merge'])}"
            name = printable(objects["class"])
            table.add_row(f"{title} of {name}", f"{format_score(objects[key])}  ({sides})")
    if objects:
        table.add_row("Rand error", f"{format_score(objects['rand_error'])}  (borders as they are)")


def _show_class_scores(console: Console, rows: Sequence[Mapping[str, Any]]) -> None:
    table = _table("class", "IoU", "Dice", "accuracy", "precision", "images", "")
    table.columns[-1].justify = "left"
    for row in rows:
        value = row.get("iou")
        bar = Text("█" * round(BAR_CELLS * value) if is_number(value) else "", style="blue")
        cells = [format_score(row.get(key)) for key in ("iou", "dice", "accuracy", "precision")]
        table.add_row(printable(row["name"]), *cells, format_count(row.get("images")), bar)
    console.print(table)


def _show_objects(console: Console, scores: Mapping[str, Any]) -> None:
    """One row a class of objects, and what became of all of them."""
    columns = {"true": "true", "predicted": "predicted", "mask_ap": "mask AP", "mask_ap50": "at 0.5"}
    columns |= {"box_ap": "box AP", "matching_ap50": "AP50", "f1_50": "F1 at 0.5", "f1_75": "at 0.75"}
    columns |= {"pq": "PQ", "aji": "AJI"}
    table = _table("class", *columns.values())
    for row in scores["per_class"]:
        counts = [format_count(row.get(key)) for key in ("true", "predicted")]
        table.add_row(printable(row["name"]), *counts, *[format_score(row.get(key)) for key in list(columns)[2:]])
    console.print(table)
    errors = scores.get("errors") or {}
    told = ", ".join(f"{errors[name]:,} {name}" for name in ("true", "matched", "missed", "false", "merged", "split"))
    console.print(Text(f"objects at IoU 0.5: {told}"))
    note = "mask AP: COCO's, ranked by score, mean over IoU 0.5 to 0.95; AP50: of objects matched one to one, "
    note += f"TP/(TP+FP+FN) at IoU 0.5, from score {scores.get('min_score', 0):g} on"
    console.print(Text(note, style="dim"))


def _show_structures(console: Console, scores: Mapping[str, Any]) -> None:
    """One row a structure of volumes: means and standard deviations over the cases."""
    has_distances = is_number(scores.get("tolerance_mm"))
    columns = [("dice", "Dice"), ("iou", "IoU")]
    if has_distances:
        columns += [("hd95_mm", "HD95 mm"), ("asd_mm", "mean distance mm"), ("nsd", "NSD")]
    table = _table("structure, mean of cases", *[title for _, title in columns], "true ml", "predicted ml", "cases")
    for row in scores["structures"]:
        cells = [_mean_and_deviation(row, key) for key, _ in columns]
        volumes = [_mean_and_deviation(row, key) for key in ("true_ml", "predicted_ml")]
        table.add_row(printable(row["name"]), *cells, *volumes, format_count(row["cases"]))
    console.print(table)
    note = "structure Dice: mean of the first column; in brackets: standard deviation over the cases"
    if has_distances:
        note += f"; NSD: share of the surfaces that lie within {scores['tolerance_mm']:g} mm of each other"
    console.print(Text(note, style="dim"))


def _mean_and_deviation(row: Mapping[str, Any], key: str) -> str:
    return f"{format_score(row.get(key))} ({format_score(row.get(f'{key}_std'), 2)})"


def _show_boundaries(console: Console, scores: Mapping[str, Any]) -> None:
    """One row a class about its outlines, where they were measured."""
    rows = [row for row in scores.get("per_class") or [] if "bf" in row]
    if not rows:
        return
    table = _table("outlines of", "BF", "boundary IoU", "NSD", "HD95 px", "mean distance px", "one-sided")
    for row in rows:
        shares = [format_score(row.get(key)) for key in ("bf", "boundary_iou", "nsd")]
        lengths = [format_length(row.get(key)) for key in ("hd95", "asd")]
        table.add_row(printable(row["name"]), *shares, *lengths, format_count(row.get("one_sided_images")))
    console.print(table)
    near = (scores.get("boundary") or {}).get("near", "")
    note = f"BF, NSD: outlines met within {near}; boundary IoU: of bands along them; HD95: 95 % of each lies nearer; "
    note += "one-sided: images in which only truth or prediction has the class, their distance is the diagonal"
    console.print(Text(note, style="dim"))


def show_temperature(console: Console, result: Mapping[str, Any]) -> None:
    """The temperature and what it changed."""
    table = _facts()
    table.add_row("temperature", Text(f"{result['temperature']:g}", style="bold green"))
    pixels = f"{result['pixels']:,} pixels of {result['images']:,} {printable(result['split'])} images"
    table.add_row("chosen on", pixels)
    for key, title in (("nll", "negative log-likelihood"), ("ece", "calibration error")):
        before, after = (format_score(result[f"{key}_{when}"]) for when in ("before", "after"))
        table.add_row(title, f"{before} before, {after} after")
    console.print(table)


def show_crf(console: Console, result: Mapping[str, Any]) -> None:
    """What the search of the CRF's settings found."""
    table = _facts()
    interval = format_interval(result["interval"])
    verdict = "it helps" if result["helps"] else "no sure gain"
    style = "bold green" if result["helps"] else "bold"
    table.add_row("gain in mIoU", Text.assemble((f"{result['gain']:+.3f}", style), (f"  {interval}: {verdict}", "")))
    before, after = (format_score(result[f"miou_{when}"]) for when in ("before", "after"))
    table.add_row("mIoU", f"{before} without, {after} with")
    images = f"{result['images']:,} {printable(result['split'])} images"
    table.add_row("on", f"{images}, each half scored under what is best on the other")
    table.add_row("settings tried", f"{len(result['tried'])}")
    for name in ("bilateral_weight", "bilateral_width", "bilateral_range", "spatial_weight", "spatial_width"):
        table.add_row(f"best {name}", format_setting(result["settings"][name]))
    console.print(table)


def show_training(console: Console, metrics: Mapping[str, Any]) -> None:
    """The best validation of a finished training, the content of a bundle's metrics.json."""
    table = _facts()
    if "trees" in metrics:
        table.add_row("validation", f"{format_count(metrics['images'])} images, by {metrics['trees']:,} trees")
    else:
        table.add_row("validation", f"best of the run, after step {metrics['step']:,} of {metrics['steps']:,}")
    main, _ = main_score(metrics)
    for key, title in SCORE_TITLES.items():
        if key in metrics:
            table.add_row(title, Text(format_score(metrics[key]), style="bold green" if key == main else ""))
    table.add_row("training time", format_duration(metrics.get("seconds")))
    console.print()
    console.print(table)


def show_comparison(console: Console, document: Mapping[str, Any]) -> None:
    """One row a model of a compare.json, best first; then those that are not done, with the reason."""
    from perpixel.apps.compare_document import ranked, score_key

    rows, main = ranked(document), score_key(document)
    score = f"{document['split']} {SCORE_TITLES[main]}"
    table = _table("model", score, "interval", "pixels", "parameters", "multiply-adds",
                   "scale", "steps", "training", "ms an image")  # fmt: skip
    for row in rows:
        if row["state"] == "done":
            table.add_row(*_comparison_cells(row, main))
    console.print(table)
    console.print(Text("intervals: 95 % bootstrap over images; pixels: share that is right", style="dim"))
    for row in rows:
        if row["state"] != "done":
            style = "bold red" if row["state"] == "failed" else ""
            reason = f"  {printable(row['reason'])}" if row.get("reason") else ""
            console.print(Text.assemble((f"{row['label']}: {row['state']}", style), reason), soft_wrap=True)


def _comparison_cells(row: Mapping[str, Any], main: str) -> list[str | Text]:
    scores = row["scores"]
    return [
        printable(row["label"]),
        Text(format_score(scores.get(main)), style="bold green"),
        Text(format_interval(row["intervals"].get(main), 2), style="dim"),
        format_score(scores.get("pixel_accuracy")),
        format_large(row["parameters"]),
        format_large(row["multiply_adds"]),
        f"{row['plan']['scale']:g}",
        format_count(row["steps"]),
        format_duration(row["training_s"]),
        format_rate((row.get("speed") or {}).get("ms")),
    ]


def show_models(console: Console, rows: Sequence[Mapping[str, Any]]) -> None:
    """Name, summary and options of every model."""
    table = _table("model", "what it is", "options (-O)")
    for column in table.columns[1:]:
        column.justify = "left"
        column.overflow = "fold"
    for row in rows:
        options = ", ".join(f"{name}={value}" for name, value in row["options"].items())
        table.add_row(Text(row["name"], style="bold"), row["summary"], Text(options, style="dim"))
    console.print(table)


def show_description(console: Console, document: Mapping[str, Any]) -> None:
    """One row a stage: output size, channels, stride, receptive field, parameters, multiply-adds."""
    sides = "height x width" if document["depth"] is None else "depth x height x width"
    table = _table("stage", "channels", sides, "stride", "receptive field", "parameters", "multiply-adds")
    for row in document["rows"]:
        field = row["receptive_field"]
        table.add_row(
            printable(row["name"]),
            format_count(row["channels"]),
            "x".join(str(row[side]) for side in ("depth", "height", "width") if row[side] is not None),
            f"{row['stride']:g}",
            "all" if field is None else format_count(field),
            format_count(row["parameters"]),
            format_large(row["multiply_adds"]),
        )
    table.add_section()
    table.add_row(
        "total", "", "", "", "", format_count(document["parameters"]), format_large(document["multiply_adds"])
    )
    console.print(table)
    if document.get("frozen"):
        console.print(Text(f"and {format_count(document['frozen'])} values that are never trained", style="dim"))
    if document.get("measured"):
        _show_measured_field(console, document["measured"])


def _show_measured_field(console: Console, field: Mapping[str, Any]) -> None:
    """What the logit in the middle of the image sees: the pixels that can count, and those that do."""
    clipped = ", up to the rim of the image: a larger --size may show more" if field["is_clipped"] else ""
    table = _facts()
    table.add_row("reached by gradients", f"{field['width']} wide, {field['height']} high{clipped}")
    if field["effective_pixels"] is None:
        effective = "none: these weights pass no gradient (score layers may start at zero)"
    else:
        effective = f"{format_count(field['effective_pixels'])} pixels above 4.55 % of the peak, a square "
        effective += f"of {field['effective_side']:.0f}; 95 % of the gradient in one of {field['mass_side']}"
    table.add_row("effective field", effective)
    console.print()
    console.print(table)


def _facts() -> Table:
    """A borderless table of names and values."""
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    return table


def _table(first: str, *others: str) -> Table:
    """A light table: the first column is text, the others are numbers."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    table.add_column(first, overflow="fold")
    for title in others:
        table.add_column(title, justify="right")
    return table


def show_explanation(console: Console, document: Mapping[str, Any]) -> None:
    """The largest classes of the image, and what the skips of an FCN change."""
    title = printable(f"{document['image']} as {document['model']} sees it")
    console.print(title, style="bold", markup=False, soft_wrap=True)
    table = _table("class", "share of the pixels", "uncertainty")
    for row in sorted(document["classes"], key=lambda row: -row["share"])[:EXPLAINED_CLASSES]:
        table.add_row(printable(row["name"]), format_share(row["share"]), format_score(row["uncertainty"]))
    console.print(table)
    meaning = "uncertainty: mean entropy where the class was chosen, 0 sure to 1 all classes alike"
    console.print(Text(meaning, style="dim"))
    for skip in document["skips"][1:]:
        console.print(
            f"{skip['name']} (1/{skip['stride']}) changes the class of {format_share(skip['share_changed'])} "
            "of the pixels"
        )


def relative(path: object) -> str:
    """The path as seen from here where it lies below, else as it is."""
    full = Path(str(path))
    try:
        return str(full.resolve().relative_to(Path.cwd().resolve()))
    except (ValueError, OSError):
        return str(full)
