"""Who trains, who validates, who tests: splits that are made, saved and read back."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from perpixel.data.formats.layout import SPLITS, first_few
from perpixel.data.formats.list_files import NameFinder
from perpixel.data.sample import Sample
from perpixel.errors import InputError
from perpixel.files import read_json

UNLABELLED = "unlabelled"
DEFAULT_TEST_FRACTION = 0.15
SEQUENCE = re.compile(r"(?P<prefix>.*[^0-9])\d{3,}$")

Splits = dict[str, tuple[Sample, ...]]


def set_groups(samples: Sequence[Sample], group: str, root: Path) -> list[Sample]:
    """Give every sample its group.

    Args:
        group: "parent" = the folder of the image, or a regular expression with one group, searched in the name.
    Raises:
        InputError: not a regular expression with exactly one group, or a name that it does not match.
    """
    if group == "parent":
        return [replace(sample, group=_parent(sample, root)) for sample in samples]
    try:
        pattern = re.compile(group)
    except re.error as error:
        raise InputError(f"group '{group}' is not a regular expression ({error}): correct it") from error
    if pattern.groups != 1:
        raise InputError(
            f"group '{group}' has {pattern.groups} bracketed parts, it needs exactly one: for frames called "
            "drive_0001, drive_0002 write '(.+)_[0-9]+'"
        )
    missed = [sample.name for sample in samples if pattern.search(sample.name) is None]
    if missed:
        raise InputError(
            f"group '{group}' does not match {len(missed)} of {len(samples)} names ({first_few(missed)}): correct it"
        )
    found = ((sample, pattern.search(sample.name)) for sample in samples)
    return [replace(sample, group=match[1] or "") for sample, match in found if match is not None]


def _parent(sample: Sample, root: Path) -> str:
    folder = sample.images[0].parent
    return folder.relative_to(root).as_posix() if folder.is_relative_to(root) else folder.name


def complete_splits(
    known: dict[str | None, list[Sample]], *, val_fraction: float, test_fraction: float | None, seed: int
) -> tuple[Splits, list[str]]:
    """Add the splits that the data set lacks.

    Nothing known: train, val and test are drawn. Train known but no val: val is drawn from train. A data set of test
    or val alone stays as it is. Samples of one group stay together.

    Args:
        known: samples by split; key None = without a split.
        test_fraction: None = 0.15 when nothing is known, else none is made.
    Returns:
        The splits, and sentences that say what was drawn.
    Raises:
        InputError: fractions outside [0, 1), or too few samples or groups.
    """
    _check_fractions(val_fraction, test_fraction or 0.0)
    splits = {name: list(known[name]) for name in SPLITS if known.get(name)}
    notes: list[str] = []
    loose = known.get(None, [])
    if loose and splits:
        names = first_few(sample.name for sample in loose)
        notes.append(f"{len(loose)} images stand outside the folders or lists of the splits and are left out ({names})")
    elif loose:
        splits["train"] = list(loose)
    pool = splits.get("train", [])
    wanted: dict[str, float] = {}
    if pool and "val" not in splits and val_fraction > 0:
        wanted["val"] = val_fraction
    if pool and "test" not in splits:
        fraction = DEFAULT_TEST_FRACTION if test_fraction is None and loose and pool == loose else test_fraction or 0.0
        if fraction > 0:
            wanted["test"] = fraction
    if wanted:
        drawn = draw_splits(pool, wanted, seed)
        splits.update(drawn)
        notes.append(_drawn_note(drawn, wanted, seed, grouped=any(sample.group for sample in pool)))
        notes.extend(_sequence_note(pool))
    return {name: tuple(splits[name]) for name in SPLITS if name in splits}, notes


def _check_fractions(val: float, test: float) -> None:
    for name, value in (("val_fraction", val), ("test_fraction", test)):
        if not (math.isfinite(value) and 0 <= value < 1):
            raise InputError(f"{name} {value} is outside 0..1: give the share of images, such as 0.15")
    if val + test >= 1:
        raise InputError(f"val_fraction {val} + test_fraction {test} leave nothing for train: give smaller shares")


def draw_splits(samples: Sequence[Sample], fractions: dict[str, float], seed: int) -> dict[str, list[Sample]]:
    """Draw groups (or single samples) at random into train and the splits of `fractions`.

    The same names and seed give the same splits, whatever the order on the disk. Each split gets at least one group;
    where there are too few groups for that, the last of `fractions` is left out.

    Raises:
        InputError: fewer than two groups.
    """
    groups: dict[str, list[Sample]] = {}
    for sample in sorted(samples, key=lambda sample: sample.name):
        groups.setdefault(sample.group if sample.group is not None else f"\0{sample.name}", []).append(sample)
    if len(groups) < 2:
        what = "1 image" if len(samples) == 1 else f"{len(samples)} images of one group" if groups else "0 images"
        raise InputError(f"{what} cannot be split into train and val: add images, or give the splits with splits=")
    wanted = dict(list(fractions.items())[: len(groups) - 1])
    keys = sorted(groups)
    order = [keys[index] for index in np.random.default_rng(seed).permutation(len(keys))]
    drawn: dict[str, list[Sample]] = {}
    for position, (split, fraction) in enumerate(wanted.items()):
        others = len(wanted) - position  # groups that the later splits and train need at least
        target = max(1, round(fraction * len(samples)))
        taken: list[Sample] = []
        while len(order) > others and len(taken) < target:
            group = groups[order[0]]
            # A group that overshoots by more than it fills is left to another split.
            if taken and len(taken) + len(group) - target > target - len(taken):
                break
            order.pop(0)
            taken.extend(group)
        drawn[split] = sorted(taken, key=lambda sample: sample.name)
    rest = {sample.name for split in drawn.values() for sample in split}
    return {"train": [sample for sample in samples if sample.name not in rest], **drawn}


def _drawn_note(drawn: dict[str, list[Sample]], wanted: dict[str, float], seed: int, *, grouped: bool) -> str:
    counts = ", ".join(f"{name} {len(drawn[name])}" for name in SPLITS if name in drawn)
    how = "group by group" if grouped else "image by image"
    made = " and ".join(name for name in wanted if name in drawn)
    return f"{made} drawn at random ({how}, seed {seed}): {counts}; splits= takes a list of your own"


def _sequence_note(samples: Sequence[Sample]) -> list[str]:
    """A hint when names look like frames of a few films and no groups are set."""
    matches = [SEQUENCE.match(sample.name) for sample in samples]
    if any(sample.group for sample in samples) or not all(matches):
        return []
    prefixes = {match["prefix"] for match in matches if match}
    if not 2 <= len(prefixes) <= len(samples) // 4:
        return []
    return [
        f"names look like frames of {len(prefixes)} sequences ({first_few(sorted(prefixes))}): neighbours may be "
        "alike, which flatters the scores; group='(.*[^0-9])[0-9]+$' keeps each sequence in one split"
    ]


def read_splits(path: str | Path, samples: Sequence[Sample]) -> tuple[dict[str | None, list[Sample]], list[str]]:
    """Read {"train": [names], "val": [names], ...} as `save_splits` writes it.

    Names may carry a suffix or leading folders. Samples that are not listed are left out.

    Raises:
        InputError: another form, an unknown or doubled name, an empty split.
    """
    content = read_json(path)
    if not isinstance(content, dict) or not content:
        raise InputError(
            f'{path}: splits must be {{"train": [names], "val": [names], "test": [names]}}: correct the file'
        )
    unknown = sorted(set(content) - {*SPLITS, UNLABELLED})
    if unknown:
        raise InputError(f"{path}: split '{unknown[0]}' is not known: use {', '.join(SPLITS)}")
    finder = NameFinder(samples)
    owner: dict[str, str] = {}
    splits: dict[str | None, list[Sample]] = {}
    for split in SPLITS:
        if split not in content:
            continue
        found = _find_all(path, split, content[split], finder)
        for sample in found:
            if sample.name in owner:
                raise InputError(
                    f"{path}: '{sample.name}' stands in {owner[sample.name]} and in {split}: list each name once"
                )
            owner[sample.name] = split
        splits[split] = found
    rest = [sample.name for sample in samples if sample.name not in owner]
    notes = [f"splits from {Path(path).name}"]
    if rest:
        notes.append(f"{len(rest)} images are not listed there and are left out ({first_few(rest)})")
    return splits, notes


def _find_all(path: str | Path, split: str, names: object, finder: NameFinder) -> list[Sample]:
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError(f"{path}: split '{split}' is no list of names: write a list of image names")
    if not names:
        raise InputError(f"{path}: split '{split}' is empty: list at least one name or take the split out")
    found = [finder.find(name) for name in names]
    missing = [name for name, sample in zip(names, found) if sample is None]
    if missing:
        raise InputError(
            f"{path}: {len(missing)} of {len(names)} names in '{split}' are no labelled images of this data set "
            f"({first_few(missing)}): correct the names"
        )
    return [sample for sample in found if sample is not None]


def splits_to_json(splits: Splits) -> dict[str, list[str]]:
    """Names by split, unlabelled images left out: what `read_splits` takes."""
    return {name: [sample.name for sample in splits[name]] for name in SPLITS if name in splits}
