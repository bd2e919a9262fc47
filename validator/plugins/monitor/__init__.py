"""P(valid so far) of what a model writes: watched token by token, stopped early, and fitted.

Names that need PyTorch are imported when first used, so that ``validator --help`` stays quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from validator.plugins.monitor.events import Anomaly, StepSeen, TokenSeen
from validator.plugins.monitor.score import shipped_prefix_artifact

if TYPE_CHECKING:
    from validator.plugins.monitor.early import (
        Curve,
        StoppingOutcome,
        StoppingReport,
        choose_threshold,
        judge_stopping,
        prefix_curves,
        running_baselines,
        simulate_stopping,
    )
    from validator.plugins.monitor.monitor import ValidityMonitor
    from validator.plugins.monitor.prefixes import (
        PREFIX_TOKENS,
        PrefixFit,
        fit_prefix_classifier,
        prefix_margins,
        prefixes_auroc,
    )
    from validator.plugins.monitor.sampling import (
        EarlyStopped,
        Sampled,
        sample_with_early_stopping,
    )

__all__ = [
    "PREFIX_TOKENS",
    "Anomaly",
    "Curve",
    "EarlyStopped",
    "PrefixFit",
    "Sampled",
    "StepSeen",
    "StoppingOutcome",
    "StoppingReport",
    "TokenSeen",
    "ValidityMonitor",
    "choose_threshold",
    "fit_prefix_classifier",
    "judge_stopping",
    "prefix_curves",
    "prefix_margins",
    "prefixes_auroc",
    "running_baselines",
    "sample_with_early_stopping",
    "shipped_prefix_artifact",
    "simulate_stopping",
]

_HOMES = {
    **dict.fromkeys(
        ("Curve", "StoppingOutcome", "StoppingReport", "choose_threshold", "judge_stopping",
         "prefix_curves", "running_baselines", "simulate_stopping"), "early"),
    **dict.fromkeys(
        ("PREFIX_TOKENS", "PrefixFit", "fit_prefix_classifier", "prefix_margins",
         "prefixes_auroc"), "prefixes"),
    **dict.fromkeys(("EarlyStopped", "Sampled", "sample_with_early_stopping"), "sampling"),
    "ValidityMonitor": "monitor",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
