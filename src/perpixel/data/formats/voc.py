"""Pascal VOC, and what LabelMe, CVAT and others export as VOC.

[VOCdevkit/VOC2012/]
  JPEGImages/2007_000032.jpg
  SegmentationClass/2007_000032.png                        palette PNG, 255 = void
  ImageSets/Segmentation/{train,val,test,trainval}.txt     names without suffix
  class_names.txt (LabelMe) or labelmap.txt (CVAT)         may stand here or at the root
"""

from __future__ import annotations

import re
from pathlib import Path

from perpixel.data.class_file import make_table
from perpixel.data.formats.folder_words import image_files
from perpixel.data.formats.layout import Layout, first_few
from perpixel.data.formats.list_files import find_list_files, read_list
from perpixel.data.sample import FileMask, Sample
from perpixel.errors import InputError
from perpixel.labels import ClassInfo, ClassTable

NAMES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
MASK_FOLDERS = ("SegmentationClass", "SegmentationClassPNG", "SegmentationClassAug")
VOC_NAME = re.compile(r"20(0[789]|1[012])_\d{6}")


def palette_colour(index: int) -> tuple[int, int, int]:
    """VOC's colour for an index: its bits dealt out to red, green and blue, highest first."""
    colour = [0, 0, 0]
    for place in range(8):
        for channel in range(3):
            colour[channel] |= (index >> (3 * place + channel) & 1) << (7 - place)
    return (colour[0], colour[1], colour[2])


def detect(root: Path) -> bool:
    """A folder JPEGImages beside a folder SegmentationClass, here or one or two levels down."""
    return find_home(root) is not None


def find_home(root: Path) -> Path | None:
    """The folder that holds JPEGImages and a mask folder; the last by name when there are several years."""
    if not root.is_dir():
        return None
    candidates = [root, *sorted(root.glob("VOC*"), reverse=True), *sorted(root.glob("VOCdevkit/*"), reverse=True)]
    for folder in candidates:
        if (folder / "JPEGImages").is_dir() and _mask_folder(folder) is not None:
            return folder
    return None


def _mask_folder(home: Path) -> Path | None:
    found = [home / name for name in MASK_FOLDERS if any(image_files(home / name))]
    return found[0] if found else None


def read(root: Path, classes: ClassTable | None) -> Layout:
    """Read a VOC folder.

    Raises:
        InputError: no such folders, or a list that names images or masks that do not exist.
    """
    home = find_home(root)
    masks_at = None if home is None else _mask_folder(home)
    if home is None or masks_at is None:
        raise InputError(
            f"{root}: no folders JPEGImages and SegmentationClass: check the path or choose another format"
        )
    images = {path.stem: path for path in image_files(home / "JPEGImages")}
    masks = {path.stem: path for path in image_files(masks_at)}
    lists = find_list_files(home / "ImageSets" / "Segmentation") or find_list_files(home)
    layout = Layout({}, classes=_read_classes(root, home, masks))
    if not lists:
        names = sorted(masks)
        everywhere = home / "ImageSets" / "Segmentation" / "trainval.txt"
        if everywhere.is_file():
            names = read_list(everywhere)
        layout.splits[None] = _samples(masks_at, names, images, masks)
        return layout
    for split, file in lists.items():
        names = read_list(file)
        if split == "test" and not any(name in masks for name in names):
            layout.unlabelled.extend(Sample(name, (images[name],)) for name in names if name in images)
            layout.notes.append(f"the images of {file.name} have no masks: kept as unlabelled")
        else:
            layout.splits[split] = _samples(file, names, images, masks)
    _refuse_overlap(layout, lists)
    layout.notes.append(f"splits from {', '.join(str(file.relative_to(home)) for file in lists.values())}")
    return layout


def _samples(where: Path, names: list[str], images: dict[str, Path], masks: dict[str, Path]) -> list[Sample]:
    for what, files in (("image in JPEGImages", images), ("mask", masks)):
        missing = [name for name in names if name not in files]
        if missing:
            raise InputError(
                f"{where}: {len(missing)} of {len(names)} names have no {what} ({first_few(missing)}): "
                "add the files or take the names out"
            )
    return [Sample(name, (images[name],), FileMask(masks[name])) for name in dict.fromkeys(names)]


def _refuse_overlap(layout: Layout, lists: dict[str, Path]) -> None:
    owner: dict[str, str] = {}
    for split, samples in layout.splits.items():
        for sample in samples:
            if owner.setdefault(sample.name, str(split)) != split:
                first = lists[owner[sample.name]].name
                raise InputError(
                    f"{lists[str(split)]}: '{sample.name}' also stands in {first}: list each image in one split only"
                )


def _read_classes(root: Path, home: Path, masks: dict[str, Path]) -> ClassTable | None:
    """CVAT's labelmap.txt, LabelMe's class_names.txt, VOC's own 21 classes by the look of the names, or None."""
    for folder in dict.fromkeys((home, root)):
        if (folder / "labelmap.txt").is_file():
            return read_labelmap(folder / "labelmap.txt")
        if (folder / "class_names.txt").is_file():
            return read_class_names(folder / "class_names.txt")
    if masks and all(VOC_NAME.fullmatch(name) for name in masks):
        rows = [(name, index) for index, name in enumerate(NAMES)]
        return make_table(rows, colours=[palette_colour(index) for _, index in rows], ignore_values=(255,))
    return None


def read_labelmap(file: Path) -> ClassTable:
    """CVAT's list `name:red,green,blue:parts:actions`: the masks are colour-coded.

    Raises:
        InputError: a line without a colour.
    """
    classes = []
    for line in read_list(file):
        if line.startswith("#"):
            continue
        name, _, rest = line.partition(":")
        numbers = rest.partition(":")[0].split(",")
        if len(numbers) != 3 or not all(number.strip().isdigit() and int(number) < 256 for number in numbers):
            raise InputError(f"{file}: '{line}' gives no colour: write name:red,green,blue::")
        colour = (int(numbers[0]), int(numbers[1]), int(numbers[2]))
        classes.append(ClassInfo(name, colour, (colour,)))
    # CVAT lists classes by name; the background goes first where it exists.
    classes.sort(key=lambda info: info.name != "background")
    return ClassTable(tuple(classes))


def read_class_names(file: Path) -> ClassTable:
    """LabelMe's export: one name per line, from `__ignore__` (stored as 255) or `_background_` (0) on."""
    names = read_list(file)
    ignored = names[:1] == ["__ignore__"]
    names = names[1:] if ignored else names
    shown = ["background" if name == "_background_" else name for name in names]
    rows = [(name, index) for index, name in enumerate(shown)]
    return make_table(rows, ignore_values=(255,) if ignored else ())
