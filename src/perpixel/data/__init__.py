"""Data sets: what people have on their disks, read, checked and split."""

from __future__ import annotations

from perpixel.data.cases import Case
from perpixel.data.check import CheckResult, Problem, check_dataset, refuse
from perpixel.data.check_sheet import overlay_sheet
from perpixel.data.dataset import Dataset, open_dataset, save_classes, save_splits
from perpixel.data.find_images import open_images
from perpixel.data.fingerprint import Fingerprint
from perpixel.data.formats import FORMATS
from perpixel.data.instances import InstanceDataset, InstanceFacts, check_instances, find_facts, open_instances
from perpixel.data.repeats import repeat_factors
from perpixel.data.sample import FileMask, MaskSource, ObjectMasks, PolygonMask, Sample, Shape, VolumeMask
from perpixel.data.volume_facts import VolumeFingerprint

__all__ = [
    "FORMATS",
    "Case",
    "CheckResult",
    "Dataset",
    "FileMask",
    "Fingerprint",
    "InstanceDataset",
    "InstanceFacts",
    "MaskSource",
    "ObjectMasks",
    "PolygonMask",
    "Problem",
    "Sample",
    "Shape",
    "VolumeFingerprint",
    "VolumeMask",
    "check_dataset",
    "check_instances",
    "find_facts",
    "open_dataset",
    "open_images",
    "open_instances",
    "overlay_sheet",
    "refuse",
    "repeat_factors",
    "save_classes",
    "save_splits",
]
