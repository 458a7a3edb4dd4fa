"""A data set of images with objects: samples by split, a class table, and the objects of each image when asked for.

dataset = open_instances("data/")
for sample in dataset.split("train"):
    image, instances = dataset.load(sample)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import numpy as np

from perpixel.data.channels import find_channels
from perpixel.data.class_file import find_class_file
from perpixel.data.dataset import SPLITS_FILE, Dataset, size_mismatch
from perpixel.data.formats.layout import Layout
from perpixel.data.instances.sources import CROWD_VALUE, ObjectSource, Reading
from perpixel.data.instances.table import INSTANCE_FORMATS
from perpixel.data.sample import Sample
from perpixel.data.splits import UNLABELLED, complete_splits, read_splits, set_groups
from perpixel.errors import InputError, did_you_mean
from perpixel.images import probe_image
from perpixel.labels import ClassTable, Instances


@dataclass(frozen=True, eq=False)
class InstanceDataset:
    """Samples by split with their class table. Small, picklable, and reads files only in `load...`.

    Attributes:
        images: the same samples as a semantic data set, which reads the images, and the objects as label maps (class
            indices; small objects over large ones, crowds ignored).
        classes: class 0 is background and no object; the values are the ids in the files.
    """

    images: Dataset
    classes: ClassTable

    @property
    def root(self) -> Path:
        return self.images.root

    @property
    def format(self) -> str:
        return self.images.format

    @property
    def splits(self) -> dict[str, tuple[Sample, ...]]:
        return self.images.splits

    @property
    def notes(self) -> tuple[str, ...]:
        return self.images.notes

    @property
    def spatial_dims(self) -> int:
        """2: objects of volumes are not read."""
        return 2

    @property
    def channels(self) -> int:
        return self.images.channels

    def split(self, name: str) -> tuple[Sample, ...]:
        """The samples of one split. Raises InputError when there is none, or no such split."""
        return self.images.split(name)

    def load(self, sample: Sample) -> tuple[np.ndarray, Instances]:
        """Image (H, W, C) and its objects."""
        image = self.images.load_image(sample)
        return image, self.load_instances(sample, size=(image.shape[0], image.shape[1]))

    def load_image(self, sample: Sample) -> np.ndarray:
        """The image as (H, W, C), C = `channels`, uint8, uint16 or float32."""
        return self.images.load_image(sample)

    def load_instances(self, sample: Sample, *, size: tuple[int, int] | None = None) -> Instances:
        """The objects of a sample; those that cover no pixel are left out.

        Args:
            size: (H, W) of the image, when known; else its header is read.
        Raises:
            InputError: no annotation, unreadable, another size than the image, or an object that is damaged.
        """
        reading = self.read_objects(sample, size=size)
        for finding in reading.findings:
            if finding.severity == "error":
                raise InputError(f"{objects_where(sample)}: {finding.message}: {finding.remedy}")
        return reading.instances

    def read_objects(self, sample: Sample, *, size: tuple[int, int] | None = None) -> Reading:
        """As `load_instances`, but what is wrong with single objects comes back as findings."""
        source = sample.mask
        if not isinstance(source, ObjectSource):
            raise InputError(f"{sample.where}: has no objects: annotate it or leave the image to prediction")
        reading = source.read_objects()
        if size is None:
            info = probe_image(sample.images[0])
            size = (info.height, info.width)
        if reading.instances.size != tuple(size):
            raise InputError(size_mismatch(sample, reading.instances.size, size))
        return reading


def objects_where(sample: Sample) -> str:
    """The annotation in words, for messages; the image as well where one file speaks of several."""
    source = sample.mask
    image = getattr(source, "image", None)
    return sample.mask_where if image is None else f"{sample.mask_where} (image {image})"


def open_instances(
    path: str | Path,
    *,
    format: str = "auto",
    classes: str | Path | None = None,
    splits: str | Path | None = None,
    group: str | None = None,
    val_fraction: float = 0.15,
    test_fraction: float | None = None,
    seed: int = 0,
    split_parts: bool = False,
    ignore_values: Sequence[int] = (),
) -> InstanceDataset:
    """Find out how instance data lie on the disk, which classes they have and who trains on what.

    Args:
        path: a folder, a COCO JSON or a YOLO data.yaml.
        format: a name in INSTANCE_FORMATS, or "auto".
        classes: a class table; by default classes.json at the root, else the format's own.
        splits, group, val_fraction, test_fraction, seed: as for `open_dataset`.
        split_parts: label images hold foreground and background only: each connected part is an object.
        ignore_values: numbers in label images of pixels of which nothing is known.
    Raises:
        InputError: whatever keeps the data set from being read, with file, value and remedy.
    """
    root = Path(path)
    if not root.exists():
        raise InputError(f"{root}: no such file or folder: check the path")
    user = find_class_file(root, classes)
    name, layout, notes = _read(root, format, user.table if user else None, split_parts, tuple(ignore_values))
    home = root if root.is_dir() else root.parent
    if group is not None:
        grouped = {split: set_groups(samples, group, home) for split, samples in layout.splits.items()}
        layout = replace(layout, splits=grouped)
    split_file = Path(splits) if splits is not None else home / SPLITS_FILE
    if splits is not None or split_file.is_file():
        known, split_notes = read_splits(split_file, list(chain.from_iterable(layout.splits.values())))
        layout = replace(layout, splits=known, notes=[*layout.notes, *split_notes])
    done, drawn = complete_splits(layout.splits, val_fraction=val_fraction, test_fraction=test_fraction, seed=seed)
    if not done:
        raise InputError(f"{root}: no image is annotated: add annotations, or use predict for images alone")
    if layout.unlabelled:
        done[UNLABELLED] = tuple(layout.unlabelled)
    channels, channel_notes = find_channels(list(chain.from_iterable(done.values())))
    assert layout.classes is not None
    every_note = (*notes, *layout.notes, *([user.note] if user else []), *drawn, *channel_notes)
    # Sources paint class indices, whatever the ids in the files.
    painted = tuple(replace(info, values=(index,)) for index, info in enumerate(layout.classes.classes))
    table = ClassTable(painted, ignore_values=(CROWD_VALUE,))
    return InstanceDataset(Dataset(home, name, table, done, every_note, seed, channels), layout.classes)


def _read(
    root: Path, format: str, table: ClassTable | None, split_parts: bool, ignore_values: tuple[int, ...]
) -> tuple[str, Layout, list[str]]:
    """The layout's name, what it holds, and a note where another one would fit as well."""
    notes = []
    if format == "auto":
        found = [name for name, entry in INSTANCE_FORMATS.items() if entry.detect(root)]
        if not found:
            raise InputError(f"{root}: neither a COCO JSON nor a YOLO data.yaml: give the folder of the data set")
        format, others = found[0], [name for name in found[1:] if name != "label_images"]
        if others:
            notes = [f"read as {format}; it also looks like {' and '.join(others)}: format={others[0]} reads it so"]
    elif format not in INSTANCE_FORMATS:
        raise InputError(f"unknown format of instances '{format}'{did_you_mean(format, ('auto', *INSTANCE_FORMATS))}")
    reader = INSTANCE_FORMATS[format].read
    if format == "label_images":
        return format, reader(root, table, split_parts=split_parts, ignore_values=ignore_values), notes
    if split_parts or ignore_values:
        word = "split_parts" if split_parts else "ignore_values"
        raise InputError(f"{root}: {word} belongs to label images, but this is read as {format}: leave it out")
    return format, reader(root, table), notes
