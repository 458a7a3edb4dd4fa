"""What a described model consists of: stages, and the edges along which their outputs flow."""

from __future__ import annotations

from dataclasses import dataclass

IMAGE = "image"  # the edges that start at no stage
LOGITS = "logits"  # the edges that leave the last stage


@dataclass(frozen=True)
class Stage:
    """One row: what a stage returns for the described image, and what it costs.

    `stride` and `receptive_field` are in image pixels; `receptive_field` is None where it is the whole image or
    cannot be told (global pooling, attention). One multiply-add is one multiplication and one addition. `depth` is that
    of a volume, None for images; stride and receptive field of volumes are those along the width.
    """

    name: str
    channels: int
    height: int
    width: int
    stride: float
    receptive_field: int | None
    parameters: int
    multiply_adds: int
    depth: int | None = None

    @property
    def size(self) -> tuple[int, ...]:
        """(height, width), of volumes (depth, height, width)."""
        sides = (self.height, self.width)
        return sides if self.depth is None else (self.depth, *sides)


@dataclass(frozen=True)
class Edge:
    """The output of stage `source` enters stage `target`; the ends are the names IMAGE and LOGITS.

    `join` says how it meets others there ("concatenation", "sum", "product", "maximum", "indices", or empty), `resize`
    what changed its size on the way between the stages ("pool", "interpolation", "unpooling", or empty).
    """

    source: str
    target: str
    join: str = ""
    resize: str = ""


def short_count(count: int) -> str:
    """1234567 -> '1.235M'; small numbers as they are.

    >>> short_count(31030658), short_count(0), short_count(999)
    ('31.03M', '0', '999')
    """
    for unit, name in ((10**12, "T"), (10**9, "G"), (10**6, "M"), (10**3, "k")):
        if count >= unit:
            return f"{count / unit:.4g}{name}"
    return str(count)
