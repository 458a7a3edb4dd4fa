"""The forms in which the objects of an image can lie on the disk, read into `Instances`.

Each source is a mask as well (`MaskSource`): `read` paints the objects' classes, so that a semantic net can learn from
the same data. What is wrong with single objects does not stop the reading: it comes back as findings, and an object
that cannot be used is left out by name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from perpixel.data.formats.layout import first_few
from perpixel.data.sample import as_colours
from perpixel.errors import InputError
from perpixel.images import MAX_PIXELS
from perpixel.labels import (
    VOID,
    ClassTable,
    FileValue,
    Instances,
    RawMask,
    Runs,
    connected_components,
    read_mask,
    runs_of_label_map,
    spans_of_mask,
)

CROWD_VALUE = 65535


@dataclass(frozen=True)
class Finding:
    """Something wrong or odd in the objects of one image.

    Attributes:
        severity: "error" keeps the image from being read, "warning" and "info" do not.
        code: a fixed word for machines.
        message: what and how much, without the file.
        count: objects concerned.
        remedy: what to do.
    """

    severity: str
    code: str
    message: str
    count: int
    remedy: str


@dataclass(frozen=True, eq=False)
class Reading:
    """The objects of an image, and what is to be said about them."""

    instances: Instances
    findings: tuple[Finding, ...] = ()


@runtime_checkable
class ObjectSource(Protocol):
    """Where the objects of an image come from."""

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files behind them; the first one names them in messages."""
        ...

    def read_objects(self) -> Reading:
        """Read them, at the size of the annotation.

        Raises:
            InputError: a file that cannot be read at all.
        """
        ...

    def read(self) -> RawMask:
        """The class indices painted on background 0, small objects over large ones, crowds as `CROWD_VALUE`."""
        ...


def paint_classes(instances: Instances) -> RawMask:
    """Class indices (H, W), crowds first (65535), then objects from large to small."""
    order = instances.painting_order()
    order = np.concatenate([order[instances.is_crowd[order]], order[~instances.is_crowd[order]]])
    values = np.where(instances.is_crowd, CROWD_VALUE, instances.classes)
    return RawMask(instances.masks.paint(order, values).astype(np.uint16), None, False, "index")


def read_reading(where: Path, masks: Runs, classes: Iterable[int], names: list[str], **more: Any) -> Reading:
    """Objects without those that cover no pixel, which are named in a finding."""
    instances = Instances.of(masks, np.array(list(classes), np.int64), **more)
    empty = np.flatnonzero(masks.areas == 0)
    if not len(empty):
        return Reading(instances)
    return Reading(instances.take(masks.areas > 0), (empty_objects([names[index] for index in empty]),))


def empty_objects(names: list[str]) -> Finding:
    """The finding for objects without a pixel."""
    what = "object covers" if len(names) == 1 else "objects cover"
    message = f"{len(names)} {what} no pixel and {'is' if len(names) == 1 else 'are'} left out ({first_few(names)})"
    return Finding("warning", "empty_object", message, len(names), "delete them or draw them larger")


@dataclass(frozen=True)
class MapObjects:
    """An image in which each object has a number of its own, 0 is background.

    Attributes:
        frame: page of a stack.
        kind: class index of all objects.
        void_values: numbers of pixels of which nothing is known.
        split_parts: every connected part (4 neighbours) of what is not background is an object, whatever its number.
    """

    path: Path
    frame: int | None = None
    kind: int = 1
    void_values: tuple[int, ...] = ()
    split_parts: bool = False

    @property
    def paths(self) -> tuple[Path, ...]:
        return (self.path,)

    def read_objects(self) -> Reading:
        raw = read_mask(self.path, frame=self.frame)
        refuse_lossy(self.path, raw)
        if raw.values.ndim == 3:
            raise InputError(
                f"{self.path}: a colour mask where object numbers are expected: save one number per object, 0 outside"
            )
        values = raw.values.astype(np.int64) if raw.values.dtype.kind == "i" else raw.values
        if values.dtype.kind == "i" and int(values.min(initial=0)) < 0 and int(values.min()) not in self.void_values:
            raise InputError(
                f"{self.path}: object number {int(values.min())}: number the objects from 1, background is 0, or name "
                "the value of unlabelled pixels in ignore_values"
            )
        void = np.isin(values, self.void_values)
        numbered = np.where(void, 0, values)
        if self.split_parts:
            numbered, _ = connected_components(numbered != 0, diagonal=False)
        masks, numbers = runs_of_label_map(numbered)
        return Reading(_with_void(masks, np.full(len(numbers), self.kind), void))

    def read(self) -> RawMask:
        return paint_classes(self.read_objects().instances)


def refuse_lossy(path: Path, raw: RawMask) -> None:
    """Raise InputError for a JPEG: its numbers are not those that were saved."""
    if raw.lossy:
        raise InputError(f"{path}: a lossy file cannot hold object numbers: save it as PNG or TIFF")


def _with_void(masks: Runs, kinds: Any, void: Any, crowds: Any = False) -> Instances:
    """Objects, and the void as one more of them where there is any."""
    size = masks.size
    is_crowd = np.broadcast_to(np.asarray(crowds, bool), (len(masks),))
    if void.any():
        parts = [masks.of(index) for index in range(len(masks))]
        masks = Runs.join(size, [*parts, spans_of_mask(void, (0, 0), size)])
        kinds, is_crowd = np.append(kinds, VOID), np.append(is_crowd, True)
    return Instances.of(masks, kinds, is_crowd=is_crowd)


@dataclass(frozen=True)
class FileObjects:
    """One binary file per object.

    Attributes:
        files: in `folder`; none when the image holds no object.
        size: (H, W) of the image, needed only without files.
        kind: class index of all objects.
    """

    folder: Path
    files: tuple[Path, ...]
    size: tuple[int, int]
    kind: int = 1

    @property
    def paths(self) -> tuple[Path, ...]:
        return (self.folder, *self.files)

    def read_objects(self) -> Reading:
        size = self.size
        parts = []
        for index, path in enumerate(self.files):
            raw = read_mask(path)
            values = raw.values.max(axis=2) if raw.values.ndim == 3 else raw.values
            # A JPEG's zeros are not quite zero; a lossless file means every value that it holds.
            mask = values > 127 if raw.lossy else values != 0
            if index == 0:
                size = (mask.shape[0], mask.shape[1])
            elif mask.shape != size:
                raise InputError(
                    f"{path}: {mask.shape[0]} x {mask.shape[1]} pixels, but {self.files[0].name} has {size[0]} x "
                    f"{size[1]}: save all objects of an image at its full size"
                )
            parts.append(spans_of_mask(mask, (0, 0), size))
        kinds = [self.kind] * len(parts)
        return read_reading(self.folder, Runs.join(size, parts), kinds, [path.name for path in self.files])

    def read(self) -> RawMask:
        return paint_classes(self.read_objects().instances)


@dataclass(frozen=True, eq=False)
class CodedObjects:
    """Cityscapes' instanceIds: label * 1000 + number for single objects, the label alone for groups and for stuff.

    Attributes:
        kinds: class index by label, of things only.
        void_labels: labels of which the benchmark takes no account.
    """

    path: Path
    kinds: Mapping[int, int]
    void_labels: tuple[int, ...] = ()

    @property
    def paths(self) -> tuple[Path, ...]:
        return (self.path,)

    def read_objects(self) -> Reading:
        raw = read_mask(self.path)
        refuse_lossy(self.path, raw)
        values = raw.values
        if values.ndim == 3:
            raise InputError(f"{self.path}: a colour mask where instance ids are expected: take *_instanceIds.png")
        labels = np.where(values >= 1000, values // 1000, values)
        void = np.isin(labels, self.void_labels)
        things = np.isin(labels, list(self.kinds))
        masks, numbers = runs_of_label_map(np.where(things & ~void, values, 0))
        kinds = [self.kinds[number // 1000 if number >= 1000 else number] for number in numbers.tolist()]
        return Reading(_with_void(masks, np.array(kinds, np.int64), void, numbers < 1000))

    def read(self) -> RawMask:
        return paint_classes(self.read_objects().instances)


@dataclass(frozen=True, eq=False)
class PairedObjects:
    """VOC: one image numbers the objects, a second one gives the class of each pixel.

    An object has the class that most of its pixels have. `void` values are the white borders between objects.
    """

    path: Path
    class_path: Path
    table: ClassTable
    void: tuple[FileValue, ...] = (255, (224, 224, 192))

    @property
    def paths(self) -> tuple[Path, ...]:
        return (self.path, self.class_path)

    def read_objects(self) -> Reading:
        raw, class_raw = read_mask(self.path), read_mask(self.class_path)
        refuse_lossy(self.path, raw)
        values = _one_number(raw.values)
        kinds_map, unknown = self.table.encode(_as_listed(self.table, class_raw))
        if kinds_map.shape != values.shape:
            raise InputError(
                f"{self.path}: {values.shape[0]} x {values.shape[1]} pixels, but {self.class_path.name} has "
                f"{kinds_map.shape[0]} x {kinds_map.shape[1]}: save both at the image's size"
            )
        voids = [
            _one_number(np.array(value))[()] for value in self.void if isinstance(value, int) == (raw.values.ndim == 2)
        ]
        void = np.isin(values, voids)
        masks, numbers = runs_of_label_map(np.where(void, 0, values))
        kinds = [_most_frequent(kinds_map, masks, index, self.table) for index in range(len(numbers))]
        bare = [int(number) for number, kind in zip(numbers, kinds) if kind == 0]
        keep = np.array([kind > 0 for kind in kinds], bool)
        instances = _with_void(masks.take(keep), np.array(kinds, np.int64)[keep], void)
        return Reading(instances, tuple(self._findings(bare, unknown)))

    def _findings(self, bare: list[int], unknown: Mapping[Any, int]) -> Iterable[Finding]:
        for value, count in unknown.items():
            message = f"value {value} ({count} pixels) of {self.class_path.name} is in none of the classes"
            yield Finding("error", "unknown_value", message, count, "add it to classes.json or to its ignore_values")
        if bare:
            message = f"{len(bare)} objects ({first_few(bare)}) have no class in {self.class_path.name}: left out"
            yield Finding("warning", "object_without_class", message, len(bare), "paint their class there")

    def read(self) -> RawMask:
        return paint_classes(self.read_objects().instances)


def _one_number(values: Any) -> Any:
    """Colours (..., 3) as one number a pixel, black 0; numbers as they are."""
    if values.ndim and values.shape[-1] == 3 and values.ndim != 2:
        wide = values.astype(np.int64)
        return wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2]
    return values


def _as_listed(table: ClassTable, raw: RawMask) -> Any:
    """The values in the kind that the table lists: colours or numbers."""
    listed = [*table.ignore_values, *(value for info in table.classes for value in info.values)]
    return as_colours(raw) if any(isinstance(value, tuple) for value in listed) else raw.values


def _most_frequent(kinds_map: Any, masks: Runs, index: int, table: ClassTable) -> int:
    """The class of most of an object's pixels; 0 where all are background or ignored."""
    mask, (row, col) = masks.crop(index)
    inside = kinds_map[row : row + mask.shape[0], col : col + mask.shape[1]][mask]
    counts = np.bincount(inside, minlength=table.num_classes)[: table.num_classes]
    counts[0] = 0
    return int(counts.argmax()) if counts.any() else 0


def check_size(size: tuple[int, int], where: str) -> None:
    """Refuse a stated size without pixels, or of more than can be read."""
    if not 0 < size[0] * size[1] <= MAX_PIXELS:
        raise InputError(f"{where}: gives the image {size[0]} x {size[1]} pixels: mend the size")
