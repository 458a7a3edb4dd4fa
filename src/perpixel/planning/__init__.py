"""Fingerprint + clock + hardware -> plan, a reason for every line."""

from perpixel.planning.facts import LabelFacts, label_facts
from perpixel.planning.plan import COARSE_PROGRESS, COARSE_SHARE, DEFAULT_BUDGET_S, Line, Machine, Plan, make_plan
from perpixel.planning.rehearsal import has_normalisation, seconds_per_megapixel

__all__ = [
    "COARSE_PROGRESS",
    "COARSE_SHARE",
    "DEFAULT_BUDGET_S",
    "LabelFacts",
    "Line",
    "Machine",
    "Plan",
    "has_normalisation",
    "label_facts",
    "make_plan",
    "seconds_per_megapixel",
]
