"""How numbers, times and names are written for people: the same in the terminal and in the report."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

MISSING = "–"  # what stands where there is no number
# The score that models are chosen and compared by, first of these that there is, unless `score_name` says which.
MAIN_SCORES = {
    "structure_dice": "structure Dice",
    "mask_ap": "mask AP",
    "matching_ap50": "AP50",
    "miou": "mIoU",
}


def main_score(values: Mapping[str, Any]) -> tuple[str, str]:
    """(key, title) of the score that counts most among named ones; that of images where there is none."""
    named = values.get("score_name")
    key = named if named in MAIN_SCORES else next((name for name in MAIN_SCORES if name in values), "miou")
    return key, MAIN_SCORES[key]


def is_number(value: Any) -> TypeGuard[float]:
    """True for a finite int or float. None, NaN, text and bool are not numbers to be shown."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def format_score(value: Any, digits: int = 3) -> str:
    """0.7335 -> '0.734'; None and NaN (class absent) -> '–'."""
    return f"{value:.{digits}f}" if is_number(value) else MISSING


def format_interval(interval: Any, digits: int = 3) -> str:
    """(0.71, 0.752) -> '0.710 to 0.752'; anything that is no pair of numbers -> ''."""
    if not isinstance(interval, Sequence) or len(interval) != 2 or not all(is_number(end) for end in interval):
        return ""
    return f"{interval[0]:.{digits}f} to {interval[1]:.{digits}f}"


def format_count(value: Any) -> str:
    """1234567 -> '1,234,567'."""
    return f"{value:,.0f}" if is_number(value) else MISSING


def format_large(value: Any) -> str:
    """24436000 -> '24.4 M': three figures, for parameters, pixels and multiply-adds."""
    if not is_number(value):
        return MISSING
    for size, unit in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{unit}" if abs(value) / size < 999.5 else f"{value / size:.0f}{unit}"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def format_share(value: Any) -> str:
    """0.0371 -> '3.7 %'; a share under one in a thousand keeps its first figure, down to '<0.01 %'."""
    if not is_number(value):
        return MISSING
    percent = 100 * value
    if 0 < percent < 0.01:
        return "<0.01 %"
    return f"{percent:.1f} %" if percent == 0 or percent >= 0.1 else f"{percent:.1g} %"


def format_rate(value: Any) -> str:
    """31.24 -> '31.2', 0.0712 -> '0.071', 1834.2 -> '1,834': a rate with the figures that matter."""
    if not is_number(value):
        return MISSING
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2g}"


def format_length(value: Any) -> str:
    """4.237 -> '4.24', 31.24 -> '31.2', 600.0 -> '600': a distance in pixels."""
    if not is_number(value):
        return MISSING
    return f"{value:.2f}" if value < 9.995 else f"{value:.1f}" if value < 99.95 else f"{value:,.0f}"


def format_duration(seconds: Any) -> str:
    """4.21 -> '4.2 s', 125 -> '2 min 05 s', 3780 -> '1 h 03 min'."""
    if not is_number(seconds):
        return MISSING
    seconds = max(0.0, float(seconds))
    if seconds < 59.95:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def format_way(scores: Mapping[str, Any]) -> str:
    """How the images of a scores.json were predicted, where not by one plain pass of the whole net; else ''."""
    words = []
    if is_number(scores.get("prune_level")):
        words.append(f"pruned to level {scores['prune_level']}")
    if is_number(scores.get("output_stride")):
        words.append(f"output stride {scores['output_stride']}")
    if scores.get("tta"):
        words.append("mean over mirror images")
    if is_number(scores.get("dropout_samples")) and scores["dropout_samples"]:
        words.append(f"mean of {plural(scores['dropout_samples'], 'pass with dropout', 'passes with dropout')}")
    if scores.get("crf"):
        words.append("refined by a CRF")
    return ", ".join(words)


def format_setting(value: Any) -> str:
    """A setting of any kind on one line: [256, 320] -> '256, 320', {'width': 32} -> 'width 32', None -> 'none'."""
    if value is None or value == {} or value == []:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_nested(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_nested(item) for item in value)
    return one_line(value)


def _nested(value: Any) -> str:
    text = format_setting(value)
    return f"({text})" if isinstance(value, Mapping | list | tuple) and value else text


def printable(text: Any) -> str:
    """Text from a file name or a data set that may not steer the terminal: control characters become escapes."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(text))


def one_line(text: Any) -> str:
    """The text on one printable line; line breaks and runs of blanks become one blank."""
    return printable(" ".join(str(text).split()))


def plural(count: int, noun: str, many: str = "") -> str:
    """(1, 'image') -> '1 image', (1200, 'image') -> '1,200 images'."""
    return f"{count:,} {noun if count == 1 else many or noun + 's'}"
