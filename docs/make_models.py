"""Writes the page of every model, its drawing, and the tables in docs/models.md, from the code and its cards.

    python docs/make_models.py            write what has changed
    python docs/make_models.py --check    write nothing, name what is not current, exit 1 if anything is
    python docs/make_models.py --measure unet fcn8s
                                          measure the receptive fields of these models anew (up to a minute each)

Every number is counted when this runs, on shapes without values, so a page cannot say what the code does not do. The
measured receptive fields alone, which need real weights and gradients, are kept in models/receptive_fields.json.
"""

from __future__ import annotations

import argparse
import inspect
import json
import re
import sys
import typing
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from perpixel.models import NETS, create_model, option_names, spatial_dims
from perpixel.models.card import Card, Count
from perpixel.models.cards import CARDS
from perpixel.models.describe import Description, describe
from perpixel.models.receptive_field import measured_receptive_field
from perpixel.models.stages import short_count

DOCS = Path(__file__).resolve().parent
SIZE = (512, 512)  # height and width of the described image
VOLUME = (64, 64, 64)  # depth, height and width of the described volume
SIZES = {"unet_valid": (572, 572), "unet3d_valid": (116, 132, 132)}  # their papers'; they take few sizes
LARGEST_FIELD, LARGE_FIELD_SIDE = 480, 384  # fields beyond are measured on images that cut them off
COARSEST = 64  # strides beyond are those of pooled grids
IMAGE_MODELS = [name for name, builder in NETS.items() if spatial_dims(builder) == 2]
BEGIN, END = "<!-- {}: docs/make_models.py writes what follows -->", "<!-- end of {} -->"


def main(arguments: list[str] | None = None) -> int:
    """Write or check; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a page is not current")
    parser.add_argument("--measure", nargs="+", default=[], metavar="MODEL", help="receptive fields to measure anew")
    parsed = parser.parse_args(arguments)
    is_check = parsed.check
    for name in parsed.measure:
        keep_field(name, measure(name))
    old = list(stale())
    for path in old:
        print(f"{'no model any more' if is_check else 'removed'}: {path.relative_to(DOCS.parent)}")
        if not is_check:
            path.unlink()
    changed = 0
    for path, text in pages():
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        changed += 1
        print(f"{'not current' if is_check else 'written'}: {path.relative_to(DOCS.parent)}")
        if not is_check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    if is_check and (old or changed):
        print("run: python docs/make_models.py")
    return int(is_check and bool(old or changed))


def pages() -> Iterator[tuple[Path, str]]:
    """Every generated file with its text."""
    for name in NETS:
        yield page_path(name), page(name)
        yield figure_path(name), figure(name)
    yield DOCS / "models.md", with_parts((DOCS / "models.md").read_text(encoding="utf-8"))


def measure(name: str) -> dict[str, Any]:
    """The receptive field of the logit in the middle, with a new model's weights, on an image that should hold it."""
    field = described(name).rows[-1].receptive_field
    side = LARGE_FIELD_SIDE if field is None or field > LARGEST_FIELD else 32 * -(-(field + 64) // 32)
    if name in SIZES:
        side = 16 * -(-side // 16) + 60 - 64
    torch.manual_seed(0)
    found = measured_receptive_field(create_model(name), in_channels=3, size=(side, side), samples=1)
    effective = None if found.effective_side is None else round(found.effective_side)
    return {
        "side": side, "width": found.width, "height": found.height, "is_clipped": found.is_clipped,
        "effective_side": effective, "mass_side": found.mass_side,
    }  # fmt: skip


def fields() -> dict[str, dict[str, Any]]:
    """What was measured, by model."""
    path = DOCS / "models" / "receptive_fields.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def keep_field(name: str, field: dict[str, Any]) -> None:
    """Put one measurement beside the others, in the order of NETS."""
    known = fields() | {name: field}
    lines = [f'  "{each}": {json.dumps(known[each])}' for each in IMAGE_MODELS if each in known]
    text = "{\n" + ",\n".join(lines) + "\n}\n"
    (DOCS / "models" / "receptive_fields.json").write_text(text, encoding="utf-8")


def stale() -> Iterator[Path]:
    """Pages and drawings of models that are gone."""
    for path in sorted([*(DOCS / "models").glob("*.md"), *(DOCS / "models" / "figures").glob("*.svg")]):
        if path.stem not in NETS:
            yield path


def page_path(name: str) -> Path:
    """Where the page of a model lies."""
    return DOCS / "models" / f"{name}.md"


def figure_path(name: str) -> Path:
    """Where the drawing of a model lies."""
    return DOCS / "models" / "figures" / f"{name}.svg"


def size_of(name: str) -> tuple[int, ...]:
    """Height and width of the described image, of a volume depth, height and width."""
    return SIZES.get(name, SIZE if name in IMAGE_MODELS else VOLUME)


def channels_of(name: str) -> tuple[int, int]:
    """Channels and classes with which a model is described."""
    return (3, 21) if name in IMAGE_MODELS else (1, 2)


def figure(name: str) -> str:
    """The drawing of a model with its default options."""
    return described(name).to_svg(f"{CARDS[name].title} ({name})")


@cache
def described(name: str) -> Description:
    """A model with its default options, for the example image of its page."""
    return describe(built(name, *channels_of(name)), in_channels=channels_of(name)[0], size=size_of(name))


def built(name: str, in_channels: int = 3, num_classes: int = 21, options: dict[str, Any] | None = None) -> nn.Module:
    """A model without values; one and the same for the same arguments."""
    key = repr((name, in_channels, num_classes, sorted((options or {}).items())))
    if key not in _BUILT:
        with torch.device("meta"), _NothingDrawn():
            _BUILT[key] = create_model(name, in_channels=in_channels, num_classes=num_classes, **(options or {}))
    return _BUILT[key]


_BUILT: dict[str, nn.Module] = {}


class _NothingDrawn(TorchFunctionMode):
    """Within it, initialisation draws no numbers: there is nothing to write them into, and it takes half the time."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "").endswith(("normal_", "uniform_")):
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def counted(name: str, count: Count) -> int:
    """Parameters of one configuration of a card, as `Count.stored` says."""
    model = built(name, count.in_channels, count.num_classes, count.options)
    values = [*model.parameters()] if count.stored else [p for p in model.parameters() if p.requires_grad]
    values += [*model.buffers()] if count.stored else []
    return sum(value.numel() for value in values if value.is_floating_point())


def page(name: str) -> str:
    """The page of one model."""
    card = CARDS[name]
    parts = [
        f"# {card.title}",
        summary(name),
        card.paper + ".",
        f"![{card.title}: its stages by resolution](figures/{name}.svg)",
        *_use(name),
        *_stages(described(name)),
        *_receptive_field(name),
        *_options(name),
        *_counts(name, card),
        *_listed("Published results", "The authors' numbers, not ours.", card.scores),
        *([f"## The paper's training\n\n{card.training}"] if card.training else []),
        *_listed("Where this differs", "", card.deviations),
        _end(name),
    ]
    return "\n\n".join(parts) + "\n"


def summary(name: str) -> str:
    """The first sentence of a builder's docstring."""
    return " ".join((inspect.getdoc(NETS[name]) or "").partition("\n\n")[0].split())


def _use(name: str) -> list[str]:
    channels, classes = channels_of(name)
    description = described(name)
    shape, image = ", ".join(map(str, description.output)), ", ".join(map(str, description.image))
    size = f" --size {'x'.join(map(str, size_of(name)[::-1]))}"
    return [
        "## Use",
        f'```python\nimport torch\n\nimport perpixel\n\nmodel = perpixel.create_model("{name}", '
        f"in_channels={channels}, num_classes={classes}).eval()\n"
        f"logits = model(torch.rand(1, {image}))  # (1, {shape})\n```",
        f"```\nperpixel describe {name}{size} --svg {name}.svg\nperpixel train DATA --model {name} --budget 10m\n```",
    ]


def _stages(description: Description) -> list[str]:
    rows = [("stage", "output", "stride", "sees", "parameters", "multiply-adds")]
    for row in description.rows:
        field = "all" if row.receptive_field is None else f"{row.receptive_field:,}"
        costs = (f"{row.parameters:,}", short_count(row.multiply_adds))
        size = " x ".join(map(str, (row.channels, *row.size)))
        rows.append((row.name, size, f"{row.stride:.4g}", field, *costs))
    size = " x ".join(map(str, description.output))
    rows.append(("all", size, "", "", f"{description.parameters:,}", short_count(description.multiply_adds)))
    is_image, image = description.depth is None, " x ".join(map(str, description.image))
    what, sides, unit = ("An image", "height", "pixels") if is_image else ("A volume", "depth, height", "voxels")
    intro = (
        f"{what} of {image} (channels, {sides}, width), {description.output[0]} classes, default options. `sees` is "
        f"the receptive field in {unit}."
    )
    frozen = [f"And {description.frozen:,} values that are never trained."] if description.frozen else []
    return ["## Stages", intro, _table(rows, numbers_from=2), *frozen]


def _receptive_field(name: str) -> list[str]:
    theory = described(name).rows[-1].receptive_field
    if name not in IMAGE_MODELS:
        return ["## Receptive field", f"By arithmetic a logit sees {theory:,} voxels along each axis."]
    field = _field(name)
    reach = "the whole image" if theory is None else f"{theory:,} x {theory:,} pixels"
    side = f"{field['side']} x {field['side']}"
    found = f"all of an image of {side}" if field["is_clipped"] else f"{field['width']} x {field['height']} pixels"
    measured = f"Measured by gradients for the logit in the middle: {found}."
    if not field["is_clipped"] and field["width"] != theory:
        measured += " It varies from pixel to pixel by up to a cell of the coarsest map."
    if field["effective_side"] is None:
        effective = "The class scores start at zero, so that what really counts shows only in a trained model."
    else:
        effective = (
            f"What really counts is less: with new weights the gradient is above 4.55 % of its peak on as many pixels "
            f"as {field['effective_side']} x {field['effective_side']} has, and the middle {field['mass_side']} x "
            f"{field['mass_side']} pixels hold 95 % of it."
        )
    return ["## Receptive field", f"By arithmetic a logit sees {reach}. {measured} {effective}"]


def _options(name: str) -> list[str]:
    options = option_names(NETS[name])
    if not options:
        return []
    words = option_words(name)
    rows = [("option", "default", "meaning")]
    rows += [(f"`{option}`", f"`{default!r}`", words.get(option, "")) for option, default in options.items()]
    return ["## Options", "In Python as keywords, on the command line as `-O key=value`.", _table(rows)]


def option_words(name: str) -> dict[str, str]:
    """What the docstring of a builder, or of the class that it returns, says about each argument."""
    builder = NETS[name]
    sources: list[Any] = [builder]
    if not inspect.isclass(builder):
        sources.insert(0, typing.get_type_hints(builder).get("return"))
    words: dict[str, str] = {}
    for source in sources:
        words |= _arguments(inspect.getdoc(source) or "")
    return words


def _arguments(docstring: str) -> dict[str, str]:
    section = re.search(r"^Args:\n((?:(?: +.*)?(?:\n|$))*)", docstring, re.MULTILINE)
    words: dict[str, str] = {}
    current: list[str] = []
    for line in section[1].splitlines() if section else []:
        start = re.match(r" {4}([\w, ]+): (.*)", line)
        if start:
            current = [each.strip() for each in start[1].split(",")]
            words |= {each: start[2].strip() for each in current}
        elif line.strip():
            words |= {each: f"{words[each]} {line.strip()}" for each in current}
    return words


def _counts(name: str, card: Card) -> list[str]:
    rows = [("configuration", "options", "here", "paper or release")]
    for count in card.counts:
        options = ", ".join(f"`{key}={value!r}`" for key, value in count.options.items())
        rows.append((count.label, options, f"{counted(name, count):,}", count.printed))
    words = "Trainable values, counted when this page was made."
    if any(count.stored for count in card.counts):
        words = "Trainable values, or all stored ones where the line says so, counted when this page was made."
    return ["## Parameters", words, _table(rows, numbers_from=2)] if card.counts else []


def _listed(title: str, intro: str, lines: tuple[str, ...]) -> list[str]:
    if not lines:
        return []
    return [f"## {title}", *([intro] if intro else []), "\n".join(f"- {line}" for line in lines)]


def _end(name: str) -> str:
    source = Path(inspect.getsourcefile(inspect.unwrap(NETS[name])) or "").resolve()
    path = source.relative_to(DOCS.parent)
    return f"The code: [{path}](../../{path}). All models: [models](../models.md)."


def with_parts(text: str) -> str:
    """docs/models.md with what stands between its marks made anew."""
    for name, part in (("table", table), ("scores", scores), ("differences", differences)):
        begin, end = BEGIN.format(name), END.format(name)
        before, _, rest = text.partition(begin)
        _, _, behind = rest.partition(end)
        if not behind:
            raise SystemExit(f"docs/models.md: it needs the lines {begin} and {end}")
        text = f"{before}{begin}\n\n{part()}\n\n{end}{behind}"
    return text


def table() -> str:
    """One line a model, in the order of NETS."""
    rows = [("model", "configuration", "parameters", "paper", "multiply-adds", "stride", "sees", "measured")]
    for name in NETS:
        description = described(name)
        count = _main_count(CARDS[name])
        last = description.rows[-1].receptive_field
        rows.append((
            _link(name),
            count.label if count else "",
            f"{counted(name, count):,}" if count else "",
            count.printed if count else "",
            short_count(description.multiply_adds),
            f"{max(row.stride for row in description.rows if row.stride <= COARSEST):.4g}",
            "all" if last is None else f"{last:,}",
            _measured(name),
        ))  # fmt: skip
    return _table(rows, numbers_from=2)


def scores() -> str:
    """What the authors of each model report."""
    rows = [(_link(name), "; ".join(CARDS[name].scores)) for name in NETS if CARDS[name].scores]
    return _table([("model", "published"), *rows])


def differences() -> str:
    """What differs from the papers, once for all models that share it."""
    models_of: dict[str, list[str]] = {}
    for name in NETS:
        for line in CARDS[name].deviations:
            models_of.setdefault(line, []).append(name)
    lines_of: dict[tuple[str, ...], list[str]] = {}
    for line, names in models_of.items():
        lines_of.setdefault(tuple(names), []).append(line)
    parts = []
    for names, lines in lines_of.items():
        parts += [", ".join(map(_link, names)), "\n".join(f"- {line}" for line in lines)]
    return "\n\n".join(parts)


def _link(name: str) -> str:
    return f"[`{name}`](models/{name}.md)"


def _main_count(card: Card) -> Count | None:
    """The first of a card, or the same network counted as the paper counts, where that is another number."""
    for count in card.counts:
        if count.printed and count.stored and count.options == card.counts[0].options:
            return count
    return card.counts[0] if card.counts else None


def _measured(name: str) -> str:
    if name not in IMAGE_MODELS:
        return ""
    field = _field(name)
    side = f"{field['width']:,}" if field["width"] == field["height"] else f"{field['width']:,} x {field['height']:,}"
    return f"{field['side']:,}+" if field["is_clipped"] else side


def _field(name: str) -> dict[str, Any]:
    known = fields()
    if name not in known:
        raise SystemExit(f"no receptive field of {name} was measured: run docs/make_models.py --measure {name}")
    return known[name]


def _table(rows: list[tuple[str, ...]], numbers_from: int | None = None) -> str:
    """A Markdown table; columns from `numbers_from` on are set to the right."""
    marks = ["---:" if numbers_from is not None and column >= numbers_from else "---" for column in range(len(rows[0]))]
    lines = [tuple(cell.replace("|", "\\|") for cell in row) for row in rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in [lines[0], tuple(marks), *lines[1:]])


if __name__ == "__main__":
    sys.exit(main())
