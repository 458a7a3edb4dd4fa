"""Figures of objects for the report."""

from __future__ import annotations

from xml.etree import ElementTree

from perpixel.apps.report_objects import draw_object_curves

CURVES = {
    "precision": {"0.50": [1.0] * 60 + [0.5] * 41, "0.75": [0.5] * 101, "0.90": [0.0] * 101},
    "iou": [0.5, 0.75, 0.9],
    "f1": [0.9, 0.5, 0.1],
    "matching_ap": [0.8, 0.3, 0.05],
    "sides": {"from": [0.0, 2.0, 2.83, 4.0, 5.66], "true": [0, 3, 0, 9, 1], "predicted": [1, 2, 0, 9, 0]},
}


def test_three_panels() -> None:
    panels = draw_object_curves(CURVES)
    assert [panel.title for panel in panels] == ["Precision over recall", "F1 over IoU", "Sizes of objects"]
    texts = [panel.svg for panel in panels]
    for text in texts:
        ElementTree.fromstring(text)
        assert "currentColor" in text
    assert "IoU 0.75" in texts[0] and "TP / (TP + FP + FN)" in texts[1] and "predicted" in texts[2]
    assert texts == [panel.svg for panel in draw_object_curves(CURVES)]


def test_panels_without_numbers_are_left_out() -> None:
    assert draw_object_curves({}) == []
    nothing = {"precision": {"0.50": [None] * 101}, "iou": [0.5], "f1": [None], "sides": {"from": [0.0], "true": [0]}}
    assert draw_object_curves(nothing) == []
