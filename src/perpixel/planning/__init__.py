"""Fingerprint + clock + hardware -> plan, a reason for every line."""

from perpixel.planning.anchors import AnchorPlan, plan_anchors
from perpixel.planning.crops import Machine
from perpixel.planning.facts import LabelFacts, label_facts
from perpixel.planning.forests import plan_forest
from perpixel.planning.instances import plan_instances
from perpixel.planning.net import is_free
from perpixel.planning.objects import choose_way
from perpixel.planning.plan import COARSE_PROGRESS, COARSE_SHARE, DEFAULT_BUDGET_S, Line, Plan, make_plan
from perpixel.planning.rehearsal import (
    has_normalisation,
    seconds_per_megapixel,
    seconds_per_step,
    training_bytes,
)
from perpixel.planning.sampling import class_chances
from perpixel.planning.volume_shape import VolumeShape, plan_shape
from perpixel.planning.volumes import plan_volumes, volume_augmentation

__all__ = [
    "COARSE_PROGRESS",
    "COARSE_SHARE",
    "DEFAULT_BUDGET_S",
    "AnchorPlan",
    "LabelFacts",
    "Line",
    "Machine",
    "Plan",
    "VolumeShape",
    "choose_way",
    "class_chances",
    "has_normalisation",
    "is_free",
    "label_facts",
    "make_plan",
    "plan_anchors",
    "plan_forest",
    "plan_instances",
    "plan_shape",
    "plan_volumes",
    "seconds_per_megapixel",
    "seconds_per_step",
    "training_bytes",
    "volume_augmentation",
]
