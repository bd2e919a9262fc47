"""Training examples that look wrong: scored without labels, flagged with reasons, never changed."""

from __future__ import annotations

from validator.plugins.clean.flagging import Flag, LowScore, flag_examples
from validator.plugins.clean.lines import PAIRS, Example, read_examples
from validator.plugins.clean.losses import LOSSES, TokenLosses, loss_scores, token_losses
from validator.plugins.clean.planted import corrupted_copies, planted_scores, with_planted
from validator.plugins.clean.planting import KINDS, plant, plant_each, plant_share
from validator.plugins.clean.report import CleanReport, clean_examples, require_outputs
from validator.plugins.clean.scores import ExampleScores, score_examples, small_loss

__all__ = [
    "KINDS",
    "LOSSES",
    "PAIRS",
    "CleanReport",
    "Example",
    "ExampleScores",
    "Flag",
    "LowScore",
    "TokenLosses",
    "clean_examples",
    "corrupted_copies",
    "flag_examples",
    "loss_scores",
    "plant",
    "plant_each",
    "plant_share",
    "planted_scores",
    "read_examples",
    "require_outputs",
    "score_examples",
    "small_loss",
    "token_losses",
    "with_planted",
]
