"""nnU-Net's raw data, 2-D images.

dataset.json                     channel_names, labels {"background": 0, ...}, file_ending
imagesTr/CASE_0000.png           one file per channel; an RGB PNG is one file
labelsTr/CASE.png
imagesTs/, labelsTs/             test, labels optional
"""

from __future__ import annotations

import re
from pathlib import Path

from perpixel.data.formats import dataset_json
from perpixel.data.formats.folder_words import image_files
from perpixel.data.formats.layout import Layout, first_few
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
    return bool(files) and all(CHANNEL.fullmatch(path.name.partition(".")[0]) for path in files)


def read(root: Path, classes: ClassTable | None) -> Layout:
    """Read a folder DatasetXXX_Name.

    Raises:
        InputError: volumes, cases without label or channels, or labels that are regions.
    """
    dataset_json.refuse_volumes(root)
    content = dataset_json.load(root)
    layout = Layout({}, classes=classes or dataset_json.read_labels(content, root / "dataset.json"))
    named = content.get("channel_names") or content.get("modality") or {}
    if not isinstance(named, dict):
        raise InputError(f'{root / "dataset.json"}: channel_names is {named!r}: write {{"0": "name", ...}}')
    channels = len(named)
    layout.splits["train"] = _labelled(root / "imagesTr", root / "labelsTr", channels)
    if image_files(root / "labelsTs"):
        layout.splits["test"] = _labelled(root / "imagesTs", root / "labelsTs", channels)
    else:
        test = _cases(root / "imagesTs", channels)
        layout.unlabelled.extend(Sample(case, images) for case, images in test.items())
        if test:
            layout.notes.append(f"the {len(test)} images of imagesTs have no labels: kept as unlabelled")
    return expand_stacks(layout)


def _cases(folder: Path, channels: int) -> dict[str, tuple[Path, ...]]:
    """Case -> its channel files in order."""
    cases: dict[str, list[Path]] = {}
    for path in image_files(folder):
        match = CHANNEL.fullmatch(path.stem)
        if match is None:
            raise InputError(
                f"{path}: the name does not end in a channel number: call it {path.stem}_0000{path.suffix}"
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


def _labelled(image_folder: Path, label_folder: Path, channels: int) -> list[Sample]:
    cases = _cases(image_folder, channels)
    labels = {path.stem: path for path in image_files(label_folder)}
    bare, widows = sorted(set(cases) - set(labels)), sorted(set(labels) - set(cases))
    if bare or widows:
        what, names = ("have no label", bare) if bare else ("have no image", widows)
        raise InputError(
            f"{label_folder}: {len(names)} cases {what} ({first_few(names)}): each CASE.png needs CASE_0000.png "
            f"in {image_folder.name}"
        )
    return [Sample(case, images, FileMask(labels[case])) for case, images in cases.items()]
