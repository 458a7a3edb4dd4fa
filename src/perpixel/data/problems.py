"""What a check finds: problems with file, message, count and remedy."""

from __future__ import annotations

from dataclasses import dataclass

from perpixel.data.fingerprint import SampleFacts
from perpixel.errors import InputError

SEVERITIES = ("error", "warning", "info")


@dataclass(frozen=True)
class Problem:
    """One finding.

    Attributes:
        severity: "error" keeps training from starting, "warning" may spoil it, "info" is worth knowing.
        code: a fixed word for machines, such as "unknown_value".
        file: the file (or None when it concerns the whole data set).
        message: what and how much, in one line.
        count: pixels or files concerned.
        remedy: what to do.
    """

    severity: str
    code: str
    file: str | None
    message: str
    count: int
    remedy: str


@dataclass(frozen=True)
class Findings:
    """What one sample gave."""

    facts: SampleFacts | None
    problems: list[Problem]


def from_error(code: str, where: str, error: InputError) -> Problem:
    """Our errors read "where: what: remedy"; the remedy is what follows the last colon."""
    message, _, remedy = str(error).rpartition(": ")
    return Problem("error", code, where, message or str(error), 1, remedy if message else "mend the file")
