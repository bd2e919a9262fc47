"""What a score must be compared with, and tested for, before it is believed."""

from __future__ import annotations

from validator.audit.baselines import BestSingleColumn, SurfaceBaseline, surface_texts

__all__ = ["BestSingleColumn", "SurfaceBaseline", "surface_texts"]
