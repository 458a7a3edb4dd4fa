"""One folder per image and one binary mask file per object, as in the 2018 Data Science Bowl.

    [stage1_train/]ID/images/ID.png
    [stage1_train/]ID/masks/*.png

Read for semantic segmentation: every object is class "object", the rest background.
"""

from __future__ import annotations

from pathlib import Path

from perpixel.data.class_file import make_table
from perpixel.data.formats.folder_words import image_files, read_folder_name
from perpixel.data.formats.layout import Layout, first_few
from perpixel.data.sample import ObjectMasks, Sample
from perpixel.errors import InputError
from perpixel.images import probe_image
from perpixel.labels import ClassTable

LOOKED_AT = 30


def detect(root: Path) -> bool:
    """Folders with images/ of one file and masks/ of several, one or two levels down."""
    homes = find_homes(root)[:LOOKED_AT]
    single = [home for home in homes if len(image_files(home / "images")) == 1]
    several = [home for home in single if len(image_files(home / "masks")) > 1]
    return bool(several) and len(single) == len(homes)


def find_homes(root: Path) -> list[Path]:
    if not root.is_dir():
        return []
    found = {path.parent for pattern in ("*/images", "*/*/images") for path in root.glob(pattern) if path.is_dir()}
    return sorted(found)


def read(root: Path, classes: ClassTable | None) -> Layout:
    """Read one sample per folder; a folder without masks/ is unlabelled, one with an empty masks/ is background.

    Raises:
        InputError: no such folders, or images/ with more or less than one file.
    """
    homes = find_homes(root)
    if not homes:
        raise InputError(f"{root}: no folders ID/images and ID/masks: check the path or choose another format")
    wrong = [home for home in homes if len(image_files(home / "images")) != 1]
    if wrong:
        raise InputError(
            f"{root}: {len(wrong)} folders do not hold exactly one image "
            f"({first_few(f'{home.name}/images' for home in wrong)}): "
            "keep one image per folder"
        )
    layout = Layout({}, classes=classes or make_table([("background", 0), ("object", 1)]))
    repeated = len({home.name for home in homes}) < len(homes)
    for home in homes:
        image = image_files(home / "images")[0]
        name = home.relative_to(root).as_posix() if repeated else home.name
        if not (home / "masks").is_dir():
            layout.unlabelled.append(Sample(name, (image,)))
            continue
        split = read_folder_name(home.parent.name) if home.parent != root else None
        layout.splits.setdefault(split.split if split else None, []).append(Sample(name, (image,), _mask(home, image)))
    layout.notes.append("one mask file per object: all objects are read as one class, object, on background")
    if layout.unlabelled:
        layout.notes.append(f"{len(layout.unlabelled)} images have no folder masks: kept as unlabelled")
    return layout


def _mask(home: Path, image: Path) -> ObjectMasks:
    files = tuple(image_files(home / "masks"))
    if files:
        return ObjectMasks(home / "masks", files)
    info = probe_image(image)
    return ObjectMasks(home / "masks", (), size=(info.height, info.width))
