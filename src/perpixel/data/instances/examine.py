"""Read every image and its objects once, before any training: all problems with file, count and remedy, and facts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from perpixel.data.formats.layout import SPLITS
from perpixel.data.instances.dataset import InstanceDataset, objects_where
from perpixel.data.instances.facts import ImageFacts, InstanceFacts, measure_objects, sum_facts
from perpixel.data.instances.sources import MapObjects
from perpixel.data.problems import SEVERITIES, Problem, from_error
from perpixel.data.sample import Sample
from perpixel.data.threads import map_threads
from perpixel.errors import InputError
from perpixel.labels import Instances, connected_components

# A class in so few train images, and so many objects in several parts, are worth a word.
FEW_IMAGES = 3
MANY_PARTS, MANY_PARTS_SHARE = 3, 0.2


@dataclass(frozen=True)
class InstanceCheck:
    """The outcome of a check.

    Attributes:
        problems: errors, warnings, infos, in the order of the samples.
        facts: of each split.
        class_objects: objects of each class by split, class 0 (background) included with 0.
    """

    problems: tuple[Problem, ...]
    facts: dict[str, InstanceFacts]
    class_objects: dict[str, tuple[int, ...]]

    @property
    def errors(self) -> tuple[Problem, ...]:
        return tuple(problem for problem in self.problems if problem.severity == "error")


@dataclass(frozen=True)
class _Examined:
    problems: list[Problem]
    facts: ImageFacts | None = None
    counts: tuple[int, ...] = ()


def check_instances(
    dataset: InstanceDataset, *, workers: int | None = None, on_progress: Callable[[int, int, str], None] | None = None
) -> InstanceCheck:
    """Read every image and its objects once, in threads.

    Args:
        workers: threads; None = one per core.
        on_progress: called as (done, total, name of the sample) after each sample, from this thread.
    """
    listed = [(split, sample) for split in SPLITS for sample in dataset.splits.get(split, ())]
    problems: list[Problem] = []
    facts: dict[str, list[ImageFacts]] = {}
    counts: dict[str, np.ndarray] = {}
    images: dict[str, np.ndarray] = {}
    found = map_threads(lambda item: _examine(dataset, item[1]), listed, workers)
    for done, ((split, sample), one) in enumerate(zip(listed, found), 1):
        problems.extend(one.problems)
        if one.facts is not None:
            facts.setdefault(split, []).append(one.facts)
            row = np.array(one.counts, np.int64)
            counts[split] = counts.get(split, 0) + row
            images[split] = images.get(split, 0) + (row > 0)
        if on_progress is not None:
            on_progress(done, len(listed), sample.name)
    problems.extend(_whole_set(dataset, counts, images))
    problems.sort(key=lambda problem: SEVERITIES.index(problem.severity))
    by_class = {split: tuple(int(n) for n in row) for split, row in counts.items()}
    return InstanceCheck(tuple(problems), {split: sum_facts(rows) for split, rows in facts.items()}, by_class)


def _examine(dataset: InstanceDataset, sample: Sample) -> _Examined:
    """All that is wrong with one sample; raises nothing for bad files."""
    where = objects_where(sample)
    try:
        image = dataset.load_image(sample)
    except InputError as error:
        return _Examined([from_error("image_unreadable", sample.where, error)])
    try:
        reading = dataset.read_objects(sample, size=(image.shape[0], image.shape[1]))
    except InputError as error:
        code = "size_mismatch" if "its image" in str(error) else "objects_unreadable"
        return _Examined([from_error(code, where, error)])
    problems = [
        Problem(one.severity, one.code, where, f"{where}: {one.message}", one.count, one.remedy)
        for one in reading.findings
    ]
    instances = reading.instances
    if isinstance(sample.mask, MapObjects):
        problems.extend(_parts(where, instances))
    singles = instances.without_crowds()
    counts = np.bincount(singles.classes, minlength=dataset.classes.num_classes)
    return _Examined(problems, measure_objects(instances), tuple(counts.tolist()))


def _parts(where: str, instances: Instances) -> Iterator[Problem]:
    """Many objects in several parts: numbers used twice, or a mask of classes taken for one of objects."""
    singles = instances.without_crowds()
    torn = sum(connected_components(singles.masks.crop(index)[0])[1] > 1 for index in range(len(singles)))
    if torn >= MANY_PARTS and torn > MANY_PARTS_SHARE * len(singles):
        message = f"{where}: {torn} of {len(singles)} objects consist of several separate parts"
        remedy = "check that no number is used twice; for masks of foreground and background give split_parts"
        yield Problem("info", "object_in_parts", where, message, torn, remedy)


def _whole_set(
    dataset: InstanceDataset, counts: dict[str, np.ndarray], images: dict[str, np.ndarray]
) -> Iterator[Problem]:
    for split in SPLITS:
        if dataset.splits.get(split) and split in counts and not counts[split].any():
            severity = "error" if split == "train" else "warning"
            message = f"no image of {split} holds a single object"
            yield Problem(
                severity, "no_objects", None, message, 0, "check the annotations, or move images with objects"
            )
    train = images.get("train")
    if train is None:
        return
    for index, name in enumerate(dataset.classes.names):
        elsewhere = [split for split in ("val", "test") if split in counts and counts[split][index]]
        if index == 0:
            continue
        if not train[index] and elsewhere:
            message = f"class '{name}' is in no train image, but in {' and '.join(elsewhere)}"
            remedy = "move images with it to train, or take the class out"
            yield Problem("warning", "class_not_in_train", None, message, 0, remedy)
        elif not train[index]:
            remedy = "take the class out of the table, or add images with it"
            yield Problem("info", "class_absent", None, f"class '{name}' has no object at all", 0, remedy)
        elif train[index] < FEW_IMAGES:
            message = f"class '{name}' is in only {train[index]} of {len(dataset.splits['train'])} train images"
            yield Problem("info", "class_in_few_images", None, message, int(train[index]), "add images if it matters")
