"""The command line's options, each stated once, and its notations: key=value and 256x256."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Any

import typer

from perpixel.errors import InputError

DATA_PANEL = "How the data is read"
LENGTH_PANEL = "How long"
NET_PANEL = "The net"
RECIPE_PANEL = "How it learns (left out: chosen by the plan)"
MACHINE_PANEL = "The machine"
MEASURE_PANEL = "What is measured"

Data = Annotated[
    Path, typer.Argument(help="Folder, or file (CSV, COCO JSON), of images and masks.", show_default=False)
]
OptionalData = Annotated[
    Path | None, typer.Argument(help="Folder, or file (CSV, COCO JSON), of images and masks.", show_default=False)
]
Run = Annotated[Path, typer.Argument(help="Run folder (runs/NAME) or bundle folder.", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as one JSON document.")]
Out = Annotated[Path | None, typer.Option(help="Folder for the results.", show_default=False)]
Seed = Annotated[int | None, typer.Option(help="Same seed, same run (default: 0).", show_default=False)]

Format = Annotated[
    str | None,
    typer.Option(help="Layout of DATA (default: found out).", show_default=False, rich_help_panel=DATA_PANEL),
]
Classes = Annotated[
    str | None,
    typer.Option(help="classes.json: value -> class.", show_default=False, rich_help_panel=DATA_PANEL),
]
Splits = Annotated[
    str | None,
    typer.Option(help="JSON list of the files of each split.", show_default=False, rich_help_panel=DATA_PANEL),
]
Group = Annotated[
    str | None,
    typer.Option(
        help="What must not be divided between splits: 'parent' (folder) or a regular expression with one group.",
        show_default=False,
        rich_help_panel=DATA_PANEL,
    ),
]
Ignore = Annotated[
    list[int] | None,
    typer.Option(
        "--ignore",
        help="Mask value left out of loss and scores; may be repeated.",
        show_default=False,
        rich_help_panel=DATA_PANEL,
    ),
]
Task = Annotated[
    str | None,
    typer.Option(
        help="semantic labels pixels, instances finds objects one by one (default: what the model does).",
        show_default=False,
        rich_help_panel=DATA_PANEL,
    ),
]
MinScore = Annotated[
    float | None,
    typer.Option(
        min=0, max=1, help="Objects of lower scores are left out (default: chosen in training).", show_default=False
    ),
]
Snap = Annotated[
    bool | None,
    typer.Option("--snap", help="Move blurred or JPEG mask values to the nearest class.", rich_help_panel=DATA_PANEL),
]

Budget = Annotated[
    str | None,
    typer.Option(help="Wall time for training: 90s, 10m, 2h.", show_default=False, rich_help_panel=LENGTH_PANEL),
]
Epochs = Annotated[
    int | None,
    typer.Option(
        help="Passes over the training images, in place of --budget.", show_default=False, rich_help_panel=LENGTH_PANEL
    ),
]
Patience = Annotated[
    int | None,
    typer.Option(
        help="Stop after so many validations without a better one.", show_default=False, rich_help_panel=LENGTH_PANEL
    ),
]
Resume = Annotated[
    Path | None,
    typer.Option(
        help="Continue this run with the settings saved in it.", show_default=False, rich_help_panel=LENGTH_PANEL
    ),
]
Extend = Annotated[
    str | None,
    typer.Option(
        help="With --resume: train on for a time (5m) or a number of epochs (10).",
        show_default=False,
        rich_help_panel=LENGTH_PANEL,
    ),
]

Model = Annotated[
    str | None,
    typer.Option(
        help="A name that `perpixel models` lists, or auto (default: auto).",
        show_default=False,
        rich_help_panel=NET_PANEL,
    ),
]
Models = Annotated[
    str | None,
    typer.Option(
        metavar="A,B,...",
        help="Names that `perpixel models` lists, or all; LABEL=NAME gives one a name of its own here.",
        show_default=False,
        rich_help_panel=NET_PANEL,
    ),
]
ModelOptions = Annotated[
    list[str] | None,
    typer.Option(
        "--option",
        "-O",
        metavar="KEY=VALUE",
        help="Option of every model that has it, or of one: MODEL.KEY=VALUE; may be repeated.",
        rich_help_panel=NET_PANEL,
    ),
]
EachBudget = Annotated[
    str | None,
    typer.Option(
        "--budget",
        help="Wall time for the training of each model: 90s, 10m, 2h (default: 10m).",
        show_default=False,
        rich_help_panel=LENGTH_PANEL,
    ),
]
ResumeComparison = Annotated[
    Path | None,
    typer.Option(
        "--resume", help="Go on with the comparison in this folder.", show_default=False, rich_help_panel=LENGTH_PANEL
    ),
]
Retry = Annotated[bool, typer.Option("--retry", help="Try models again that failed.", rich_help_panel=LENGTH_PANEL)]
Encoder = Annotated[
    str | None,
    typer.Option(help="Backbone: a timm name, or torchvision/NAME.", show_default=False, rich_help_panel=NET_PANEL),
]
Options = Annotated[
    list[str] | None,
    typer.Option(
        "--option", "-O", metavar="KEY=VALUE", help="Option of the model; may be repeated.", rich_help_panel=NET_PANEL
    ),
]
Weights = Annotated[
    str | None,
    typer.Option(
        help="Weights to start from: imagenet, or a .safetensors file.", show_default=False, rich_help_panel=NET_PANEL
    ),
]
StartFrom = Annotated[
    str | None,
    typer.Option(
        metavar="RUN_OR_BUNDLE",
        help="Start from its trained weights: fine-tuning, or a finer FCN from a coarser one.",
        show_default=False,
        rich_help_panel=NET_PANEL,
    ),
]
StartFromPartial = Annotated[
    bool | None,
    typer.Option(
        "--start-from-partial",
        help="With --start-from: take the tensors that fit, though the net or the classes differ.",
        rich_help_panel=NET_PANEL,
    ),
]

Loss = Annotated[
    str | None,
    typer.Option(
        help="ce, bce, focal:gamma=2, dice, lovasz, tversky, ohem, border_ce, ... (docs/losses.md lists all); "
        "sums of them as 0.5*ce+dice.",
        show_default=False,
        rich_help_panel=RECIPE_PANEL,
    ),
]
ClassWeights = Annotated[
    str | None,
    typer.Option(
        help="none, inverse, sqrt_inverse, median_frequency, enet, effective_number.",
        show_default=False,
        rich_help_panel=RECIPE_PANEL,
    ),
]
RareShare = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=1,
        help="Share of crops that are placed on a class of the image instead of anywhere.",
        show_default=False,
        rich_help_panel=RECIPE_PANEL,
    ),
]
RarePower = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=2,
        help="That class is drawn with a chance of its pixels ** -power: 0 = all alike, 0.5 = rare ones more often.",
        show_default=False,
        rich_help_panel=RECIPE_PANEL,
    ),
]
RepeatThreshold = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=1,
        help="Images with a class that is in less than this share of the images come more often; 0 = never.",
        show_default=False,
        rich_help_panel=RECIPE_PANEL,
    ),
]
BatchSize = Annotated[
    int | None, typer.Option(min=1, help="Images a step.", show_default=False, rich_help_panel=RECIPE_PANEL)
]
Crop = Annotated[
    str | None,
    typer.Option(
        metavar="HxW",
        help="Training crop, height x width: 256x256; of volumes depth x height x width.",
        show_default=False,
        rich_help_panel=RECIPE_PANEL,
    ),
]
Scale = Annotated[
    float | None,
    typer.Option(
        help="Working scale: 0.5 halves the images before the net.", show_default=False, rich_help_panel=RECIPE_PANEL
    ),
]
LearningRate = Annotated[
    float | None, typer.Option("--lr", help="Peak learning rate.", show_default=False, rich_help_panel=RECIPE_PANEL)
]
Optimizer = Annotated[str | None, typer.Option(help="adamw or sgd.", show_default=False, rich_help_panel=RECIPE_PANEL)]
Schedule = Annotated[
    str | None, typer.Option(help="poly or onecycle.", show_default=False, rich_help_panel=RECIPE_PANEL)
]
AverageWeights = Annotated[
    bool | None,
    typer.Option(
        "--ema/--no-ema",
        help="Validate and keep a running average of the weights.",
        show_default=False,
        rich_help_panel=RECIPE_PANEL,
    ),
]

Precision = Annotated[
    str | None, typer.Option(help="auto, fp32 or bf16.", show_default=False, rich_help_panel=MACHINE_PANEL)
]
Device = Annotated[
    str | None, typer.Option(help="auto, cpu or cuda.", show_default=False, rich_help_panel=MACHINE_PANEL)
]
Devices = Annotated[
    int | None, typer.Option(min=1, help="Number of devices.", show_default=False, rich_help_panel=MACHINE_PANEL)
]
Tensorboard = Annotated[
    bool | None, typer.Option("--tensorboard", help="Also log for TensorBoard.", rich_help_panel=MACHINE_PANEL)
]
Augment = Annotated[
    bool, typer.Option("--tta", help="Average over mirror images of the kinds trained with: slower, a little better.")
]
Samples = Annotated[
    int | None,
    typer.Option(
        min=0, help="Average over this many passes with dropout on, for models that have it.", show_default=False
    ),
]
Crf = Annotated[
    bool,
    typer.Option("--crf", help="Refine by a fully connected CRF, as tune-crf has chosen it, else its default."),
]
CrfOptions = Annotated[
    list[str] | None,
    typer.Option(
        "--crf-option",
        metavar="KEY=VALUE",
        help="With --crf: a setting in place of that one, as bilateral_width=60; may be repeated.",
        show_default=False,
    ),
]
PruneLevel = Annotated[
    int | None,
    typer.Option(help="1 to 4: only this part of a U-Net++ trained with deep supervision: faster.", show_default=False),
]
Boundary = Annotated[
    bool,
    typer.Option("--boundary/--no-boundary", help="Measure outlines as well.", rich_help_panel=MEASURE_PANEL),
]
Tolerance = Annotated[
    float | None,
    typer.Option(
        metavar="PIXELS",
        help="How near an outline is met (default: 0.75 % of the image's diagonal).",
        show_default=False,
        rich_help_panel=MEASURE_PANEL,
    ),
]
Thin = Annotated[
    list[str] | None,
    typer.Option(
        metavar="CLASS",
        help="Compare the skeletons of this class (clDice); may be repeated.",
        show_default=False,
        rich_help_panel=MEASURE_PANEL,
    ),
]
Objects = Annotated[
    str | None,
    typer.Option(
        metavar="CLASS",
        help="Score the connected parts of this class as objects (V_Rand, V_Info).",
        show_default=False,
        rich_help_panel=MEASURE_PANEL,
    ),
]
OutputStride = Annotated[
    int | None,
    typer.Option(help="8 or 16: run a DeepLab v3 or v3+ at this stride, finer or faster.", show_default=False),
]

# Options whose flag is not their parameter's name.
FLAGS = {"learning_rate": "--lr", "ignore_values": "--ignore", "option": "-O", "options": "-O"}
DATA_SETTINGS = ("format", "classes", "splits", "group", "ignore_values", "snap")


def chosen(values: dict[str, Any], names: tuple[str, ...] | None = None) -> dict[str, Any]:
    """What the user set: `values` without None and empty lists, so that each default is written once, in the API.

    `names` narrows it to these. A list becomes a tuple.
    """
    return {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in values.items()
        if (names is None or name in names) and value not in (None, [], ())
    }


def refuse_with_resume(settings: dict[str, Any], whose: str) -> None:
    """What is resumed keeps its settings, so that it ends where it would have ended without the interruption.

    Raises:
        InputError: any setting was given.
    """
    if settings:
        names = ", ".join(
            "DATA" if name == "data" else FLAGS.get(name, "--" + name.replace("_", "-")) for name in settings
        )
        raise InputError(
            f"{names}: cannot be given with --resume, which keeps {whose} settings: leave it out, or begin anew"
        )


def parse_pairs(pairs: list[str] | None, option: str = "-O") -> dict[str, Any]:
    """["width=32", "norm=group"] -> {"width": 32, "norm": "group"}.

    Values are numbers, true, false, none, [lists], or else text.

    Raises:
        InputError: no '=', no key, or a key twice.
    """
    options: dict[str, Any] = {}
    for pair in pairs or []:
        key, equals, text = pair.partition("=")
        key = key.strip().replace("-", "_")
        if not equals or not key:
            raise InputError(f"{option} '{pair}': no key=value: write for example {option} width=32")
        if key in options:
            raise InputError(f"{option} '{pair}': '{key}' is given twice: keep one of them")
        options[key] = _parse_value(text.strip())
    return options


def parse_crf(wanted: bool, pairs: list[str] | None) -> bool | dict[str, Any]:
    """--crf and --crf-option as the API takes them.

    Raises:
        InputError: settings without --crf.
    """
    if pairs and not wanted:
        raise InputError(f"--crf-option {pairs[0]}: works with --crf only: add it")
    return parse_pairs(pairs, "--crf-option") or wanted


def _parse_value(text: str) -> Any:
    words = {"true": True, "false": False, "none": None, "null": None}
    if text.lower() in words:
        return words[text.lower()]
    try:
        value = json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        return text
    return value if isinstance(value, int | float | list) else text


def parse_size(text: str, option: str, order: str) -> tuple[int, int]:
    """ "480x360" -> (480, 360), in the order as written.

    Raises:
        InputError: not two whole numbers of at least 1; `option` and `order` tell where and how to write it.
    """
    match = re.fullmatch(r"\s*(0*[1-9]\d{0,7})\s*[x×]\s*(0*[1-9]\d{0,7})\s*", text.lower(), re.ASCII)
    if match is None:
        raise InputError(f"{option} '{text}': not a size: write {order}, two whole numbers, for example 480x360")
    return int(match[1]), int(match[2])


def parse_crop(text: str) -> tuple[int, ...]:
    """ "256x320" -> (256, 320), "64x96x96" -> (64, 96, 96): height, width, of volumes depth, height, width.

    Raises:
        InputError: neither two nor three whole numbers of at least 1.
    """
    words = [word.strip() for word in text.lower().replace("×", "x").split("x")]
    if len(words) == 3 and all(re.fullmatch(r"0*[1-9]\d{0,7}", word, re.ASCII) for word in words):
        return tuple(map(int, words))
    order = "HEIGHTxWIDTH, or of volumes DEPTHxHEIGHTxWIDTH" if len(words) == 3 else "HEIGHTxWIDTH"
    return parse_size(text, "--crop", order)


def parse_sides(text: str, option: str) -> tuple[int, ...]:
    """ "480x360" -> (480, 360), "64x48x32" -> (64, 48, 32): width, height and, of volumes, depth.

    Raises:
        InputError: neither two nor three whole numbers of at least 1.
    """
    words = [word.strip() for word in text.lower().replace("×", "x").split("x")]
    if len(words) == 3 and all(re.fullmatch(r"0*[1-9]\d{0,7}", word, re.ASCII) for word in words):
        return tuple(map(int, words))
    return parse_size(
        text, option, "WIDTHxHEIGHT, or of volumes WIDTHxHEIGHTxDEPTH" if len(words) == 3 else "WIDTHxHEIGHT"
    )


def parse_pixel(text: str, option: str) -> tuple[int, int]:
    """ "120,45" -> (120, 45): x, then y, counted from the upper left corner.

    Raises:
        InputError: not two whole numbers.
    """
    match = re.fullmatch(r"\s*(-?\d{1,8})\s*,\s*(-?\d{1,8})\s*", text, re.ASCII)
    if match is None:
        raise InputError(f"{option} '{text}': not a pixel: write X,Y, two whole numbers, for example 120,45")
    return int(match[1]), int(match[2])
