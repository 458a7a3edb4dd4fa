"""What a format's reader hands back, and what it is told."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from perpixel.data.formats.folder_words import is_there
from perpixel.data.sample import FileMask, Sample, VolumeMask
from perpixel.errors import InputError
from perpixel.labels import ClassTable

# Every format gives its samples under these names; None holds samples for which the format knows no split.
SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Layout:
    """Samples by split, as a format found them.

    Attributes:
        splits: keys "train", "val", "test", and None for samples without a split.
        unlabelled: images without any mask, kept apart.
        ignore_values: mask values of the format's own making that are ignored whatever the class table says.
        classes: the format's own class table; None = to be inferred from the masks.
        notes: plain sentences about what was assumed.
        spatial_dims: 2 for images, 3 for volumes.
        channel_names: what the format calls its channels; empty where it does not.
    """

    splits: dict[str | None, list[Sample]]
    classes: ClassTable | None = None
    notes: list[str] = field(default_factory=list)
    unlabelled: list[Sample] = field(default_factory=list)
    ignore_values: tuple[int, ...] = ()
    spatial_dims: int = 2
    channel_names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Format:
    """One way in which a data set can lie on the disk.

    Attributes:
        drawing: the layout in one line, for messages and docs.
        detect: path -> does it look so? Quick; raises nothing.
        read: (path, the user's class table or None) -> Layout; with `takes_volumes` a third argument, 2 or 3, says
            whether images or volumes are meant.
    """

    drawing: str
    detect: Callable[[Path], bool]
    read: Callable[..., Layout]
    takes_volumes: bool = False


def of_volumes(layout: Layout) -> Layout:
    """The layout with every file as a volume: masks are read as label maps of three dimensions."""

    def change(sample: Sample) -> Sample:
        return replace(sample, mask=VolumeMask(sample.mask.path)) if isinstance(sample.mask, FileMask) else sample

    splits = {name: [change(sample) for sample in samples] for name, samples in layout.splits.items()}
    return replace(layout, splits=splits, spatial_dims=3)


def first_few(names: Iterable[object], count: int = 3) -> str:
    """The first few names and how many more there are: "a, b, c and 4 more"."""
    listed = [str(name) for name in names]
    rest = len(listed) - count
    return ", ".join(listed[:count]) + (f" and {rest} more" if rest > 0 else "")


def refuse_missing(files: list[Path], where: Path, what: str, remedy: str) -> None:
    """Raise InputError when any of `files`, named in `where`, does not exist."""
    missing = [path for path in files if not is_there(path)]
    if missing:
        raise InputError(
            f"{where}: {len(missing)} of {len(files)} {what} do not exist ({first_few(missing)}): {remedy}"
        )
