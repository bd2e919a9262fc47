"""AUROC by corruption, as a figure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from validator.errors import ParameterError
from validator.windtunnels.study_results import Study

__all__ = ["study_plot"]

COLOURS = {"attention": "#1864ab", "hidden states": "#0b7285", "identity-aware": "#e67700",
           "log-prob": "#5f3dc4", "counts": "#868e96"}


def study_plot(study: Study, scores: Sequence[str] = tuple(COLOURS)) -> Figure:
    """A panel for each subject; each kind of wrong trace is a group of bars with 95% intervals.

    Raises ParameterError for a study without contests.
    """
    subjects = list(dict.fromkeys(c.subject for c in study.contests))
    if not subjects:
        raise ParameterError("the study has no contest to draw")
    figure = Figure(figsize=(9, 2.6 * len(subjects)), layout="constrained")
    panels = figure.subplots(len(subjects), 1, squeeze=False)[:, 0]
    width = 0.8 / len(scores)
    for panel, subject in zip(panels, subjects, strict=True):
        contests = [c for c in study.contests if c.subject == subject]
        places = np.arange(len(contests))
        for i, score in enumerate(scores):
            found = [c.auroc[score].mean for c in contests]
            heights = np.array([f.estimate for f in found])
            ends = np.clip(np.array([[f.estimate - f.low, f.high - f.estimate] for f in found]).T,
                           0, None)
            panel.bar(places + (i - (len(scores) - 1) / 2) * width, heights - 0.5, width,
                      bottom=0.5, yerr=ends, color=COLOURS.get(score), label=score,
                      error_kw={"linewidth": 0.8})
        panel.axhline(0.5, color="black", linewidth=0.8)
        panel.set_xticks(places, [c.comparison for c in contests])
        panel.set_ylim(0.4, 1.02)
        panel.set_ylabel("AUROC")
        panel.set_title(subject, loc="left", fontsize=10)
    panels[0].legend(fontsize=8, ncols=len(scores), loc="lower left", frameon=False)
    return figure
