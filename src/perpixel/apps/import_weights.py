"""`perpixel import-weights`: a checkpoint of another library becomes a bundle, which every other command takes."""

from __future__ import annotations

import importlib.metadata
import re
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from perpixel.data.class_file import make_table, read_class_file
from perpixel.data.formats.voc import NAMES as VOC_NAMES
from perpixel.data.formats.voc import palette_colour
from perpixel.errors import InputError, did_you_mean
from perpixel.images import Normalisation
from perpixel.inference.bundle import BundleConfig, save_bundle
from perpixel.labels import ClassTable
from perpixel.labels.classes import MAX_CLASSES
from perpixel.models.foreign import Foreign, build_foreign, read_classifier, read_smp, read_torchvision

SOURCES = ("torchvision", "smp", "classifier")
# Larger images are predicted in overlapping windows; global pooling then sees a window at a time.
TILE = (1024, 1024)
HIGHEST = 255.0  # of an 8-bit image
BINARY_NAMES = ("background", "foreground")

CARD = """\
---
library_name: perpixel
pipeline_tag: image-segmentation
tags: [semantic-segmentation, {model}]
---
# {model} from {what}

Weights of {what} ({file}), read as {model} {options}. Nothing was trained or measured here.

Labels every pixel of an image of {channels} channel(s), 0 to 255, with one of {num_classes} classes: {classes}.

{notes}
```python
import perpixel

predictor = perpixel.load("path/to/this/folder")
label_map = predictor.predict("image.png").label_map  # (H, W) class indices
```

The licence of the weights is that of their makers; it may depend on that of the training data.
"""


@dataclass(frozen=True)
class Imported:
    """What was made: the `bundle` folder, `what` the checkpoint was recognised as, and the model it has become."""

    bundle: Path
    what: str
    model: str
    options: dict[str, Any]
    classes: tuple[str, ...]
    parameters: int
    notes: tuple[str, ...]
    is_trained: bool

    def to_json(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self) | {"bundle": str(self.bundle), "classes": list(self.classes), "notes": list(self.notes)}


def import_weights(
    source: str, file: str | Path, *, out: str | Path, classes: int | str | Path | None = None, model: str | None = None
) -> Imported:
    """Turn a checkpoint into a bundle. Nothing in it is executed and nothing is downloaded.

    Args:
        source: "torchvision" (state dict of a segmentation model), "smp" (folder of save_pretrained) or "classifier"
            (state dict of VGG16, GoogLeNet or CaffeNet, to start an FCN from).
        file: the file or folder.
        out: bundle folder; must not hold anything yet.
        classes: their number, or a classes.json with their names. Segmentation models know the number themselves.
        model: with "classifier" the FCN to make; default fcn32s.
    Raises:
        InputError: unknown source, unreadable or foreign checkpoint, contradicting classes, `out` in use.
    """
    if source not in SOURCES:
        raise InputError(f"unknown source '{source}'{did_you_mean(source, SOURCES)}")
    if model is not None and source != "classifier":
        raise InputError(f"--model '{model}': source '{source}' recognises the model itself: leave it out")
    folder = _free_folder(out)
    table, number = _given_classes(classes)
    foreign = _read(source, file, model or "fcn32s", number)
    if number is not None and number != foreign.num_classes:
        raise InputError(
            f"--classes '{classes}': {number}, but {foreign.where} scores {foreign.num_classes}: give as many"
        )
    net = build_foreign(foreign)
    config = _config(foreign, table or _named(foreign, source), source, file)
    save_bundle(folder, model=net, config=config, metrics={}, card=_card(config, foreign))
    return Imported(
        bundle=folder, what=foreign.what, model=foreign.model, options=foreign.options, classes=config.classes.names,
        parameters=sum(value.numel() for value in net.parameters()), notes=foreign.notes,
        is_trained=source != "classifier",
    )  # fmt: skip


def _read(source: str, file: str | Path, model: str, number: int | None) -> Foreign:
    if source == "smp":
        return read_smp(file)
    if not Path(file).is_file():
        what = "a folder, where a file is needed" if Path(file).is_dir() else "no such file"
        raise InputError(f"{file}: {what}: give the state dict, .pth or .safetensors")
    if source == "torchvision":
        return read_torchvision(file)
    if number is None:
        raise InputError("--classes is missing: a classifier does not know them: give their number or a classes.json")
    return read_classifier(file, model=model, num_classes=number)


def _free_folder(out: str | Path) -> Path:
    folder = Path(out)
    if folder.is_dir() and any(folder.iterdir()):
        raise InputError(f"{folder}: is not empty: choose another --out, or delete it")
    return folder


def _given_classes(classes: int | str | Path | None) -> tuple[ClassTable | None, int | None]:
    """(table, number of classes) of what was given: both None, a number alone, or a table with its number."""
    if classes is None:
        return None, None
    text = str(classes).strip()
    if re.fullmatch(r"-?[0-9]+", text):
        if len(text) > 5 or not 1 <= int(text) <= MAX_CLASSES:
            raise InputError(f"--classes '{text}': give 1 to {MAX_CLASSES}, or a classes.json")
        return None, int(text)
    table = read_class_file(Path(classes)).table  # type: ignore[arg-type]
    return table, table.num_classes


def _named(foreign: Foreign, source: str) -> ClassTable:
    """Names by what is known: Pascal VOC's where torchvision's weights have 21 classes, else numbers."""
    count = foreign.num_classes
    if source == "torchvision" and count == len(VOC_NAMES):
        return make_table(list(zip(VOC_NAMES, range(count))), colours=[palette_colour(i) for i in range(count)])
    names = BINARY_NAMES if count == 2 else tuple(f"class {number}" for number in range(count))
    return make_table(list(zip(names, range(count))))


def _config(foreign: Foreign, classes: ClassTable, source: str, file: str | Path) -> BundleConfig:
    channels = foreign.in_channels
    packages = ("perpixel", "torch", "torchvision", "timm", "numpy")
    return BundleConfig(
        model=foreign.model,
        options=foreign.options,
        channels=channels,
        classes=classes,
        normalisation=Normalisation(
            low=(0.0,) * channels, high=(HIGHEST,) * channels, mean=foreign.mean, std=foreign.std
        ),
        scale=1.0,
        tile=TILE,
        precision="fp32",
        training={"imported": foreign.what, "source": source, "file": Path(file).name, "mirrors": ["horizontal"]},
        data={"name": foreign.what, "digest": "", "num_images": {}, "spacing": None},
        versions={"python": sys.version.split()[0], **{name: importlib.metadata.version(name) for name in packages}},
    )


def _card(config: BundleConfig, foreign: Foreign) -> str:
    return CARD.format(
        model=config.model,
        what=foreign.what,
        file=config.training["file"],
        options=", ".join(f"{name}={value}" for name, value in config.options.items()) or "(defaults)",
        channels=config.channels,
        num_classes=config.classes.num_classes,
        classes=", ".join(config.classes.names),
        notes="".join(f"{note}\n" for note in foreign.notes),
    )
