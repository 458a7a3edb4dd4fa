"""A data set as it lies on the disk: samples by split, a class table, and what was assumed to read it so.

dataset = open_dataset("data/")
for sample in dataset.split("train"):
    image, label_map = dataset.load(sample)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Protocol

import numpy as np

from perpixel.data.cases import Case, describe_difference, difference_remedy, lies_apart, load_volume, read_labels
from perpixel.data.channels import find_channels, find_volume_channels
from perpixel.data.class_file import ClassFile, find_class_file, ignore_more
from perpixel.data.formats import FORMATS, Layout
from perpixel.data.formats.folder_words import count_dims
from perpixel.data.infer_classes import infer_classes
from perpixel.data.sample import FileMask, Sample, VolumeMask, as_colours
from perpixel.data.scan_masks import scan_masks
from perpixel.data.splits import UNLABELLED, complete_splits, read_splits, set_groups, splits_to_json
from perpixel.errors import InputError, did_you_mean
from perpixel.files import write_json
from perpixel.images import Volume, probe_image, read_image
from perpixel.labels import ClassTable, FileValue, RawMask

SPLITS_FILE = "splits.json"


@dataclass(frozen=True, eq=False)
class Dataset:
    """Samples by split with their class table. Small, picklable, and reads files only in `load...`.

    Attributes:
        format: the layout's name in FORMATS.
        splits: "train", "val", "test" where they exist, and "unlabelled" for images without masks.
        notes: one plain sentence for each thing that was inferred or left out.
        channels: what `load_image` gives for every sample: where grey and colour images are mixed it is 3.
        spatial_dims: 2 for images (H, W, C), 3 for volumes (C, D, H, W).
        channel_names: what the data set calls its channels; empty where it does not.
    """

    root: Path
    format: str
    classes: ClassTable
    splits: dict[str, tuple[Sample, ...]]
    notes: tuple[str, ...]
    seed: int
    channels: int
    spatial_dims: int = 2
    channel_names: tuple[str, ...] = ()

    def split(self, name: str) -> tuple[Sample, ...]:
        """The samples of one split.

        Raises:
            InputError: there is no such split, or it is empty.
        """
        samples = self.splits.get(name, ())
        if not samples:
            known = ", ".join(f"{key} ({len(value)})" for key, value in self.splits.items() if value) or "none"
            state = "is empty" if name in self.splits else "does not exist"
            raise InputError(f"{self.root}: split '{name}' {state}: choose one of {known}, or give splits=")
        return samples

    def load(self, sample: Sample) -> tuple[np.ndarray, np.ndarray]:
        """Image (H, W, C) and label map (H, W) of a sample, read together; of volumes (C, D, H, W) and (D, H, W)."""
        if self.spatial_dims == 3:
            case = self.load_case(sample)
            if case.label_map is None:
                raise InputError(f"{sample.where}: has no label map: add one or leave the volume to prediction")
            return case.image, case.label_map
        image = self.load_image(sample)
        return image, self.load_label_map(sample, size=(image.shape[0], image.shape[1]))

    def load_case(self, sample: Sample) -> Case:
        """A volume with its label map, where it has one, and where it lies.

        Raises:
            InputError: unreadable, a label that lies elsewhere, or values outside the class table.
        """
        volume = self.load_volume(sample)
        label_map = None
        if sample.mask is not None:
            encoded = read_labels(sample, self.classes, volume.source.header)
            if lies_apart(encoded.label.difference):
                raise InputError(f"{describe_difference(sample, encoded.label)}: {difference_remedy(encoded.label)}")
            self._refuse_unknown(sample, encoded.unknown)
            label_map = encoded.label_map
        return Case(volume.array, label_map, volume.geometry, volume.source)

    def load_volume(self, sample: Sample) -> Volume:
        """The volume of a sample with its geometry.

        Raises:
            InputError: unreadable, or a number of channels that does not fit.
        """
        return load_volume(sample, self.channels)

    def load_image(self, sample: Sample) -> np.ndarray:
        """The image as (H, W, C), C = `channels`, uint8, uint16 or float32; of volumes (C, D, H, W), int16 too.

        Raises:
            InputError: unreadable, channel files of different sizes, or a number of channels that does not fit.
        """
        if self.spatial_dims == 3:
            return self.load_volume(sample).array
        parts = [read_image(path, frame=sample.frame) for path in sample.images]
        sizes = {part.shape[:2] for part in parts}
        if len(sizes) > 1:
            listed = ", ".join(_size(size) for size in sorted(sizes))
            raise InputError(
                f"{sample.where}: its channel files have different sizes ({listed}): save them at one size"
            )
        image = parts[0] if len(parts) == 1 else np.concatenate(_one_dtype(parts), axis=2)
        return self._fit_channels(image, sample)

    def _fit_channels(self, image: np.ndarray, sample: Sample) -> np.ndarray:
        found = image.shape[2]
        if found == self.channels:
            return image
        if self.channels == 3 and found == 1:
            return np.repeat(image, 3, axis=2)
        if self.channels == 3 and found == 4:
            return np.ascontiguousarray(image[:, :, :3])
        raise InputError(
            f"{sample.where}: {found} channels, but the data set has {self.channels}: "
            "save all images with the same channels"
        )

    def load_label_map(self, sample: Sample, *, size: tuple[int, int] | None = None) -> np.ndarray:
        """Class indices (H, W), uint8 or uint16, with `classes.ignore_index` where nothing is to be learnt.

        Args:
            size: (H, W) of the image, when known; else its header is read.
        Raises:
            InputError: no mask, unreadable, another size than the image, or values outside the class table.
        """
        if self.spatial_dims == 3:
            return self.load(sample)[1]
        label_map, unknown = self.encode_mask(sample, size=size)
        self._refuse_unknown(sample, unknown)
        return label_map

    def _refuse_unknown(self, sample: Sample, unknown: dict[FileValue, int]) -> None:
        if unknown:
            value, count = next(iter(unknown.items()))
            more = f" and {len(unknown) - 1} other values" if len(unknown) > 1 else ""
            raise InputError(f"{self.describe_unknown(sample, value, count, more)}: {self.unknown_remedy(value)}")

    def encode_mask(
        self, sample: Sample, *, size: tuple[int, int] | None = None
    ) -> tuple[np.ndarray, dict[int | tuple[int, int, int], int]]:
        """As `load_label_map`, but values outside the table come back with their pixel counts, most frequent first."""
        if sample.mask is None:
            raise InputError(f"{sample.where}: has no mask: add one or leave the image to prediction")
        raw = sample.mask.read()
        if size is None:
            info = probe_image(sample.images[0])
            size = (info.height, info.width)
        if raw.values.shape[:2] != tuple(size):
            raise InputError(size_mismatch(sample, (raw.values.shape[0], raw.values.shape[1]), size))
        label_map, unknown = self.classes.encode(_values_for(self.classes, raw, sample))
        return label_map, dict(sorted(unknown.items(), key=lambda item: -item[1]))

    def describe_unknown(self, sample: Sample, value: object, count: int, more: str = "") -> str:
        """What and where of a value outside the table."""
        names = ", ".join(self.classes.names[:6]) + (", ..." if self.classes.num_classes > 6 else "")
        return (
            f"{sample.mask_where}: value {value} ({count} {'voxels' if self.spatial_dims == 3 else 'pixels'}{more}) is "
            "in none of the "
            f"{self.classes.num_classes} classes ({names})"
        )

    def unknown_remedy(self, value: object) -> str:
        """What to do about a value outside the table."""
        if isinstance(value, tuple):
            return "add the colour to classes.json or to its ignore_values, or correct the mask"
        return (
            f"add it to classes.json, ignore it with ignore_values={value}, or mend the mask (a lossy one with --snap)"
        )


def size_mismatch(sample: Sample, mask: tuple[int, int], image: tuple[int, int]) -> str:
    """The message for a mask that does not lie on its image."""
    remedy = "save the mask at the image's size"
    if mask == (image[1], image[0]):
        remedy = (
            "one of the two is turned: an EXIF rotation in the photo, or swapped height and width; save the photo "
            "upright and label it again"
        )
    return (
        f"{sample.mask_where}: mask of {_size(mask)} pixels, but its image {sample.images[0].name} has "
        f"{_size(image)}: {remedy}"
    )


def _size(size: Sequence[int]) -> str:
    return f"{size[0]} x {size[1]}"


def _one_dtype(parts: list[np.ndarray]) -> list[np.ndarray]:
    dtype = np.result_type(*parts)
    return [part.astype(dtype, copy=False) for part in parts]


def _values_for(table: ClassTable, raw: RawMask, sample: Sample) -> np.ndarray:
    """The mask's values in the kind that the table lists: colours or numbers."""
    listed = chain(table.ignore_values, chain.from_iterable(info.values for info in table.classes))
    if any(isinstance(value, tuple) for value in listed):
        return as_colours(raw)
    if raw.values.ndim == 3:
        raise InputError(
            f"{sample.mask_where}: a colour mask, but the class table lists numbers: give the colours in classes.json "
            'as "values": [[r, g, b]], or save the mask with numbers'
        )
    return raw.values


def open_dataset(
    path: str | Path,
    *,
    format: str = "auto",
    classes: str | Path | None = None,
    splits: str | Path | None = None,
    group: str | None = None,
    val_fraction: float = 0.15,
    test_fraction: float | None = None,
    seed: int = 0,
    snap: bool = False,
    ignore_values: Sequence[int] = (),
    spatial_dims: int | None = None,
) -> Dataset:
    """Find out how a data set lies on the disk, which classes it has and who trains on what.

    Args:
        path: a folder, a CSV of pairs or a COCO JSON.
        format: a name in FORMATS, or "auto".
        classes: a class table; by default classes.json at the root, else the format's own, else inferred from
            the values in all masks.
        splits: a JSON file as `save_splits` writes it; by default splits.json at the root, else as the format knows.
        group: keep samples together when a split is drawn: "parent" or a regular expression with one group.
        val_fraction: share for val where the data set names none; drawn with `seed`.
        test_fraction: share for test; None = 0.15 where no split at all is known, else none.
        snap: take smoothed or lossy masks, every pixel as the nearest of the main (or listed) values.
        ignore_values: mask values left out of training and scores, beside those of the class table.
        spatial_dims: 2 reads images, 3 volumes (TIFF stacks too); None = 3 where there are more NIfTI or zarr volumes
            than images.
    Raises:
        InputError: whatever keeps the data set from being read, with file, value and remedy.
    """
    root = Path(path)
    if not root.exists():
        raise InputError(f"{root}: no such file or folder: check the path")
    user = find_class_file(root, classes)
    name, layout, notes = _read_layout(root, format, user.table if user else None, spatial_dims)
    home = root if root.is_dir() else root.parent
    layout = _regroup(layout, group, home)
    split_file = Path(splits) if splits is not None else home / SPLITS_FILE
    if splits is not None or split_file.is_file():
        every = list(chain.from_iterable(layout.splits.values()))
        known, split_notes = read_splits(split_file, every)
        layout = replace(layout, splits=known, notes=[*layout.notes, *split_notes])
    done, drawn_notes = complete_splits(
        layout.splits, val_fraction=val_fraction, test_fraction=test_fraction, seed=seed
    )
    if not done:
        raise InputError(f"{root}: no image has a mask: add masks, or use predict for images alone")
    table, done, class_notes = _classes(layout, user, done, snap, ignore_values)
    if layout.unlabelled:
        done[UNLABELLED] = tuple(layout.unlabelled)
    every_sample = list(chain.from_iterable(done.values()))
    channels, channel_notes = (find_volume_channels if layout.spatial_dims == 3 else find_channels)(every_sample)
    every_note = (*notes, *layout.notes, *class_notes, *drawn_notes, *channel_notes)
    return Dataset(home, name, table, done, every_note, seed, channels, layout.spatial_dims, _names(layout, channels))


def _read_layout(
    root: Path, format: str, table: ClassTable | None, spatial_dims: int | None
) -> tuple[str, Layout, list[str]]:
    if spatial_dims not in (None, 2, 3):
        raise InputError(f"spatial_dims {spatial_dims} is not known: 2 reads images, 3 volumes")
    if format != "auto":
        if format not in FORMATS:
            raise InputError(f"unknown data set format '{format}'{did_you_mean(format, ('auto', *FORMATS))}")
        return format, _read_as(format, root, table, spatial_dims), []
    found = [name for name, entry in FORMATS.items() if entry.detect(root)]
    if not found:
        raise InputError(
            f"{root}: a file that is neither a CSV of pairs nor a COCO JSON: give the folder of the data set"
        )
    # Pairs fits every folder, so it says nothing beside another format.
    others = [name for name in found[1:] if name != "pairs"]
    note = (
        f"read as {found[0]}; it also looks like {' and '.join(others)}: format={others[0]} reads it so"
        if others
        else ""
    )
    return found[0], _read_as(found[0], root, table, spatial_dims), [note] if note else []


def _read_as(name: str, root: Path, table: ClassTable | None, spatial_dims: int | None) -> Layout:
    entry = FORMATS[name]
    if entry.takes_volumes:
        return entry.read(root, table, spatial_dims or count_dims(root))
    if spatial_dims == 3:
        known = ", ".join(key for key, other in FORMATS.items() if other.takes_volumes)
        raise InputError(f"{root}: format '{name}' holds images, where volumes are asked for: use one of {known}")
    return entry.read(root, table)


def _names(layout: Layout, channels: int) -> tuple[str, ...]:
    """The channels' names, where there is one for each."""
    return layout.channel_names if len(layout.channel_names) == channels else ()


def _regroup(layout: Layout, group: str | None, home: Path) -> Layout:
    if group is None:
        return layout
    return replace(layout, splits={name: set_groups(samples, group, home) for name, samples in layout.splits.items()})


def _classes(
    layout: Layout,
    user: ClassFile | None,
    splits: dict[str, tuple[Sample, ...]],
    snap: bool,
    ignore_values: Sequence[int],
) -> tuple[ClassTable, dict[str, tuple[Sample, ...]], list[str]]:
    """The class table (the user's, the format's, or inferred), the samples as it wants them read, and notes."""
    given = user.table if user else layout.classes
    if given is not None:
        notes = [user.note] if user else []
        table = ignore_more(given, (*ignore_values, *layout.ignore_values))
        listed = [value for info in table.classes for value in info.values] + list(table.ignore_values)
        splits = _set_reading(splits, instances=bool(user and user.instances), snap_to=tuple(listed) if snap else ())
        if snap:
            notes.append("mask values are snapped to the nearest value of the class table")
        return table, splits, notes
    samples = list(chain.from_iterable(splits.values()))
    inference = infer_classes(scan_masks(samples), snap=snap, ignore_values=ignore_values)
    splits = _set_reading(splits, instances=inference.instances, snap_to=inference.snap_to)
    return inference.classes, splits, list(inference.notes)


def _set_reading(
    splits: dict[str, tuple[Sample, ...]], *, instances: bool, snap_to: tuple[int | tuple[int, int, int], ...]
) -> dict[str, tuple[Sample, ...]]:
    if not instances and not snap_to:
        return dict(splits)
    if len({isinstance(value, tuple) for value in snap_to}) > 1:
        raise InputError("the class table mixes numbers and colours: --snap needs one kind of values")

    def change(sample: Sample) -> Sample:
        if not isinstance(sample.mask, FileMask | VolumeMask):
            return sample
        return replace(sample, mask=replace(sample.mask, instances=instances, snap_to=snap_to))

    return {name: tuple(change(sample) for sample in samples) for name, samples in splits.items()}


class HasSplits(Protocol):
    """A data set of any kind, as far as it is written down."""

    @property
    def root(self) -> Path: ...

    @property
    def splits(self) -> dict[str, tuple[Sample, ...]]: ...

    @property
    def classes(self) -> ClassTable: ...


def save_splits(dataset: HasSplits, path: str | Path) -> Path:
    """Write the splits as {"train": [names], ...}; `open_dataset(..., splits=path)` reads them back."""
    return write_json(path, splits_to_json(dataset.splits))


def save_classes(dataset: HasSplits, path: str | Path) -> Path:
    """Write the class table with how masks are read; `open_dataset(..., classes=path)` then infers nothing anew."""
    samples = chain.from_iterable(dataset.splits.values())
    instances = any(isinstance(sample.mask, FileMask | VolumeMask) and sample.mask.instances for sample in samples)
    return write_json(path, {**dataset.classes.to_json(), **({"instances": True} if instances else {})})
