"""One self-contained HTML page about a run: open it anywhere, print it, send it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from perpixel.apps import report_views as views
from perpixel.apps.pages import read_script, render_page, write_page
from perpixel.apps.report_figures import draw_curves
from perpixel.apps.report_parts import RunParts, read_run
from perpixel.apps.wording import main_score
from perpixel.errors import InputError


def write_report(run: str | Path, out: str | Path | None = None) -> Path:
    """Write the report of a run, finished or not.

    Args:
        run: run folder, as `perpixel.train` made it.
        out: HTML file to write; None is `run`/report.html.
    Returns:
        The file written. It holds its pictures and asks for nothing from outside.
    Raises:
        InputError: not a run, a damaged file in it, or `out` cannot be written.
    """
    parts = read_run(run)
    target = Path(out) if out is not None else parts.path / "report.html"
    if target.is_dir():
        target = target / "report.html"
    try:
        page = render(parts)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{parts.path}: a file of this run is not as perpixel writes it ({type(error).__name__}: {error}): "
            "evaluate the run again, or restore the file"
        ) from error
    return write_page(target, page)


def render(parts: RunParts) -> str:
    """The page as text."""
    return render_page("report.html.jinja", **context(parts))


def context(parts: RunParts) -> dict[str, Any]:
    """Everything that the template prints."""
    scores, best = parts.scores, views.best_validation(parts.log)
    has_pixels = scores is not None and "confusion" in scores
    slices = views.view_slices(parts.scores_folder, scores) if scores else []
    return {
        "name": parts.path.resolve().name,
        "subtitle": views.view_subtitle(parts),
        "scores": scores,
        "tiles": views.view_headline(parts),
        "score_names": views.view_score_names(scores),
        "evaluations": parts.evaluations,
        "classes": views.view_classes(scores) if scores and has_pixels else [],
        "objects": views.view_objects(scores),
        "confusion": views.view_confusion(scores) if scores and has_pixels else None,
        "boundaries": views.view_boundaries(scores) if has_pixels else None,
        "calibration": views.view_calibration(scores),
        "special": views.view_special(scores),
        "cases": views.view_cases(parts.scores_folder, scores) if scores else [],
        "pictures": views.view_pictures(scores),
        "structures": views.view_structures(scores),
        "slices": slices,
        "script": read_script("slices.js") if slices else None,
        "palette": (scores or {}).get("colours") or [],
        "noun": "volume" if (scores or parts.fingerprint).get("spatial_dims") == 3 else "image",
        "element": "voxel" if (scores or parts.fingerprint).get("spatial_dims") == 3 else "pixel",
        "curves": draw_curves(parts.log),
        "growth": views.view_growth(parts),
        "best": best,
        "best_key": main_score(best or {})[0],
        "best_title": main_score(best or {})[1],
        "stops": [event for event in parts.log if event.get("kind") in ("stop", "replan")],
        "data": views.view_data(parts),
        "problems": parts.problems,
        "plan": parts.plan,
        "timing": views.view_timing(parts),
        "usage": views.view_usage(parts.path),
        "settings": views.view_settings(parts),
        "definitions": views.view_definitions(scores),
    }
