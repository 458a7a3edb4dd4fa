"""TIFF stacks: an image file and a mask file with the same number of pages give one sample per page."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from perpixel.data.formats.layout import Layout
from perpixel.data.sample import FileMask, Sample
from perpixel.data.threads import map_threads
from perpixel.errors import InputError
from perpixel.images import probe_image

STACK_SUFFIXES = {".tif", ".tiff", ".gif"}


def expand_stacks(layout: Layout) -> Layout:
    """Replace each sample of several pages by one sample per page, with the stack's name as group.

    Raises:
        InputError: image and mask have different numbers of pages.
    """
    samples = [sample for split in layout.splits.values() for sample in split] + layout.unlabelled
    stacks = sorted({path for sample in samples for path in _stack_paths(sample)})
    if not stacks:
        return layout
    frames = dict(zip(stacks, map_threads(_count_frames, stacks)))
    if max(frames.values()) <= 1:
        return layout
    splits = {name: _expand_all(split, frames) for name, split in layout.splits.items()}
    count = sum(frame_count > 1 for frame_count in frames.values())
    note = f"{count} files hold several frames: every frame is a sample of its own, grouped by file"
    return replace(
        layout, splits=splits, unlabelled=_expand_all(layout.unlabelled, frames), notes=[*layout.notes, note]
    )


def _stack_paths(sample: Sample) -> list[Path]:
    paths = list(sample.images) + ([sample.mask.path] if isinstance(sample.mask, FileMask) else [])
    return [path for path in paths if path.suffix.lower() in STACK_SUFFIXES]


def _count_frames(path: Path) -> int:
    return probe_image(path).frames


def _expand_all(samples: list[Sample], frames: dict[Path, int]) -> list[Sample]:
    return [frame for sample in samples for frame in _expand(sample, frames)]


def _expand(sample: Sample, frames: dict[Path, int]) -> list[Sample]:
    count = frames.get(sample.images[0], 1)
    mask = sample.mask
    if isinstance(mask, FileMask):
        mask_count = frames.get(mask.path, 1)
        if mask_count != count:
            raise InputError(
                f"{mask.path}: {mask_count} frames, but its image {sample.images[0].name} has {count}: "
                "save one mask frame per image frame"
            )
    if count == 1:
        return [sample]
    digits = max(4, len(str(count - 1)))
    return [
        replace(
            sample,
            name=f"{sample.name}/{index:0{digits}d}",
            frame=index,
            group=sample.group or sample.name,
            mask=replace(mask, frame=index) if isinstance(mask, FileMask) else mask,
        )
        for index in range(count)
    ]
