"""What is looked for in volumes: geometry, voxels that are no numbers, labels, and what a whole set of them mixes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from perpixel.data.cases import EncodedLabels, describe_difference, difference_remedy, lies_apart, read_labels
from perpixel.data.fingerprint import array_digest, channel_values
from perpixel.data.formats.layout import first_few
from perpixel.data.problems import Findings, Problem, from_error
from perpixel.data.sample import Sample
from perpixel.data.volume_facts import CaseValues, VolumeFingerprint
from perpixel.data.volume_fingerprint import VolumeFacts, crop_share, foreground_values
from perpixel.errors import InputError
from perpixel.images import Volume
from perpixel.labels import ClassTable, background_index

if TYPE_CHECKING:
    from perpixel.data.dataset import Dataset

UNKNOWN_VALUES_LISTED = 5
# Words in our readers' sentences -> code; the first that fits.
CODES = (
    ("are NaN or infinite", "not_finite"),
    ("holds one slice", "not_a_volume"),
    ("4-D file", "several_volumes"),
    ("does not lie on", "geometry_mismatch"),
)
AXES = ("depth", "row", "column")
# Voxel sizes this much apart are mixed; fewer voxels along an axis are pointed out.
MIXED_SPACING = 1.05
FEW_VOXELS = 8
# Cases whose largest values differ by this factor have no scale in common.
MIXED_SCALE = 10.0
# What a note says -> how bad it is; others are worth knowing only.
GRAVE_WORDS = ("assumed", "no orientation", "no usable orientation", "are taken as")


def examine_volume(dataset: Dataset, sample: Sample) -> Findings:
    """Read one case and note all that is wrong with it; raises nothing for bad files."""
    try:
        volume = dataset.load_volume(sample)
    except InputError as error:
        problems = [from_error(_code(error, "image_unreadable"), sample.where, error)]
        return Findings(None, problems + list(_label_alone(sample)))
    problems = list(_voxel_problems(sample, volume))
    labels: EncodedLabels | None = None
    if sample.mask is not None:
        try:
            labels = read_labels(sample, dataset.classes, volume.source.header)
        except InputError as error:
            problems.append(from_error(_code(error, "mask_unreadable"), sample.mask_where, error))
        else:
            problems.extend(_place_problems(sample, labels))
            problems.extend(_value_problems(dataset, sample, labels))
            if labels.label_map.shape != volume.geometry.shape:
                labels = None
    return Findings(_facts(dataset.classes, volume, labels), problems)


def _code(error: InputError, other: str) -> str:
    return next((code for words, code in CODES if words in str(error)), other)


def _label_alone(sample: Sample) -> Iterator[Problem]:
    if sample.mask is None:
        return
    try:
        sample.mask.read()
    except InputError as error:
        yield from_error(_code(error, "mask_unreadable"), sample.mask_where, error)


def _voxel_problems(sample: Sample, volume: Volume) -> Iterator[Problem]:
    flat = volume.array.reshape(len(volume.array), -1)
    if bool((flat == flat[:, :1]).all()):
        value = ", ".join(f"{float(level):g}" for level in flat[:, 0])
        message = f"{sample.where}: every voxel has the value {value}"
        remedy = "check whether the volume was exported rightly, or take it out"
        yield Problem("warning", "constant_image", sample.where, message, 1, remedy)


def _place_problems(sample: Sample, labels: EncodedLabels) -> Iterator[Problem]:
    difference = labels.label.difference
    if not difference:
        return
    severity, code = ("error", "geometry_mismatch") if lies_apart(difference) else ("warning", "geometry_shift")
    message = describe_difference(sample, labels.label)
    yield Problem(severity, code, sample.mask_where, message, 1, difference_remedy(labels.label))


def _value_problems(dataset: Dataset, sample: Sample, labels: EncodedLabels) -> Iterator[Problem]:
    where, table = sample.mask_where, dataset.classes
    for value, count in list(labels.unknown.items())[:UNKNOWN_VALUES_LISTED]:
        message = dataset.describe_unknown(sample, value, count)
        yield Problem("error", "unknown_value", where, message, count, dataset.unknown_remedy(value))
    rest = list(labels.unknown.values())[UNKNOWN_VALUES_LISTED:]
    if rest:
        message = f"{where}: {len(rest)} further values ({sum(rest)} voxels) are in none of the classes"
        yield Problem("error", "unknown_value", where, message, sum(rest), dataset.unknown_remedy("..."))
    if labels.unknown:
        return
    if bool((labels.label_map == table.ignore_index).all()):
        message = f"{where}: all {labels.label_map.size} voxels are ignored"
        remedy = "take the volume out, or correct the label map"
        yield Problem("warning", "all_ignored", where, message, labels.label_map.size, remedy)
    elif not _inside(labels.label_map, table).any():
        message = f"{where}: the label map is empty: all voxels are {table.names[background_index(table)]}"
        remedy = "take the case out if it was not labelled; a volume without any object may stay"
        yield Problem("warning", "empty_label", where, message, 1, remedy)


def _inside(label_map: np.ndarray, table: ClassTable) -> np.ndarray:
    """Where a class other than background is, ignored voxels left out."""
    return np.asarray((label_map != background_index(table)) & (label_map < table.num_classes))


def _facts(table: ClassTable, volume: Volume, labels: EncodedLabels | None) -> VolumeFacts:
    image = volume.array
    counts, ignored, digest = None, 0, ""
    foreground: tuple[np.ndarray, ...] = ()
    if labels is not None:
        counts = np.bincount(labels.label_map.ravel(), minlength=table.num_classes)[: table.num_classes]
        ignored, digest = int(labels.label_map.size - counts.sum()), array_digest(labels.label_map)
        foreground = foreground_values(image, _inside(labels.label_map, table))
    # The slices one below the other: channel by channel, values have no place.
    flat = np.moveaxis(image, 0, -1).reshape(-1, image.shape[3], image.shape[0])
    return VolumeFacts(
        size=volume.geometry.shape,
        channels=len(image),
        dtype=str(image.dtype),
        values=channel_values(flat),
        image_digest=array_digest(image),
        mask_digest=digest,
        class_pixels=counts,
        ignored=ignored,
        spacing_mm=volume.spacing_mm,
        foreground=foreground,
        crop_share=crop_share(image),
        notes=volume.notes,
        label_notes=labels.label.notes if labels else (),
        is_label_float=labels.label.is_float if labels else False,
    )


# ---- the whole set


@dataclass(frozen=True)
class Noted:
    """One file, or one case, with its facts."""

    sample: Sample
    facts: VolumeFacts


def set_problems(noted: list[Noted], fingerprint: VolumeFingerprint | None) -> Iterator[Problem]:
    """What shows only when all cases are seen together."""
    yield from _notes(noted, lambda each: each.facts.notes, lambda each: each.sample.images[0].name, "volumes")
    yield from _notes(noted, lambda each: each.facts.label_notes, lambda each: _mask_name(each.sample), "label maps")
    floats = [_mask_name(each.sample) for each in noted if each.facts.is_label_float]
    if floats:
        message = f"{len(floats)} label maps are stored as float ({first_few(floats)}): whole numbers, read as such"
        yield Problem("info", "label_float", None, message, len(floats), "nothing, or save them as whole numbers")
    thin = [each for each in noted if min(each.facts.size) < FEW_VOXELS]
    if thin:
        names = first_few(f"{each.sample.name} {' x '.join(map(str, each.facts.size))}" for each in thin)
        message = f"{len(thin)} volumes have fewer than {FEW_VOXELS} voxels along an axis ({names})"
        remedy = "they are padded for training; take them out if they are cut-offs"
        yield Problem("info", "few_voxels", None, message, len(thin), remedy)
    if fingerprint is not None:
        yield from _mixed_spacings(fingerprint)
        yield from _mixed_scales(fingerprint)


def _mask_name(sample: Sample) -> str:
    return sample.mask.paths[0].name if sample.mask is not None else ""


def _notes(
    noted: list[Noted], notes: Callable[[Noted], tuple[str, ...]], name: Callable[[Noted], str], what: str
) -> Iterator[Problem]:
    """One problem for each kind of note; notes that differ in their numbers only are one kind."""
    kinds: dict[str, list[tuple[str, str]]] = {}
    for each in noted:
        for note in notes(each):
            kind = "".join("0" if letter.isdigit() else letter for letter in note)
            kinds.setdefault(kind, []).append((name(each), note))
    for found in kinds.values():
        note = found[0][1]
        severity = "warning" if any(words in note for words in GRAVE_WORDS) else "info"
        names = first_few(file for file, _ in found)
        remedy = "check one of them in a viewer, and mend the files if that is wrong"
        message = f"{len(found)} of {len(noted)} {what}: {note} ({names})"
        yield Problem(severity, "geometry_assumed", None, message, len(found), remedy)


def _mixed_spacings(fingerprint: VolumeFingerprint) -> Iterator[Problem]:
    table = np.array([case.spacing_mm for case in fingerprint.cases])
    low, high = table.min(axis=0), table.max(axis=0)
    mixed = [axis for axis in range(3) if high[axis] > MIXED_SPACING * low[axis]]
    if mixed:
        parts = ", ".join(
            f"{AXES[axis]} {low[axis]:.3g} to {high[axis]:.3g} mm (middle {np.median(table[:, axis]):.3g})"
            for axis in mixed
        )
        target = " x ".join(f"{side:.3g}" for side in fingerprint.target_spacing_mm)
        message = f"voxel sizes are mixed: {parts}"
        remedy = f"training resamples all to {target} mm; check the outliers"
        yield Problem("warning", "mixed_spacings", None, message, 1, remedy)


def _mixed_scales(fingerprint: VolumeFingerprint) -> Iterator[Problem]:
    for channel, modality in enumerate(fingerprint.modalities):
        tops = {case.name: _top(case, channel) for case in fingerprint.cases if _top(case, channel) > 0}
        if modality == "ct" or not tops or max(tops.values()) < MIXED_SCALE * min(tops.values()):
            continue
        least, most = (pick(tops, key=lambda name: tops[name]) for pick in (min, max))
        where = f" of channel {channel}" if len(fingerprint.modalities) > 1 else ""
        message = (
            f"values{where} have no scale in common: they reach {tops[least]:,.6g} in {least} and {tops[most]:,.6g} in "
            f"{most}"
        )
        yield Problem("info", "mixed_scales", None, message, 1, "nothing: each case is normalised by itself")


def _top(case: CaseValues, channel: int) -> float:
    return case.value_max[channel] if channel < len(case.value_max) else 0.0
