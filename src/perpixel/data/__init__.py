"""Data sets: what people have on their disks, read, checked and split."""

from __future__ import annotations

from perpixel.data.check import CheckResult, Problem, check_dataset, refuse
from perpixel.data.check_sheet import overlay_sheet
from perpixel.data.dataset import Dataset, open_dataset, open_images, save_classes, save_splits
from perpixel.data.fingerprint import Fingerprint
from perpixel.data.formats import FORMATS
from perpixel.data.repeats import repeat_factors
from perpixel.data.sample import FileMask, MaskSource, ObjectMasks, PolygonMask, Sample, Shape

__all__ = [
    "FORMATS",
    "CheckResult",
    "Dataset",
    "FileMask",
    "Fingerprint",
    "MaskSource",
    "ObjectMasks",
    "PolygonMask",
    "Problem",
    "Sample",
    "Shape",
    "check_dataset",
    "open_dataset",
    "open_images",
    "overlay_sheet",
    "refuse",
    "repeat_factors",
    "save_classes",
    "save_splits",
]
