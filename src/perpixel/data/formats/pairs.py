"""Images and masks of the same name, in folders that say which is which.

    images/0001.jpg            train/images/0001.jpg      img_dir/train/0001.jpg      0001.png
    masks/0001.png             train/masks/0001.png       ann_dir/train/0001.png      0001_mask.png

Words for the folders stand in `folder_words.py`; case and separators do not matter, sub-folders and other folder names
are part of the name. Suffixes that mark a mask (`_mask`, `_gt`, `_seg`, `_L`, ...) are ignored where the plain names
do not meet. A TIFF pair with several pages becomes one sample per page.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path

from perpixel.data.formats.folder_words import (
    OTHER_VOLUME_SUFFIXES,
    bare_name,
    is_picture_of_mask,
    is_readable,
    read_folder_name,
    strip_image_words,
    strip_mask_words,
    walk,
)
from perpixel.data.formats.layout import Layout, first_few, of_volumes
from perpixel.data.formats.list_files import split_by_list_files
from perpixel.data.formats.stacks import expand_stacks
from perpixel.data.sample import FileMask, Sample
from perpixel.errors import InputError
from perpixel.images import IMAGE_SUFFIXES, STACK_SUFFIXES, VOLUME_SUFFIXES
from perpixel.labels import ClassTable


@dataclass(frozen=True)
class FoundFile:
    """An image file and what its path says.

    Attributes:
        folders: the parent folders that say neither split nor role.
    """

    path: Path
    split: str | None
    role: str | None
    folders: tuple[str, ...]

    @property
    def stem(self) -> str:
        return bare_name(self.path)


@dataclass(frozen=True)
class Pair:
    """An image with its mask, or without (None)."""

    image: FoundFile
    mask: FoundFile | None

    @property
    def split(self) -> str | None:
        return self.image.split or (self.mask.split if self.mask else None)


def detect(root: Path) -> bool:
    """Always: this is the last format tried, and its errors say what was looked for."""
    return root.is_dir()


def read(root: Path, classes: ClassTable | None, spatial_dims: int = 2) -> Layout:
    """Read a folder of pairs.

    Raises:
        InputError: no images, no masks, images without masks or the other way round, two masks for an image.
    """
    notes: list[str] = []
    images, masks = find_files(root, spatial_dims)
    pairs = match(images, masks, root)
    labelled = [pair for pair in pairs if pair.mask is not None]
    if not labelled:
        raise InputError(_no_pairs(root, images, masks, spatial_dims))
    kept, unlabelled = _sort_out(root, pairs, masks, notes)
    names = name_files([pair.image for pair in (*kept, *unlabelled)], root)
    splits: dict[str | None, list[Sample]] = {}
    for pair in kept:
        splits.setdefault(pair.split, []).append(_sample(pair, names))
    bare = [_sample(pair, names) for pair in unlabelled]
    if set(splits) == {None}:
        splits, list_notes = split_by_list_files(root, splits[None])
        notes.extend(list_notes)
    layout = Layout(splits, unlabelled=bare, notes=notes)
    return of_volumes(layout) if spatial_dims == 3 else expand_stacks(layout)


def find_files(root: Path, spatial_dims: int = 2) -> tuple[list[FoundFile], list[FoundFile]]:
    """All image files under `root` as (images, masks), by folder words, else by suffix."""
    found = [_found(root, path) for path in walk(root) if is_readable(path, spatial_dims)]
    masks = [file for file in found if file.role == "mask"]
    others = [file for file in found if file.role != "mask"]
    plain: dict[tuple[Path, str], set[Path]] = {}
    for file in others:
        for stem in {file.stem, strip_image_words(file.stem)}:
            plain.setdefault((file.path.parent, stem.lower()), set()).add(file.path)
    images: list[FoundFile] = []
    for file in others:
        stripped = strip_mask_words(file.stem)
        beside = plain.get((file.path.parent, stripped.lower()), set()) - {file.path}
        (masks if stripped != file.stem and beside else images).append(file)
    return images, masks


def _found(root: Path, path: Path) -> FoundFile:
    split: str | None = None
    role: str | None = None
    folders: list[str] = []
    for part in path.relative_to(root).parent.parts:
        words = read_folder_name(part)
        if words is None:
            folders.append(part)
            continue
        split, role = words.split or split, words.role or role
    # ISBI's stacks carry the split as their name: train-volume.tif, train-labels.tif.
    stem = bare_name(path)
    bare = strip_image_words(strip_mask_words(stem))
    words = read_folder_name(bare) if split is None and bare != stem else None
    if words is not None and words.role is None:
        split = words.split
    return FoundFile(path, split, role, tuple(folders))


Key = Callable[[FoundFile], Hashable]


def match(images: Sequence[FoundFile], masks: Sequence[FoundFile], root: Path) -> list[Pair]:
    """Give each image its mask: first by equal names, then without marking words, then across splits and folders.

    Raises:
        InputError: two masks, or two images, of exactly the same name.
    """
    steps: list[tuple[Key, Key, bool]] = [
        (lambda f: (f.split, f.folders, f.stem), lambda f: (f.split, f.folders, f.stem), True),
        (lambda f: (f.split, f.folders, _bare_image(f)), lambda f: (f.split, f.folders, _bare_mask(f)), False),
        (lambda f: (f.folders, f.stem), lambda f: (f.folders, f.stem), False),
        (lambda f: (f.folders, _bare_image(f)), lambda f: (f.folders, _bare_mask(f)), False),
        (lambda f: _bare_image(f), lambda f: _bare_mask(f), False),
    ]
    partner: dict[Path, FoundFile] = {}
    taken: set[Path] = set()
    for image_key, mask_key, strict in steps:
        open_images = _index([file for file in images if file.path not in partner], image_key)
        open_masks = _index([file for file in masks if file.path not in taken], mask_key)
        for key, candidates in open_images.items():
            partners = open_masks.get(key, [])
            if strict and partners:
                _refuse_double(root, candidates, partners)
            if len(candidates) == 1 and len(partners) == 1 and _splits_agree(candidates[0], partners[0]):
                partner[candidates[0].path] = partners[0]
                taken.add(partners[0].path)
    return [Pair(image, partner.get(image.path)) for image in images]


def _bare_image(file: FoundFile) -> str:
    return strip_image_words(file.stem).lower()


def _bare_mask(file: FoundFile) -> str:
    return strip_mask_words(file.stem).lower()


def _splits_agree(image: FoundFile, mask: FoundFile) -> bool:
    return image.split is None or mask.split is None or image.split == mask.split


def _index(files: Sequence[FoundFile], key: Key) -> dict[Hashable, list[FoundFile]]:
    index: dict[Hashable, list[FoundFile]] = {}
    for file in files:
        index.setdefault(key(file), []).append(file)
    return index


def _refuse_double(root: Path, images: list[FoundFile], masks: list[FoundFile]) -> None:
    for files, what in ((masks, "masks for one image"), (images, "images for one mask")):
        if len(files) > 1:
            names = " and ".join(str(file.path.relative_to(root)) for file in files[:3])
            raise InputError(
                f"{root}: {len(files)} {what} ({names}): remove all but one, or list the pairs in a CSV "
                "with the columns image,mask"
            )


def _sort_out(root: Path, pairs: list[Pair], masks: list[FoundFile], notes: list[str]) -> tuple[list[Pair], list[Pair]]:
    """Labelled pairs and images of wholly unlabelled splits; refuse what lacks its partner."""
    kept = [pair for pair in pairs if pair.mask is not None]
    bare = [pair for pair in pairs if pair.mask is None]
    if any(pair.image.role == "image" for pair in kept):
        outside = [pair for pair in bare if pair.image.role is None]
        if outside:
            names = first_few(pair.image.path.relative_to(root) for pair in outside)
            notes.append(f"{len(outside)} image files outside the image folders are left out ({names})")
        bare = [pair for pair in bare if pair.image.role is not None]
    labelled_splits = {pair.split for pair in kept}
    unlabelled = [pair for pair in bare if pair.split is not None and pair.split not in labelled_splits]
    lonely = [pair.image for pair in bare if pair.split is None or pair.split in labelled_splits]
    used = {pair.mask.path for pair in kept if pair.mask is not None}
    widows = [mask for mask in masks if mask.path not in used and not is_picture_of_mask(mask.stem)]
    _refuse_unmatched(root, lonely, widows, len(pairs), len(masks))
    if unlabelled:
        splits = ", ".join(sorted({str(pair.split) for pair in unlabelled}))
        notes.append(f"{len(unlabelled)} images of {splits} have no masks: kept as unlabelled")
    return kept, unlabelled


def _refuse_unmatched(
    root: Path, images: list[FoundFile], masks: list[FoundFile], num_images: int, num_masks: int
) -> None:
    parts = []
    if images:
        names = first_few(file.path.relative_to(root) for file in images)
        parts.append(f"{len(images)} of {num_images} images have no mask ({names})")
    if masks:
        names = first_few(file.path.relative_to(root) for file in masks)
        parts.append(f"{len(masks)} of {num_masks} masks have no image ({names})")
    if parts:
        raise InputError(
            f"{root}: {' and '.join(parts)}: give image and mask the same name, move the rest out, or list the pairs "
            "in a CSV with the columns image,mask"
        )


def _no_pairs(root: Path, images: list[FoundFile], masks: list[FoundFile], spatial_dims: int) -> str:
    if not images and not masks:
        return no_volumes(root) if spatial_dims == 3 else no_images(root)
    if not masks:
        return (
            f"{root}: {len(images)} images but no masks ({first_few(f.path.relative_to(root) for f in images)}): "
            "put a mask of the same name for each image into a folder masks/ beside the images"
        )
    if not images:
        return (
            f"{root}: {len(masks)} masks but no images ({first_few(f.path.relative_to(root) for f in masks)}): "
            "put the images of the same names into a folder images/ beside the masks"
        )
    return (
        f"{root}: {len(images)} images and {len(masks)} masks, but no two share a name "
        f"(images {first_few(f.path.name for f in images)}; masks {first_few(f.path.name for f in masks)}): "
        "give image and mask the same name, or list the pairs in a CSV with the columns image,mask"
    )


def no_images(root: Path) -> str:
    """What to say about a folder without a readable image: volumes, YOLO texts, or nothing known."""
    files = walk(root)
    volumes = [path for path in files if path.name.lower().endswith(OTHER_VOLUME_SUFFIXES)]
    if volumes:
        return (
            f"{root}: {len(volumes)} volumes of a kind that is not read ({first_few(path.name for path in volumes)}): "
            f"convert them to .nii.gz (read are {' '.join(VOLUME_SUFFIXES)} and TIFF stacks)"
        )
    return (
        f"{root}: no images among {len(files)} files (known suffixes: {' '.join(sorted(IMAGE_SUFFIXES))}): "
        "check the path; a data set is a folder with images/ and masks/, see the page on data sets for other layouts"
    )


def no_volumes(root: Path) -> str:
    """What to say about a folder without a volume, where volumes are asked for."""
    known = " ".join((*VOLUME_SUFFIXES, *STACK_SUFFIXES))
    return (
        f"{root}: no volumes among {len(walk(root))} files (known suffixes: {known}): check the path, or read pictures "
        "with spatial_dims=2"
    )


def name_files(files: Sequence[FoundFile], root: Path) -> dict[Path, str]:
    """A unique name for each file: folders and stem; with the split, then the whole path, where names would meet."""
    relative = [file.path.relative_to(root) for file in files]
    ways = (
        ["/".join((*file.folders, file.stem)) for file in files],
        ["/".join((*((file.split,) if file.split else ()), *file.folders, file.stem)) for file in files],
        [path.with_name(bare_name(path)).as_posix() for path in relative],
        [path.as_posix() for path in relative],
    )
    names = next(way for way in ways if len(set(way)) == len(files))
    return {file.path: name for file, name in zip(files, names)}


def _sample(pair: Pair, names: dict[Path, str]) -> Sample:
    mask = None if pair.mask is None else FileMask(pair.mask.path)
    return Sample(names[pair.image.path], (pair.image.path,), mask)
