"""What is published about a model, and what we chose: the facts behind the tests of counts and behind its docs page."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Count:
    """Parameters of one configuration.

    Attributes:
        label: what the configuration is called on the docs page, such as "VGG16, 21 classes".
        in_channels, num_classes, options: how to build it.
        expected: the number that a test asserts.
        tolerance: relative; 0 for exact numbers.
        stored: count frozen kernels and batch statistics too, as a published number may have.
        printed: the number as the paper or its release prints it, with its unit; empty where none is printed.
    """

    label: str
    expected: int
    in_channels: int = 3
    num_classes: int = 21
    options: dict[str, Any] = field(default_factory=dict)
    tolerance: float = 0.0
    stored: bool = False
    printed: str = ""


@dataclass(frozen=True)
class Card:
    """One published architecture.

    Attributes:
        title: as the paper writes it.
        paper: authors, title, place, year, arXiv number.
        counts: parameters, each checked by a test.
        scores: published results, one line each, with the data set and what was done for it.
        training: the paper's recipe in one or two sentences.
        deviations: where this implementation differs from the paper or where paper and release differ, and why we
            chose what we chose; one sentence each.
    """

    title: str
    paper: str
    counts: tuple[Count, ...]
    scores: tuple[str, ...] = ()
    training: str = ""
    deviations: tuple[str, ...] = ()
