"""Cityscapes.

    leftImg8bit/{train,val,test}/<city>/<city>_<sequence>_<frame>_leftImg8bit.png
    gtFine/{train,val,test}/<city>/<city>_<sequence>_<frame>_gtFine_{labelTrainIds,labelIds}.png

labelTrainIds are taken where they exist, else labelIds; both give the 19 classes of the benchmark, the rest is ignored.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from perpixel.data.class_file import make_table
from perpixel.data.formats.layout import SPLITS, Layout, first_few
from perpixel.data.sample import FileMask, Sample
from perpixel.errors import InputError
from perpixel.labels import ClassTable, read_mask

# name, labelId, trainId, colour: the benchmark's own table (labels.py of cityscapesScripts).
CLASSES: tuple[tuple[str, int, int, tuple[int, int, int]], ...] = (
    ("road", 7, 0, (128, 64, 128)),
    ("sidewalk", 8, 1, (244, 35, 232)),
    ("building", 11, 2, (70, 70, 70)),
    ("wall", 12, 3, (102, 102, 156)),
    ("fence", 13, 4, (190, 153, 153)),
    ("pole", 17, 5, (153, 153, 153)),
    ("traffic light", 19, 6, (250, 170, 30)),
    ("traffic sign", 20, 7, (220, 220, 0)),
    ("vegetation", 21, 8, (107, 142, 35)),
    ("terrain", 22, 9, (152, 251, 152)),
    ("sky", 23, 10, (70, 130, 180)),
    ("person", 24, 11, (220, 20, 60)),
    ("rider", 25, 12, (255, 0, 0)),
    ("car", 26, 13, (0, 0, 142)),
    ("truck", 27, 14, (0, 0, 70)),
    ("bus", 28, 15, (0, 60, 100)),
    ("train", 31, 16, (0, 80, 100)),
    ("motorcycle", 32, 17, (0, 0, 230)),
    ("bicycle", 33, 18, (119, 11, 32)),
)
# Ids 0..33 that the benchmark leaves out; the licence plate (-1) is 255 in an 8-bit file.
IGNORED_IDS = (*(i for i in range(34) if i not in {row[1] for row in CLASSES}), 255)
IMAGE_TAIL = "_leftImg8bit"
MASK_FOLDERS = ("gtFine", "gtCoarse")
MASK_KINDS = ("labelTrainIds", "labelIds")


def table(kind: str) -> ClassTable:
    """The 19 classes for masks of `kind`, "labelTrainIds" or "labelIds"."""
    ignored = (255,) if kind == "labelTrainIds" else IGNORED_IDS
    rows = [(row[0], row[2] if kind == "labelTrainIds" else row[1]) for row in CLASSES]
    return make_table(rows, colours=[row[3] for row in CLASSES], ignore_values=ignored)


def detect(root: Path) -> bool:
    """A folder leftImg8bit beside gtFine or gtCoarse."""
    return (root / "leftImg8bit").is_dir() and any((root / name).is_dir() for name in MASK_FOLDERS)


def read(root: Path, classes: ClassTable | None) -> Layout:
    """Read Cityscapes; cities become groups.

    Raises:
        InputError: no label files, or images of train or val without one.
    """
    folder, kind = _mask_kind(root)
    layout = read_masks(root, folder, kind, table(kind))
    layout.notes.insert(0, f"masks are {folder} {kind}: the 19 classes of the benchmark")
    return layout


def read_masks(root: Path, folder: str, kind: str, classes: ClassTable) -> Layout:
    """The samples of each split with their files of one kind; test images without public labels are unlabelled.

    Raises:
        InputError: images of train or val without such a file.
    """
    layout = Layout({}, classes=classes)
    for split in SPLITS:
        images = sorted((root / "leftImg8bit" / split).glob(f"*/*{IMAGE_TAIL}.*"))
        samples = [_sample(root, folder, kind, split, image) for image in images]
        bare = [sample for sample in samples if sample.mask is None]
        if split == "test" and (len(bare) == len(samples) or _is_dummy(samples[0], kind)):
            layout.unlabelled.extend(Sample(s.name, s.images, group=s.group) for s in samples)
            if samples:
                layout.notes.append(f"the {len(samples)} test images have no public labels: kept as unlabelled")
        elif bare:
            raise InputError(
                f"{root / folder / split}: {len(bare)} of {len(samples)} images have no {kind} file "
                f"({first_few(sample.name for sample in bare)}): add the files"
            )
        elif samples:
            layout.splits[split] = samples
    return layout


def _mask_kind(root: Path) -> tuple[str, str]:
    for folder in MASK_FOLDERS:
        for kind in MASK_KINDS:
            if next((root / folder).glob(f"*/*/*_{folder}_{kind}.png"), None) is not None:
                return folder, kind
    raise InputError(
        f"{root}: no *_labelTrainIds.png or *_labelIds.png under gtFine or gtCoarse: "
        "make them from the polygons with the scripts of Cityscapes"
    )


def _sample(root: Path, folder: str, kind: str, split: str, image: Path) -> Sample:
    city, stem = image.parent.name, image.stem.removesuffix(IMAGE_TAIL)
    mask = root / folder / split / city / f"{stem}_{folder}_{kind}.png"
    return Sample(f"{city}/{stem}", (image,), FileMask(mask) if mask.is_file() else None, group=city)


def _is_dummy(sample: Sample, kind: str) -> bool:
    """The public test labels are stand-ins that hold only the ego vehicle and the border."""
    if sample.mask is None:
        return False
    nothing = (255,) if kind == "labelTrainIds" else (*range(7), 255, 65535)
    return bool(np.isin(read_mask(sample.mask.paths[0]).values, nothing).all())
