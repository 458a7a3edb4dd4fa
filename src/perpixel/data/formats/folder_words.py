"""What folder and file names say: which split, and image or mask."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from perpixel.images import IMAGE_SUFFIXES, STACK_SUFFIXES, VOLUME_SUFFIXES

SPLIT_WORDS = {
    "train": "train", "training": "train", "tr": "train", "trn": "train",
    "val": "val", "valid": "val", "validation": "val", "validate": "val", "dev": "val",
    "test": "test", "testing": "test", "ts": "test", "tst": "test", "eval": "test", "evaluation": "test",
}  # fmt: skip
IMAGE_WORDS = (
    "images", "image", "img", "imgs", "imgdir", "imagedir", "jpegimages", "pngimages", "photos", "photo", "pictures",
    "frames", "rgb", "input", "inputs", "originals", "original", "leftimg8bit", "sat", "volume", "volumes",
)  # fmt: skip
MASK_WORDS = (
    "masks", "mask", "maskdir", "labels", "label", "labelmaps", "labeldir", "annotations", "annotation", "annot",
    "annots", "anndir", "anns", "ann", "gt", "gts", "gtdir", "groundtruth", "groundtruths", "truth", "segmentations",
    "segmentation", "segmentationclass", "segmentationclasspng", "seg", "segs", "segmaps", "targets", "target",
    "manual", "1stmanual", "indexlabel",
)  # fmt: skip
# Volumes that have to be converted first.
OTHER_VOLUME_SUFFIXES = (".mha", ".mhd", ".nrrd", ".dcm", ".h5", ".hdf5")

_SPLIT = "|".join(sorted(SPLIT_WORDS, key=len, reverse=True))
_ROLE = "|".join(sorted((*IMAGE_WORDS, *MASK_WORDS), key=len, reverse=True))
# A folder name without separators: split, role or both, in either order, and a year as in COCO's train2017.
_FOLDER = re.compile(
    rf"(?:stage\d)?(?:(?P<s1>{_SPLIT})(?P<r1>{_ROLE})?|(?P<r2>{_ROLE})(?P<s2>{_SPLIT})?)(?:19|20)?\d{{0,2}}"
)
_MASK_TAIL = re.compile(
    r"(?:[_\-. ](?:cp_masks?|masks?|labels?|gt|seg|segs|segmentation|annotation|annot|ann|groundtruth|ground_truth|"
    r"truth|manual1?|1st_manual|l|target|labelids|labeltrainids|indexlabel))+$",
    re.IGNORECASE,
)
_IMAGE_TAIL = re.compile(r"[_\-. ](?:images?|img|sat|rgb|raw|input|volume|leftimg8bit)$", re.IGNORECASE)
_MASK_HEAD = re.compile(r"^(?:masks?|labels?|gt|seg|segmentation)(?:[_\-. ]+|(?=\d))", re.IGNORECASE)
_IMAGE_HEAD = re.compile(r"^(?:images?|img|input)(?:[_\-. ]+|(?=\d))", re.IGNORECASE)
_PICTURE_TAIL = re.compile(r"[_\-. ](?:colou?r|colou?rs|vis|viz|overlay|preview|label_?viz)$", re.IGNORECASE)


@dataclass(frozen=True)
class FolderWords:
    """What one folder name says."""

    split: str | None
    role: str | None  # "image" or "mask"


def read_folder_name(name: str) -> FolderWords | None:
    """Split and role in a folder name, or None when it says neither.

    >>> read_folder_name("trainannot"), read_folder_name("img_dir"), read_folder_name("patient_7")
    (FolderWords(split='train', role='mask'), FolderWords(split=None, role='image'), None)
    """
    match = _FOLDER.fullmatch(re.sub(r"[^a-z0-9]", "", name.lower()))
    if match is None:
        return None
    split, role = match["s1"] or match["s2"], match["r1"] or match["r2"]
    return FolderWords(
        split=SPLIT_WORDS[split] if split else None,
        role=None if role is None else "image" if role in IMAGE_WORDS else "mask",
    )


def split_of(name: str) -> str | None:
    """The split that a folder's or file's name begins or ends with ("instances_val2017" -> "val"), or None."""
    words = [re.sub(r"\d+$", "", word) for word in re.split(r"[^a-z0-9]+", name.lower())]
    found = {SPLIT_WORDS[word] for word in words if word in SPLIT_WORDS}
    return found.pop() if len(found) == 1 else None


def strip_mask_words(stem: str) -> str:
    """The stem of a mask without what marks it as a mask ("x_mask" -> "x")."""
    return _MASK_HEAD.sub("", _MASK_TAIL.sub("", stem)) or stem


def strip_image_words(stem: str) -> str:
    """The stem of an image without what marks it as an image ("x_sat" -> "x")."""
    return _IMAGE_HEAD.sub("", _IMAGE_TAIL.sub("", stem)) or stem


def is_picture_of_mask(stem: str) -> bool:
    """Whether the name says that it is only a picture of a mask or an overlay ("x_color")."""
    return _PICTURE_TAIL.search(stem) is not None


def is_image(path: Path) -> bool:
    """Whether the suffix is one that can be read, and the file is not hidden (".x", "._x")."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")


def is_volume(path: Path) -> bool:
    """Whether the suffix is one that can hold a volume, TIFF stacks included, and the file is not hidden."""
    return path.name.lower().endswith((*VOLUME_SUFFIXES, *STACK_SUFFIXES)) and not path.name.startswith(".")


def is_there(path: Path) -> bool:
    """Whether it is a file, or a folder that is a zarr volume by its name."""
    return path.is_file() or (path.suffix.lower() == ".zarr" and path.is_dir())


def is_readable(path: Path, spatial_dims: int) -> bool:
    """`is_image` or `is_volume`."""
    return is_volume(path) if spatial_dims == 3 else is_image(path)


def bare_name(path: Path) -> str:
    """The file name without its suffix, of which .nii.gz is one.

    >>> bare_name(Path("imagesTr/case_1.5_0000.nii.gz")), bare_name(Path("a.b.png"))
    ('case_1.5_0000', 'a.b')
    """
    suffix = next((each for each in VOLUME_SUFFIXES if path.name.lower().endswith(each)), path.suffix)
    return path.name[: len(path.name) - len(suffix)] if suffix else path.name


def count_dims(root: Path) -> int:
    """3 where volumes (TIFF stacks aside) outnumber the images under `root`, or stand in the CSV `root`; else 2."""
    if root.suffix.lower() == ".csv" and root.is_file():
        text = root.read_text(encoding="utf-8", errors="replace").lower()
        return 3 if any(suffix in text for suffix in VOLUME_SUFFIXES) else 2
    files = walk(root) if root.is_dir() else []
    volumes = sum(path.name.lower().endswith(VOLUME_SUFFIXES) for path in files)
    return 3 if volumes and volumes >= sum(is_image(path) for path in files) else 2


def walk(root: Path) -> list[Path]:
    """All visible files under `root`, sorted by path; folder links are followed, but not in circles.

    A folder whose name ends in .zarr is one file.
    """
    found: list[Path] = []
    seen: set[str] = set()
    for folder, folders, files in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        names = sorted(name for name in folders if not name.startswith((".", "__")))
        found.extend(Path(folder, name) for name in names if name.lower().endswith(".zarr"))
        folders[:] = [name for name in names if not name.lower().endswith(".zarr")]
        found.extend(Path(folder, name) for name in sorted(files) if not name.startswith("."))
    return found


def image_files(folder: Path, spatial_dims: int = 2) -> list[Path]:
    """The images (or volumes) directly in `folder`, sorted; none when the folder does not exist."""
    return sorted(path for path in folder.iterdir() if is_readable(path, spatial_dims)) if folder.is_dir() else []
