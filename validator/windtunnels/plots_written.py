"""Every plot that there is of what was measured, written into a folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from validator.windtunnels.geometry import query_states
from validator.windtunnels.measured import Measured
from validator.windtunnels.plots import (
    accuracy_plot,
    attention_plot,
    entropy_plot,
    manifold_plot,
    roles_plot,
    save_plot,
)
from validator.windtunnels.runs import Run
from validator.windtunnels.step_attention import step_attention, tree_marks
from validator.windtunnels.tree import TreePathTunnel

__all__ = ["draw_measured", "draw_run", "write_plots"]

STATES_PROBLEMS = 50


def write_plots(folder: Path, measured: Measured) -> list[Path]:
    """Write the plots as PNG and SVG; a run's training is drawn as well. Returns the files."""
    figures = list(draw_measured(measured))
    if measured.run is not None:
        figures += draw_run(measured.run)
    return [path for name, figure in figures for path in save_plot(figure, folder, name)]


def draw_measured(measured: Measured) -> Iterator[tuple[str, Figure]]:
    """Name -> each plot of the model as it is: attention of a problem, entropies, manifold."""
    subject, problem = measured.subject, measured.problems[0]
    tunnel, style = subject.tunnel, measured.style
    trace = tunnel.render(problem, style)
    if style != "text":  # a text has too many tokens to be looked at
        marks = tree_marks(tunnel, problem, style) if isinstance(tunnel, TreePathTunnel) else {}
        yield "attention", attention_plot(step_attention(measured.loaded, trace, marks))
    if measured.evidence is not None:
        controls = {**measured.evidence.controls,
                    **{name: own.report for name, own in measured.mlps.items()}}
        yield "entropy", entropy_plot(measured.evidence.model, controls)
        states = (query_states(measured.loaded, tunnel,  # type: ignore[arg-type]
                               measured.problems[:STATES_PROBLEMS], style)
                  if measured.geometry is None else measured.geometry.states)
        yield "manifold", manifold_plot(states)


def draw_run(run: Run) -> Iterator[tuple[str, Figure]]:
    """Name -> each plot of the training: checkpoints' worth, and head roles where there are."""
    steps = [c.step for c in run.checkpoints]
    losses = [c.loss for c in run.checkpoints]
    what = "exact accuracy" if run.subject.walks else "entropy error, bits"
    values = [c.exact if run.subject.walks else c.entropy_mae_bits for c in run.checkpoints]
    yield "checkpoints", accuracy_plot(
        steps, [np.nan if v is None else v for v in values], what, losses,
        highest=1 if run.subject.walks else None)
    history = {c.step: {name: head["value"] for name, head in c.roles.items()}
               for c in run.checkpoints if c.roles}
    if history:
        yield "roles", roles_plot(history)
