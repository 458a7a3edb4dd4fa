"""What a comparison is asked for: entries from "unet,thin=unet" and their options, settings as plain JSON values."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from perpixel.apps.config import FOREST_SETTINGS, TrainConfig, make_config
from perpixel.apps.json_output import to_document
from perpixel.errors import InputError, did_you_mean
from perpixel.files import read_json

Settings = dict[str, Any]

ALL = "all"
# Names of the folders beside those of the models.
RESERVED = ("results", "pictures", "measure")
LABEL = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,39}")
# Settings that say how the data are read; the others say how to train.
READING = ("format", "classes", "splits", "group", "ignore_values", "snap")


@dataclass(frozen=True)
class Entry:
    """One model of a comparison: its label (and folder), its name in MODELS, and the options given for it."""

    label: str
    model: str
    options: dict[str, Any] = field(default_factory=dict)


def parse_entries(models: str | Sequence[str], options: Mapping[str, Any]) -> tuple[Entry, ...]:
    """Entries from names and options.

    Args:
        models: "unet,fcn8s", a sequence of such names, or "all", those that take images. `label=name` names an entry,
            so that a model can be compared with itself under other options.
        options: "key" is meant for every model that has this option, "label.key" for one entry, before the former.
    Raises:
        InputError: an unknown model, label or option; a label twice.
    """
    from perpixel.models import MODELS, option_names, spatial_dims

    words = models.split(",") if isinstance(models, str) else [word for each in models for word in each.split(",")]
    named: list[tuple[str, str]] = []
    for word in (word.strip() for word in words if word.strip()):
        everything = [(name, name) for name in MODELS if spatial_dims(MODELS[name]) == 2]
        named += everything if word == ALL else [_parse_word(word)]
    if not named:
        raise InputError("no models to compare: name them, as in --models unet,fcn8s, or --models all")
    for label, model in named:
        if model not in MODELS:
            raise InputError(f"unknown model '{model}'{did_you_mean(model, [*MODELS, ALL])}")
        if [other for other, _ in named].count(label) > 1:
            raise InputError(
                f"'{label}' is named twice: give one of the two a label and options of its own, "
                f"as in --models {label},other={model} -O other.key=value"
            )
    known = {label: set(option_names(MODELS[model])) for label, model in named}
    _refuse_unknown(options, known)
    return tuple(Entry(label, model, _options_of(label, known[label], options)) for label, model in named)


def _parse_word(word: str) -> tuple[str, str]:
    """(label, model) of "unet" or "thin=unet"."""
    label, equals, model = (part.strip() for part in word.partition("="))
    if not equals:
        return label, label
    if not LABEL.fullmatch(label) or label in RESERVED:
        raise InputError(f"label '{label}' of '{word}': give letters, digits and _, as in thin=unet, a letter first")
    return label, model


def _refuse_unknown(options: Mapping[str, Any], known: Mapping[str, set[str]]) -> None:
    """Options that belong to no model. Those that a model of theirs refuses are found when it is built."""
    for key in options:
        label, dot, _ = key.partition(".")
        if dot and label not in known:
            raise InputError(f"option '{key}': no model is called '{label}' here{did_you_mean(label, known)}")
        every = set().union(*known.values())
        if not dot and key not in every:
            raise InputError(f"option '{key}': none of the models has it{did_you_mean(key, every)}")


def _options_of(label: str, known: set[str], options: Mapping[str, Any]) -> dict[str, Any]:
    """Those for all, as far as this model has them, then its own."""
    shared = {key: value for key, value in options.items() if key in known}
    own = {key.removeprefix(f"{label}."): value for key, value in options.items() if key.startswith(f"{label}.")}
    return {**shared, **own}


def make_settings(
    data: str | Path,
    *,
    models: str | Sequence[str],
    options: Mapping[str, Any],
    split: str,
    **training: Any,
) -> Settings:
    """What is compared, as plain JSON values; checked as far as it can be without the data.

    Raises:
        InputError: unknown models, labels, options or settings, and values out of range.
    """
    from perpixel.apps.preparing import check_names

    reading = {name: training.pop(name) for name in READING if name in training}
    for name in ("classes", "splits"):
        if reading.get(name) is not None:
            reading[name] = str(Path(reading[name]).resolve())
    if training.get("start_from") is not None:
        training["start_from"] = str(Path(training["start_from"]).resolve())
    entries = parse_entries(models, options)
    settings = to_document(
        {
            "data": str(Path(data).resolve()),
            "models": [asdict(entry) for entry in entries],
            "split": split,
            "reading": reading,
            "training": {name: value for name, value in training.items() if value is not None},
        }
    )
    for entry in entries:
        with _named(entry):
            check_names(entry_config(settings, entry))
    assert isinstance(settings, dict)
    return settings


@contextmanager
def _named(entry: Entry) -> Iterator[None]:
    """A refusal within the block says which model it is about."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{entry.label}: {error}") from error


def read_settings(folder: Path) -> Settings:
    """The settings that the comparison in `folder` saved.

    Raises:
        InputError: there is none, or its file is not one that compare wrote.
    """
    path = folder / "settings.json"
    if not path.is_file():
        raise InputError(f"{folder}: no comparison is here (no settings.json): give the folder that compare made")
    settings = read_json(path)
    if not isinstance(settings, dict) or not {"data", "models", "split", "reading", "training"} <= set(settings):
        raise InputError(f"{path}: not the settings of a comparison: give the folder that compare made")
    for entry in settings["models"]:  # labels become folders, so none may lead elsewhere
        if not isinstance(entry, dict) or not LABEL.fullmatch(str(entry.get("label"))):
            raise InputError(f"{path}: model {entry!r} is none that compare wrote: give the folder that compare made")
    return settings


def entries_of(settings: Settings) -> tuple[Entry, ...]:
    """The entries of saved settings."""
    return tuple(Entry(**entry) for entry in settings["models"])


def entry_config(settings: Settings, entry: Entry, folder: Path | None = None) -> TrainConfig:
    """The settings of one model's run; with `folder` its splits and classes are those of the comparison."""
    from perpixel.models import FORESTS

    reading = dict(settings["reading"])
    if folder is not None:
        reading.pop("ignore_values", None)  # they are part of the class table by now
        reading |= {"classes": str(folder / "classes.json"), "splits": str(folder / "splits.json")}
    training = settings["training"]
    if entry.model in FORESTS:  # the others are about the steps of the nets beside it
        training = {name: value for name, value in training.items() if name in FOREST_SETTINGS}
    return make_config(data=settings["data"], model=entry.model, options=entry.options, **reading, **training)


def result_of(folder: Path, label: str) -> dict[str, Any]:
    """The result of one model as far as there is one: "done", "failed", "training" or "waiting"."""
    path = folder / "results" / f"{label}.json"
    if path.is_file():
        result: dict[str, Any] = read_json(path)
        return result
    return {"state": "training" if (folder / label / "config.json").is_file() else "waiting"}
