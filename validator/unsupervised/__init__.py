"""Validity scores that need no label: stated diagnostics, distances, ranks, and one threshold.

A higher score means more valid, everywhere. Directions are stated before any label is seen; only
:class:`CalibratedThreshold` reads labels, and reports what it is worth on problems it never saw.
"""

from __future__ import annotations

from validator.unsupervised.anomaly import AnomalyReference, fit_anomaly
from validator.unsupervised.anomaly_file import load_anomaly, save_anomaly
from validator.unsupervised.diagnostics import DiagnosticScore
from validator.unsupervised.presets import PRESETS, available_presets, score_label_free
from validator.unsupervised.ranks import RankEnsemble, Scorer, within_problem_rank
from validator.unsupervised.reference import ReferenceDistance
from validator.unsupervised.threshold import CalibratedThreshold, ThresholdReport

__all__ = [
    "PRESETS",
    "AnomalyReference",
    "CalibratedThreshold",
    "DiagnosticScore",
    "RankEnsemble",
    "ReferenceDistance",
    "Scorer",
    "ThresholdReport",
    "available_presets",
    "fit_anomaly",
    "load_anomaly",
    "save_anomaly",
    "score_label_free",
    "within_problem_rank",
]
