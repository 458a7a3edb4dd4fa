"""Instance data: the table of its layouts, data sets that give the objects of each image, their check and facts."""

from __future__ import annotations

from perpixel.data.instances.dataset import InstanceDataset, open_instances
from perpixel.data.instances.examine import check_instances
from perpixel.data.instances.facts import InstanceFacts, find_facts, measure_objects
from perpixel.data.instances.sources import Finding, ObjectSource, Reading
from perpixel.data.instances.table import INSTANCE_FORMATS

__all__ = [
    "INSTANCE_FORMATS",
    "Finding",
    "InstanceDataset",
    "InstanceFacts",
    "ObjectSource",
    "Reading",
    "check_instances",
    "find_facts",
    "measure_objects",
    "open_instances",
]
