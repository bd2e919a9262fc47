"""Which checkpoint of a fine-tune to keep: a callback while training, a ranking afterwards."""

from __future__ import annotations

from validator.plugins.checkpoints.callback import ValidityCallback
from validator.plugins.checkpoints.folders import Checkpoint, find_checkpoints, load_checkpoint
from validator.plugins.checkpoints.probe import Probe, ProbeScores, as_read_by_base
from validator.plugins.checkpoints.ranking import (
    Criterion,
    Judgement,
    judge_criterion,
    pick,
    rank_order,
)
from validator.plugins.checkpoints.survey import CheckpointRow, Survey, survey_checkpoints

__all__ = [
    "Checkpoint",
    "CheckpointRow",
    "Criterion",
    "Judgement",
    "Probe",
    "ProbeScores",
    "Survey",
    "ValidityCallback",
    "as_read_by_base",
    "find_checkpoints",
    "judge_criterion",
    "load_checkpoint",
    "pick",
    "rank_order",
    "survey_checkpoints",
]
