"""The verbs about architectures: list them, describe one. `cli.py` puts them into the command line.

As there, nothing heavy is imported before the verb that needs it runs.
"""

from __future__ import annotations

import inspect
from typing import Annotated, Any

import typer

from perpixel.apps import options as opt
from perpixel.apps import screens
from perpixel.apps.json_output import print_document
from perpixel.apps.wording import one_line


def models(as_json: opt.AsJson = False) -> None:
    """List the architectures and their options."""
    from perpixel.models import MODELS

    rows = [_model_row(name, MODELS[name]) for name in MODELS]
    if as_json:
        return print_document({"models": rows})
    console = screens.make_console()
    screens.show_models(console, rows)
    screens.end(console, [], [screens.command("perpixel", "describe", rows[0]["name"], "--size", "480x360")])


def _model_row(name: str, build: Any) -> dict[str, Any]:
    parameters = inspect.signature(build).parameters.values()
    options = {
        p.name: p.default
        for p in parameters
        if p.name not in ("in_channels", "num_classes") and p.default is not inspect.Parameter.empty
    }
    shown = {
        key: value if isinstance(value, str | int | float | bool | None) else str(value)
        for key, value in options.items()
    }
    return {"name": name, "summary": one_line((build.__doc__ or "").strip().partition("\n\n")[0]), "options": shown}


def describe(
    model: Annotated[str, typer.Argument(help="A name that `perpixel models` lists.", show_default=False)],
    size: Annotated[str, typer.Option(metavar="WxH", help="Input size, width x height.")] = "480x360",
    in_channels: Annotated[int, typer.Option(min=1, help="Channels of the image.")] = 3,
    classes: Annotated[int, typer.Option(min=1, help="Number of classes.")] = 21,
    option: opt.Options = None,
    as_json: opt.AsJson = False,
) -> None:
    """Show a model stage by stage: size, channels, stride, receptive field, parameters, cost."""
    width, height = opt.parse_size(size, "--size", "WIDTHxHEIGHT")
    pairs = opt.parse_pairs(option)
    from perpixel.models import create_model
    from perpixel.models.describe import describe as describe_model

    net = create_model(model, in_channels=in_channels, num_classes=classes, **pairs)
    document = describe_model(net, in_channels=in_channels, size=(height, width)).to_json()
    if as_json:
        return print_document(document)
    console = screens.make_console()
    console.print(f"{model}, {in_channels} channels of {width} wide and {height} high, {classes} classes", style="bold")
    screens.show_description(console, document)
    screens.end(console, [], [screens.command("perpixel", "train", "DATA", "--model", model, "--budget", "10m")])
