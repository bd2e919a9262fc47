"""What a score must be compared with, and tested for, before it is believed."""

from __future__ import annotations

from validator.audit.baselines import (
    BestSingleColumn,
    SurfaceBaseline,
    surface_texts,
    texts_beside,
)
from validator.audit.duplicates import merge_near_duplicates, near_duplicates
from validator.audit.leaks import find_leaks
from validator.audit.matching import length_pair_auroc
from validator.audit.permutation import shuffled_labels

__all__ = [
    "BestSingleColumn",
    "SurfaceBaseline",
    "find_leaks",
    "length_pair_auroc",
    "merge_near_duplicates",
    "near_duplicates",
    "shuffled_labels",
    "surface_texts",
    "texts_beside",
]
