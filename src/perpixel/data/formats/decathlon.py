"""The Medical Segmentation Decathlon's lists, images and volumes.

dataset.json     modality, labels {"0": "background", ...}, training [{"image": ..., "label": ...}], test [...]
"""

from __future__ import annotations

from pathlib import Path

from perpixel.data.formats import dataset_json
from perpixel.data.formats.folder_words import bare_name, is_there
from perpixel.data.formats.layout import Layout, of_volumes, refuse_missing
from perpixel.data.formats.stacks import expand_stacks
from perpixel.data.sample import FileMask, Sample
from perpixel.errors import InputError
from perpixel.labels import ClassTable


def detect(root: Path) -> bool:
    """dataset.json with labels and a training list."""
    return {"labels", "training"} <= dataset_json.keys(root)


def read(root: Path, classes: ClassTable | None, spatial_dims: int = 2) -> Layout:
    """Read the lists of dataset.json; the test list has no labels.

    Raises:
        InputError: a list of another form, or missing files.
    """
    content, where = dataset_json.load(root), root / "dataset.json"
    training = content.get("training")
    if not isinstance(training, list) or not all(
        isinstance(row, dict) and {"image", "label"} <= set(row) for row in training
    ):
        raise InputError(f'{where}: training must be a list of {{"image": path, "label": path}}: correct the list')
    pairs = [(root / str(row["image"]), root / str(row["label"])) for row in training]
    refuse_missing([path for pair in pairs for path in pair], where, "files of training", "correct the paths")
    listed = content.get("test") or []
    if not isinstance(listed, list):
        raise InputError(f"{where}: test is {listed!r}: write a list of image paths, or take it out")
    tests = [root / path for path in listed if isinstance(path, str)]
    layout = Layout(
        {"train": [Sample(bare_name(image), (image,), FileMask(label)) for image, label in pairs]},
        classes=classes or dataset_json.read_labels(content, where),
        channel_names=dataset_json.channel_names(content, where),
        unlabelled=[Sample(bare_name(path), (path,)) for path in tests if is_there(path)],
    )
    if layout.unlabelled:
        layout.notes.append(f"the {len(layout.unlabelled)} test images have no labels: kept as unlabelled")
    return of_volumes(layout) if spatial_dims == 3 else expand_stacks(layout)
