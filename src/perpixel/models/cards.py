"""The card of every model: its paper, published numbers, and where we differ."""

from __future__ import annotations

from perpixel.models.card import Card

CARDS: dict[str, Card] = {}
