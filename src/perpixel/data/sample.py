"""One image with its mask, and the forms in which a mask can lie on the disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from perpixel.data.shapes import fill_polygon, fill_runs, read_run_text
from perpixel.errors import InputError
from perpixel.images import MAX_PIXELS, VolumeHeader
from perpixel.labels import FileValue, LabelVolume, RawMask, read_label_volume, read_mask


class MaskSource(Protocol):
    """Where a mask comes from. `read` gives the values as they stand in the file, before any class table."""

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files behind the mask; the first one names it in messages."""
        ...

    def read(self) -> RawMask:
        """Read the mask; `values` is (H, W) integer or (H, W, 3) uint8."""
        ...


@dataclass(frozen=True)
class FileMask:
    """A mask in an image file.

    Attributes:
        frame: page of a stack.
        instances: values above 0 are object numbers; they are read as 1.
        snap_to: every pixel takes the nearest of these values (for lossy masks); empty = as stored.
    """

    path: Path
    frame: int | None = None
    instances: bool = False
    snap_to: tuple[FileValue, ...] = ()

    @property
    def paths(self) -> tuple[Path, ...]:
        return (self.path,)

    def read(self) -> RawMask:
        return _as_asked(read_mask(self.path, frame=self.frame), self)


@dataclass(frozen=True)
class VolumeMask:
    """A label map of three dimensions in a file; `instances` and `snap_to` as for FileMask."""

    path: Path
    instances: bool = False
    snap_to: tuple[FileValue, ...] = ()

    @property
    def paths(self) -> tuple[Path, ...]:
        return (self.path,)

    def read(self) -> RawMask:
        """The slices one below the other, (D * H, W): what looks at values needs to know no third dimension."""
        return self.flatten(read_label_volume(self.path))

    def read_volume(self, image: VolumeHeader) -> LabelVolume:
        """The values as stored, with how they lie on the image."""
        return read_label_volume(self.path, image=image)

    def flatten(self, label: LabelVolume) -> RawMask:
        """(D, H, W) -> (D * H, W), read as objects or snapped where that was asked for."""
        return _as_asked(RawMask(label.values.reshape(-1, label.values.shape[2])), self)


def _as_asked(raw: RawMask, mask: FileMask | VolumeMask) -> RawMask:
    """Objects as 1, or the nearest of the values to snap to, or as it is."""
    if mask.instances:
        if raw.values.ndim == 3:
            raise InputError(
                f"{mask.path}: a colour mask where object numbers are expected: save one number per object, 0 outside"
            )
        return RawMask(values=(raw.values > 0).astype(np.uint8), palette=None, lossy=raw.lossy, kind="index")
    if mask.snap_to:
        values = snap(as_colours(raw) if isinstance(mask.snap_to[0], tuple) else raw.values, mask.snap_to)
        return RawMask(values=values, palette=None, lossy=False, kind="rgb" if values.ndim == 3 else "index")
    return raw


@dataclass(frozen=True)
class ObjectMasks:
    """One binary file per object: their union carries `value`, the rest is 0.

    Attributes:
        files: in `folder`; none when the image holds no object.
        size: (H, W), needed only without files.
    """

    folder: Path
    files: tuple[Path, ...]
    value: int = 1
    size: tuple[int, int] = (0, 0)

    @property
    def paths(self) -> tuple[Path, ...]:
        return self.files or (self.folder,)

    def read(self) -> RawMask:
        union = None if self.files else np.zeros(self.size, dtype=bool)
        for path in self.files:
            raw = read_mask(path)
            values = raw.values.max(axis=2) if raw.values.ndim == 3 else raw.values
            # A JPEG's zeros are not quite zero; a lossless file means every value that it holds.
            on = values > 127 if raw.lossy else values != 0
            if union is None:
                union = on
            elif union.shape != on.shape:
                raise InputError(
                    f"{path}: {_size(on.shape)} pixels, but {self.files[0].name} has {_size(union.shape)}: "
                    "save all objects of an image at its full size"
                )
            else:
                union |= on
        assert union is not None
        return RawMask(values=union.astype(np.uint16) * np.uint16(self.value), palette=None, lossy=False, kind="index")


@dataclass(frozen=True, eq=False)
class Shape:
    """One annotated region with its value: the union of polygons, or run lengths (COCO, counts or their text)."""

    value: int
    polygons: tuple[np.ndarray, ...] = ()
    runs: str | tuple[int, ...] | None = None

    def mask(self, size: tuple[int, int]) -> np.ndarray:
        """The region as (H, W) bool."""
        if self.runs is not None:
            counts: Sequence[int] = read_run_text(self.runs) if isinstance(self.runs, str) else self.runs
            return fill_runs(counts, size)
        region = np.zeros(size, dtype=bool)
        for points in self.polygons:
            fill_polygon(region, points)
        return region


@dataclass(frozen=True, eq=False)
class PolygonMask:
    """Regions from an annotation file, painted in their order (later over earlier) onto 0.

    Attributes:
        shapes: in painting order.
        size: (H, W) that the annotation file states.
        source: the annotation file.
        image: the image's name, for messages.
    """

    shapes: tuple[Shape, ...]
    size: tuple[int, int]
    source: Path
    image: str

    @property
    def paths(self) -> tuple[Path, ...]:
        return (self.source,)

    def read(self) -> RawMask:
        height, width = self.size
        if not 0 < height * width <= MAX_PIXELS:
            raise InputError(f"{self.source}: gives image {self.image} {height}x{width} pixels: mend the size")
        values = np.zeros(self.size, dtype=np.uint16)
        for shape in self.shapes:
            values[self._region(shape)] = shape.value
        return RawMask(values=values, palette=None, lossy=False, kind="index")

    def count_empty(self) -> int:
        """How many shapes cover not a single pixel."""
        return sum(not self._region(shape).any() for shape in self.shapes)

    def _region(self, shape: Shape) -> np.ndarray:
        try:
            return shape.mask(self.size)
        except InputError as error:
            raise InputError(f"{self.source} (image {self.image}): {error}") from error


@dataclass(frozen=True)
class Sample:
    """One image, or one frame of a stack, with its mask.

    Attributes:
        name: unique in the data set; POSIX path without suffix.
        images: usually one file; several = one file per channel, stacked in this order.
        mask: None where the image has none.
        frame: page of a stack.
        group: samples of one group stay in one split when a split is made.
    """

    name: str
    images: tuple[Path, ...]
    mask: MaskSource | None = None
    frame: int | None = None
    group: str | None = None

    @property
    def where(self) -> str:
        """The image file (and frame) in words, for messages."""
        return str(self.images[0]) + ("" if self.frame is None else f" (frame {self.frame})")

    @property
    def mask_where(self) -> str:
        """The mask file (and frame, or image) in words, for messages."""
        if self.mask is None:
            return f"{self.where} (no mask)"
        first = str(self.mask.paths[0])
        if isinstance(self.mask, PolygonMask):
            return f"{first} (image {self.images[0].name})"
        if isinstance(self.mask, ObjectMasks):
            return str(self.mask.folder)
        return first + ("" if self.frame is None else f" (frame {self.frame})")


def as_colours(raw: RawMask) -> np.ndarray:
    """A mask's values as colours, through its palette or as greys: (H, W, 3) uint8.

    Raises:
        InputError: numbers above 255 without a palette, which are no colours.
    """
    if raw.values.ndim == 3:
        return raw.values
    if raw.palette is not None:
        return raw.palette[raw.values]
    if raw.values.size and (raw.values.max() > 255 or raw.values.min() < 0):
        raise InputError(
            f"mask value {int(raw.values.max())} is no colour, but the class table lists colours: "
            "use one kind of mask throughout"
        )
    grey = raw.values.astype(np.uint8) * np.uint8(255 if raw.kind == "bool" and raw.values.max(initial=0) <= 1 else 1)
    return np.repeat(grey[:, :, None], 3, axis=2)


def snap(values: np.ndarray, targets: Sequence[FileValue]) -> np.ndarray:
    """Every pixel to the nearest of `targets`; at a tie the one listed first.

    Args:
        values: (H, W) integer, or (H, W, 3) uint8 with colours as targets.
    """
    wanted = np.asarray(targets, dtype=np.int64)
    if wanted.ndim == 1 and values.ndim == 3:
        raise InputError("a colour mask cannot be snapped to plain values: use one kind of mask throughout")
    flat = values.reshape(-1, *wanted.shape[1:]).astype(np.int64)
    best = np.zeros(len(flat), dtype=np.int64)
    nearest = np.full(len(flat), np.iinfo(np.int64).max)
    for index, target in enumerate(wanted):
        distance = np.abs(flat - target) if wanted.ndim == 1 else ((flat - target) ** 2).sum(axis=1)
        closer = distance < nearest
        best[closer] = index
        nearest[closer] = distance[closer]
    dtype = values.dtype if np.iinfo(values.dtype).max >= wanted.max() else np.int64
    return wanted[best].reshape(values.shape).astype(dtype)


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[0]} x {shape[1]}"
