"""nnU-Net's raw data, images and volumes.

dataset.json                     channel_names, labels {"background": 0, ...}, file_ending
imagesTr/CASE_0000.png           or .nii.gz; one file per channel; an RGB PNG is one file
labelsTr/CASE.png                or .nii.gz
imagesTs/, labelsTs/             test, labels optional
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from perpixel.data.formats import dataset_json
from perpixel.data.formats.folder_words import bare_name, image_files
from perpixel.data.formats.layout import Layout, first_few, of_volumes
from perpixel.data.formats.stacks import expand_stacks
from perpixel.data.sample import FileMask, Sample
from perpixel.errors import InputError
from perpixel.labels import ClassTable

CHANNEL = re.compile(r"(?P<case>.+)_(?P<channel>\d{4})")


def detect(root: Path) -> bool:
    """dataset.json with labels beside imagesTr and labelsTr, and names that end in channel numbers."""
    if not {"labels"} <= dataset_json.keys(root) or not (root / "labelsTr").is_dir():
        return False
    files = [path for path in (root / "imagesTr").glob("*") if not path.name.startswith(".")][:5]
    return bool(files) and all(CHANNEL.fullmatch(bare_name(path)) for path in files)


def read(root: Path, classes: ClassTable | None, spatial_dims: int = 2) -> Layout:
    """Read a folder DatasetXXX_Name.

    Raises:
        InputError: cases without label or channels, or labels that are regions.
    """
    content = dataset_json.load(root)
    layout = Layout({}, classes=classes or dataset_json.read_labels(content, root / "dataset.json"))
    names = dataset_json.channel_names(content, root / "dataset.json")
    layout = replace(layout, channel_names=names)
    layout.splits["train"] = _labelled(root / "imagesTr", root / "labelsTr", len(names), spatial_dims)
    if image_files(root / "labelsTs", spatial_dims):
        layout.splits["test"] = _labelled(root / "imagesTs", root / "labelsTs", len(names), spatial_dims)
    else:
        test = _cases(root / "imagesTs", len(names), spatial_dims)
        layout.unlabelled.extend(Sample(case, images) for case, images in test.items())
        if test:
            layout.notes.append(f"the {len(test)} images of imagesTs have no labels: kept as unlabelled")
    return of_volumes(layout) if spatial_dims == 3 else expand_stacks(layout)


def _cases(folder: Path, channels: int, spatial_dims: int) -> dict[str, tuple[Path, ...]]:
    """Case -> its channel files in order."""
    cases: dict[str, list[Path]] = {}
    for path in image_files(folder, spatial_dims):
        name = bare_name(path)
        match = CHANNEL.fullmatch(name)
        if match is None:
            raise InputError(
                f"{path}: the name does not end in a channel number: call it {name}_0000{path.name[len(name) :]}"
            )
        cases.setdefault(match["case"], []).append(path)
    # One RGB file stands for three channels, so one file is right whatever channel_names says.
    wrong = [case for case, files in cases.items() if len(files) not in (1, channels or len(files))]
    if wrong:
        raise InputError(
            f"{folder}: {len(wrong)} cases lack channel files ({first_few(wrong)}; dataset.json names {channels} "
            "channels): add the files _0000, _0001, ..."
        )
    return {case: tuple(files) for case, files in cases.items()}


def _labelled(image_folder: Path, label_folder: Path, channels: int, spatial_dims: int) -> list[Sample]:
    cases = _cases(image_folder, channels, spatial_dims)
    labels = {bare_name(path): path for path in image_files(label_folder, spatial_dims)}
    bare, widows = sorted(set(cases) - set(labels)), sorted(set(labels) - set(cases))
    if bare or widows:
        suffix = ".nii.gz" if spatial_dims == 3 else ".png"
        what, names = ("have no label", bare) if bare else ("have no image", widows)
        raise InputError(
            f"{label_folder}: {len(names)} cases {what} ({first_few(names)}): each CASE{suffix} needs "
            f"CASE_0000{suffix} in {image_folder.name}"
        )
    return [Sample(case, images, FileMask(labels[case])) for case, images in cases.items()]
