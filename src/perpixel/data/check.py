"""Read every file once, before any training: all problems with file, value, count and remedy, and the fingerprint."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from itertools import chain
from typing import Any

import numpy as np

from perpixel.data.check_volumes import Noted, examine_volume, set_problems
from perpixel.data.dataset import Dataset
from perpixel.data.fingerprint import Fingerprint, FingerprintTally, SampleFacts, array_digest, channel_values
from perpixel.data.formats.layout import SPLITS, first_few
from perpixel.data.problems import SEVERITIES, Findings, Problem, from_error
from perpixel.data.sample import PolygonMask, Sample
from perpixel.data.splits import UNLABELLED
from perpixel.data.threads import map_threads
from perpixel.data.volume_fingerprint import VolumeFacts, VolumeTally
from perpixel.errors import InputError

FEW_IMAGES = 3
UNKNOWN_VALUES_LISTED = 5


@dataclass(frozen=True)
class CheckResult:
    """The outcome of a check; `problems` are sorted: errors, warnings, infos, in the order of the samples.

    `train_classes` holds the classes in each labelled image of the train split, by name.
    """

    fingerprint: Fingerprint
    problems: tuple[Problem, ...]
    notes: tuple[str, ...] = ()
    train_classes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def errors(self) -> tuple[Problem, ...]:
        return tuple(problem for problem in self.problems if problem.severity == "error")

    @property
    def warnings(self) -> tuple[Problem, ...]:
        return tuple(problem for problem in self.problems if problem.severity == "warning")

    def to_json(self) -> dict[str, Any]:
        """{"fingerprint", "problems", "notes", "counts", "train_classes"} of plain values."""
        counts = Counter(problem.severity for problem in self.problems)
        return {
            "counts": {severity: counts[severity] for severity in SEVERITIES},
            "problems": [asdict(problem) for problem in self.problems],
            "notes": list(self.notes),
            "fingerprint": self.fingerprint.to_json(),
            "train_classes": {name: list(classes) for name, classes in self.train_classes.items()},
        }

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> CheckResult:
        """Read what `to_json` wrote."""
        problems = tuple(Problem(**problem) for problem in content["problems"])
        classes = {name: tuple(each) for name, each in content.get("train_classes", {}).items()}
        return cls(Fingerprint.from_json(content["fingerprint"]), problems, tuple(content["notes"]), classes)


def check_dataset(
    dataset: Dataset, *, workers: int | None = None, on_progress: Callable[[int, int, str], None] | None = None
) -> CheckResult:
    """Read every image and mask once, in threads, and gather problems and fingerprint.

    Args:
        workers: threads; None = one per core.
        on_progress: called as (done, total, name of the sample) after each sample, from this thread.
    """
    listed = [(split, sample) for split, samples in dataset.splits.items() for sample in samples]
    value_split = "train" if dataset.splits.get("train") else None
    tally, volumes = FingerprintTally(list(dataset.classes.names), value_split), VolumeTally(value_split)
    noted: list[Noted] = []
    problems: list[Problem] = []
    contents: dict[str, list[tuple[str, Sample]]] = {}
    train_classes: dict[str, tuple[int, ...]] = {}
    look = examine_volume if dataset.spatial_dims == 3 else examine
    found = map_threads(lambda item: look(dataset, item[1]), listed, workers)
    for done, ((split, sample), findings) in enumerate(zip(listed, found), 1):
        problems.extend(findings.problems)
        if findings.facts is not None:
            tally.add(sample.name, split, findings.facts)
            if isinstance(findings.facts, VolumeFacts):
                volumes.add(sample.name, split, findings.facts)
                noted.append(Noted(sample, findings.facts))
            contents.setdefault(findings.facts.image_digest, []).append((split, sample))
            if split == "train" and findings.facts.class_pixels is not None:
                train_classes[sample.name] = tuple(np.flatnonzero(findings.facts.class_pixels).tolist())
        if on_progress is not None:
            on_progress(done, len(listed), sample.name)
    groups = {sample.group for _, sample in listed if sample.group is not None}
    fingerprint = tally.finish(
        format=dataset.format,
        num_images={split: len(samples) for split, samples in dataset.splits.items()},
        channels=dataset.channels,
        groups=len(groups),
    )
    if dataset.spatial_dims == 3:
        of_volumes = volumes.finish(dataset.channels, dataset.channel_names)
        fingerprint = replace(fingerprint, spatial_dims=3, volumes=of_volumes)
        problems.extend(set_problems(noted, of_volumes))
    problems.extend(chain(_duplicates(contents), _split_groups(dataset)))
    if has_scale(fingerprint):
        problems.extend(_mixed_dtypes(tally.dtypes))
    problems.extend(chain(_class_problems(dataset, fingerprint), _nothing_to_learn(dataset, fingerprint)))
    problems.sort(key=lambda problem: SEVERITIES.index(problem.severity))
    return CheckResult(fingerprint, tuple(problems), dataset.notes, train_classes)


def has_scale(fingerprint: Fingerprint) -> bool:
    """Whether equal numbers are meant to be equal brightness: not in MR, which has no scale in any type."""
    return fingerprint.volumes is None or "ct" in fingerprint.volumes.modalities


def refuse(result: CheckResult) -> None:
    """Stop when the check found errors.

    Raises:
        InputError: with the number of errors and the first of them.
    """
    if result.errors:
        first = result.errors[0]
        count = len(result.errors)
        more = f" (1 of {count} errors; perpixel check lists them all)" if count > 1 else ""
        raise InputError(f"{first.message}: {first.remedy}{more}")


def examine(dataset: Dataset, sample: Sample) -> Findings:
    """Read one sample and note all that is wrong with it; raises nothing for bad files."""
    problems: list[Problem] = []
    try:
        image = dataset.load_image(sample)
    except InputError as error:
        problems.append(from_error("image_unreadable", sample.where, error))
        if sample.mask is not None:
            problems.extend(_mask_alone(sample))
        return Findings(None, problems)
    problems.extend(_image_problems(sample, image))
    label_map = None
    if sample.mask is not None:
        label_map, mask_problems = _label_map(dataset, sample, image.shape[:2])
        problems.extend(mask_problems)
    return Findings(_facts(dataset, image, label_map), problems)


def _mask_alone(sample: Sample) -> Iterator[Problem]:
    assert sample.mask is not None
    try:
        sample.mask.read()
    except InputError as error:
        yield from_error("mask_unreadable", sample.mask_where, error)


def _image_problems(sample: Sample, image: np.ndarray) -> Iterator[Problem]:
    if bool((image == image[:1, :1]).all()):
        value = ", ".join(f"{float(level):g}" for level in image[0, 0])
        yield Problem(
            "warning",
            "constant_image",
            sample.where,
            f"{sample.where}: every pixel has the value {value}",
            1,
            "check whether the image was exported rightly, or take it out",
        )


def _label_map(dataset: Dataset, sample: Sample, size: tuple[int, ...]) -> tuple[np.ndarray | None, list[Problem]]:
    assert sample.mask is not None
    where = sample.mask_where
    try:
        label_map, unknown = dataset.encode_mask(sample, size=(size[0], size[1]))
    except InputError as error:
        code = "size_mismatch" if "its image" in str(error) else "mask_unreadable"
        return None, [from_error(code, where, error)]
    problems = [
        Problem(
            "error",
            "unknown_value",
            where,
            dataset.describe_unknown(sample, value, count),
            count,
            dataset.unknown_remedy(value),
        )
        for value, count in list(unknown.items())[:UNKNOWN_VALUES_LISTED]
    ]
    rest = len(unknown) - UNKNOWN_VALUES_LISTED
    if rest > 0:
        count = sum(list(unknown.values())[UNKNOWN_VALUES_LISTED:])
        message = f"{where}: {rest} further values ({count} pixels) are in none of the classes"
        problems.append(Problem("error", "unknown_value", where, message, count, dataset.unknown_remedy("...")))
    if not unknown and bool((label_map == dataset.classes.ignore_index).all()):
        message = f"{where}: all {label_map.size} pixels are ignored"
        problems.append(
            Problem("warning", "all_ignored", where, message, label_map.size, "take the image out, or correct the mask")
        )
    if isinstance(sample.mask, PolygonMask) and (empty := sample.mask.count_empty()):
        message = f"{where}: {empty} of {len(sample.mask.shapes)} outlines cover no pixel"
        problems.append(Problem("info", "empty_outline", where, message, empty, "delete them or draw them larger"))
    return label_map, problems


def _facts(dataset: Dataset, image: np.ndarray, label_map: np.ndarray | None) -> SampleFacts:
    facts = SampleFacts(
        size=(image.shape[0], image.shape[1]),
        channels=image.shape[2],
        dtype=str(image.dtype),
        values=channel_values(image),
        image_digest=array_digest(image),
    )
    if label_map is None:
        return facts
    num_classes = dataset.classes.num_classes
    counts = np.bincount(label_map.ravel(), minlength=num_classes)[:num_classes]
    return SampleFacts(
        **{name: getattr(facts, name) for name in ("size", "channels", "dtype", "values", "image_digest")},
        mask_digest=array_digest(label_map),
        class_pixels=counts,
        ignored=int(label_map.size - counts.sum()),
    )


def _duplicates(contents: dict[str, list[tuple[str, Sample]]]) -> Iterator[Problem]:
    for found in contents.values():
        if len(found) == 1:
            continue
        splits = sorted({split for split, _ in found}, key=(*SPLITS, UNLABELLED).index)
        names = first_few((f"{split}: {sample.name}" for split, sample in found), 4)
        labelled = [split for split in splits if split != UNLABELLED]
        if len(labelled) > 1:
            message = f"the same image stands in {' and '.join(labelled)} ({names})"
            remedy = "keep it in one split, or scores look better than they are"
            yield Problem("warning", "duplicate_between_splits", found[0][1].where, message, len(found), remedy)
        else:
            message = f"the same image {len(found)} times ({names})"
            yield Problem("info", "duplicate", found[0][1].where, message, len(found), "keep one of them")


def _split_groups(dataset: Dataset) -> Iterator[Problem]:
    homes: dict[str, set[str]] = {}
    for split in SPLITS:
        for sample in dataset.splits.get(split, ()):
            if sample.group is not None:
                homes.setdefault(sample.group, set()).add(split)
    torn = {group: splits for group, splits in homes.items() if len(splits) > 1}
    if torn:
        message = f"{len(torn)} of {len(homes)} groups lie in several splits ({first_few(torn)})"
        remedy = "move each group into one split, or scores look better than they are"
        yield Problem("warning", "group_in_splits", None, message, len(torn), remedy)


def _mixed_dtypes(dtypes: Counter[str]) -> Iterator[Problem]:
    if len(dtypes) > 1:
        listed = ", ".join(f"{count} {dtype}" for dtype, count in dtypes.most_common())
        message = f"images have different value types ({listed}), so equal numbers may mean different brightness"
        yield Problem("warning", "mixed_dtypes", None, message, sum(dtypes.values()), "save all images with one type")


def _class_problems(dataset: Dataset, fingerprint: Fingerprint) -> Iterator[Problem]:
    train = fingerprint.class_images.get("train")
    if train is None:
        return
    others = [split for split in ("val", "test") if split in fingerprint.class_images]
    for index, name in enumerate(fingerprint.class_names):
        images = train[index]
        elsewhere = [split for split in others if fingerprint.class_images[split][index]]
        if images == 0 and elsewhere:
            message = f"class '{name}' is in no train image, but in {' and '.join(elsewhere)}"
            remedy = "move images with it to train, or take the class out"
            yield Problem("warning", "class_not_in_train", None, message, 0, remedy)
        elif images == 0:
            remedy = "take the class out of the table, or add images with it"
            yield Problem("info", "class_absent", None, f"class '{name}' is in no image at all", 0, remedy)
        elif images < FEW_IMAGES:
            message = f"class '{name}' is in only {images} of {fingerprint.num_images['train']} train images"
            yield Problem("info", "class_in_few_images", None, message, images, "add images with it if it matters")
        if images:
            bare = [split for split in others if not fingerprint.class_images[split][index]]
            if bare:
                message = f"class '{name}' is not in {' or '.join(bare)}, so it has no score there"
                yield Problem("info", "class_not_in_split", None, message, 0, "add images with it if it matters")


def _nothing_to_learn(dataset: Dataset, fingerprint: Fingerprint) -> Iterator[Problem]:
    for split, counts in fingerprint.class_pixels.items():
        if sum(counts) == 0:
            message = f"all pixels of {split} are ignored ({fingerprint.ignored_pixels[split]})"
            remedy = "check ignore_values and the masks"
            yield Problem("error", "split_all_ignored", None, message, fingerprint.ignored_pixels[split], remedy)
    train = fingerprint.class_pixels.get("train")
    if train is not None and any(train) and sum(1 for count in train if count) < 2:
        name = fingerprint.class_names[int(np.argmax(train))]
        message = f"train holds one class only ('{name}'), so there is nothing to tell apart"
        yield Problem("error", "one_class", None, message, 1, "check the masks and classes.json")
