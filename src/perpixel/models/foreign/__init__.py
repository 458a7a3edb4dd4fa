"""Checkpoints of other libraries as models of this one: one file a source."""

from perpixel.models.foreign.classifiers import read_classifier
from perpixel.models.foreign.foreign import Foreign, build_foreign, load_foreign
from perpixel.models.foreign.smp_folders import read_smp
from perpixel.models.foreign.torchvision_files import read_torchvision

__all__ = ["Foreign", "build_foreign", "load_foreign", "read_classifier", "read_smp", "read_torchvision"]
