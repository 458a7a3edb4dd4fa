"""What a net sees on one image, as one page: scores, skips, maps of every stage, what a pixel sees, and its doubts."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from perpixel.apps.explain_document import (
    class_names,
    describe_insight,
    describe_pixel,
    describe_view,
    largest_classes,
)
from perpixel.apps.explain_page import write_explanation
from perpixel.errors import InputError, did_you_mean
from perpixel.inference.bundle import find_bundle
from perpixel.inference.insight import choose_view, look
from perpixel.inference.load import load_for_images
from perpixel.inference.sampling import check_samples, dropout_layers
from perpixel.models import FORESTS

OnEvent = Callable[[dict[str, Any]], None]

DEFAULT_SAMPLES = 10  # passes with dropout, where the net has it


@dataclass(frozen=True)
class Explanation:
    """`page` to look at, and `document`: the numbers beside its pictures."""

    page: Path
    document: dict[str, Any]


def explain(
    bundle: str | Path,
    image: str | Path | np.ndarray,
    *,
    out: str | Path = "explain.html",
    classes: str | Sequence[str] | None = None,
    pixel: tuple[int, int] | None = None,
    samples: int | None = None,
    seed: int = 0,
    device: str | None = None,
    on_event: OnEvent | None = None,
) -> Explanation:
    """Write one self-contained page about what a trained net makes of one image.

    Args:
        bundle: a run or a bundle.
        image: a file, or (H, W, C) / (H, W) of the value range that the training images had. Of a large one the part
            around `pixel`, or around the middle, is looked at: at most 640 pixels a side at the working size.
        out: HTML file, or a folder, which gets the file explain.html.
        classes: names of the classes whose maps are shown, "sky,car" or a list; None takes the largest predicted ones.
        pixel: (x, y) whose receptive field is shown; None takes the middle of a small region.
        samples: passes with dropout on; None is 10 where the net has dropout; 0 is none.
        seed: of the dropout.
        device: "cpu", "cuda", "mps"; None or "auto" takes a GPU where there is one.
    Raises:
        InputError: no bundle, an unreadable image, an unknown class or device, a pixel outside the image, samples of
            a net without dropout, a page that cannot be written or has no name of one.
    """
    from perpixel.engine.hardware import find_hardware

    tell, began = on_event or (lambda event: None), time.perf_counter()
    target = _page_path(Path(out))
    folder = find_bundle(bundle)
    predictor = load_for_images(folder, "explain", device=find_hardware(device or "auto").accelerator)
    if predictor.config.model in FORESTS:
        raise InputError(
            f"{folder}: a {predictor.config.model} has no maps of stages to look into: perpixel predict --uncertainty "
            "shows where it doubts"
        )
    array = predictor.as_image(image)
    names = class_names(predictor)
    wanted = _class_indices(classes, names)
    point = None if pixel is None else _point(pixel, array)
    if samples is None:
        samples = DEFAULT_SAMPLES if dropout_layers(predictor.model) else 0
    check_samples(predictor.model, samples)

    def on_progress(done: int, total: int, what: str) -> None:
        tell({"kind": "progress", "done": done, "total": total, "text": what})

    tell({"kind": "phase", "text": f"Following the image through {predictor.config.model}"})
    view = choose_view(predictor, array, point)
    insight = look(predictor, view, samples=samples, seed=seed, on_progress=on_progress)
    shown = wanted or largest_classes(insight)
    document = {
        "model": predictor.config.model,
        "bundle": str(folder),
        "image": "array" if isinstance(image, np.ndarray) else Path(image).name,
        **describe_view(array, view, insight),
        **describe_insight(insight, names, shown),
        "pixel": describe_pixel(insight, view, names),
        "seconds": time.perf_counter() - began,
    }
    tell({"kind": "phase", "text": "Drawing the page"})
    page = write_explanation(target, predictor, view, insight, document)
    return Explanation(page, document)


def _page_path(out: Path) -> Path:
    page = out / "explain.html" if out.is_dir() else out
    if page.suffix.lower() not in (".html", ".htm"):  # a slip of the pen must not cost the photograph
        raise InputError(f"--out {out}: the page is an HTML file: give it a name that ends in .html, or a folder")
    return page


def _class_indices(asked: str | Sequence[str] | None, names: Sequence[str]) -> list[int]:
    if asked is None:
        return []
    listed = [asked] if asked in names else asked.split(",") if isinstance(asked, str) else list(asked)
    found: list[int] = []
    for name in (str(each).strip() for each in listed):
        if name not in names:
            raise InputError(f"unknown class '{name}'{did_you_mean(name, names)}")
        if names.index(name) not in found:
            found.append(names.index(name))
    return found


def _point(pixel: tuple[int, int], image: np.ndarray) -> tuple[int, int]:
    x, y = pixel
    height, width = image.shape[:2]
    if not (0 <= x < width and 0 <= y < height):
        raise InputError(
            f"pixel {x},{y}: outside the image, which is {width} wide and {height} high: give x from 0 to "
            f"{width - 1} and y from 0 to {height - 1}"
        )
    return y, x
