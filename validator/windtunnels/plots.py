"""Plots of wind tunnels; each takes numbers that were measured elsewhere and returns a figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from validator.errors import ParameterError
from validator.report.plots import ACCENT, BAD, INK, MUTED, figure_of
from validator.windtunnels.entropy import EntropyReport
from validator.windtunnels.geometry import QueryStates, principal_plane
from validator.windtunnels.step_attention import StepAttention

__all__ = ["FORMATS", "accuracy_plot", "attention_plot", "entropy_plot", "manifold_plot",
           "roles_plot", "save_plot"]

FORMATS = ("png", "svg")
COLOURS = (ACCENT, "#e67700", BAD, "#5f3dc4", "#2b8a3e", MUTED, INK)
MARKERS = {"edge": ("s", BAD, "the edge it follows"), "own": ("o", "#e67700", "its own step")}
MOST_TICKS = 60


def save_plot(figure: Figure, folder: Path, name: str, formats: Sequence[str] = FORMATS
              ) -> list[Path]:
    """Write ``<name>.png`` and ``<name>.svg``; the same numbers give the same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.{format}" for format in formats]
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "spectral-validator"}):
        for path in paths:
            dated = {"Date": None} if path.suffix == ".svg" else None
            figure.savefig(path, dpi=150, metadata=dated)
    return paths


def attention_plot(found: StepAttention) -> Figure:
    """A map for every head: steps downwards, tokens to the right; marked tokens are outlined."""
    layers, heads, steps, tokens = found.weights.shape
    columns = 1 if tokens > 30 else min(heads, 2)
    rows = -(-layers * heads // columns)
    size = (max(5.0, 0.19 * tokens + 1.2) * columns, (0.22 * steps + 1.2) * rows)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for i, (panel, weights) in enumerate(
            zip(panels, found.weights.reshape(-1, steps, tokens), strict=False)):
        panel.imshow(weights, vmin=0, vmax=1, cmap="Blues", aspect="auto")
        panel.set_title(f"layer {found.layers[i // heads]}, head {i % heads}", fontsize=9)
        panel.set_yticks(range(steps), found.steps, fontsize=7)
        shown = range(tokens) if tokens <= MOST_TICKS else range(0, tokens, tokens // MOST_TICKS)
        panel.set_xticks(list(shown), [found.tokens[t] for t in shown], fontsize=6, rotation=90)
        _mark(panel, found.marks)
    for panel in panels[layers * heads:]:
        panel.set_visible(False)
    if found.marks:
        figure.legend(*panels[0].get_legend_handles_labels(), fontsize=8, frameon=False, ncols=2,
                      loc="outside lower left")
    figure.colorbar(panels[0].images[0], ax=panels.tolist(), label="attention", fraction=0.03,
                    shrink=min(1.0, 3 / size[1]), anchor=(0, 1))
    return figure


def _mark(panel: Any, marks: Mapping[str, Sequence[int | None]]) -> None:
    for name, places in marks.items():
        marker, colour, label = MARKERS.get(name, ("D", INK, name))
        at = [(token, step) for step, token in enumerate(places) if token is not None]
        if at:
            x, y = zip(*at, strict=True)
            panel.plot(x, y, marker, mfc="none", mec=colour, ms=6, label=label)


def roles_plot(history: Mapping[int, Mapping[str, float]]) -> Figure:
    """Most attention mass that any head gives each target, over training.

    Args:
        history: step -> stage and target -> mass; stage control may be below 0.

    Raises:
        ParameterError: no steps.
    """
    if not history:
        raise ParameterError("no steps: roles over training need the measures of checkpoints")
    figure, axes = figure_of(7.2, 4.4)
    steps = sorted(history)
    names = list(dict.fromkeys(name for step in steps for name in history[step]))
    for i, name in enumerate(names):
        at = [step for step in steps if name in history[step]]
        axes.plot(at, [history[step][name] for step in at], "o-", ms=3, lw=1.4,
                  color=COLOURS[i % len(COLOURS)], label=name)
    axes.axhline(0, color=MUTED, lw=0.8)
    axes.set(xlabel="training step", ylabel="mass of the best head", ylim=(-0.25, 1.02))
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def entropy_plot(report: EntropyReport, controls: Mapping[str, EntropyReport] | None = None
                 ) -> Figure:
    """Mean entropy by position: the exact posterior, the model, and controls."""
    figure, axes = figure_of(7.2, 4.2)
    places = list(report.by_position)
    axes.plot(places, [report.by_position[p].posterior_entropy for p in places], "-", lw=5,
              alpha=0.35, color=INK, label="exact posterior")
    curves = {"model": report, **(controls or {})}
    for i, (name, own) in enumerate(curves.items()):
        at = list(own.by_position)
        axes.plot(at, [own.by_position[p].model_entropy for p in at], "o-" if not i else "--",
                  ms=4, lw=1.4, color=COLOURS[i % len(COLOURS)],
                  label=f"{name} (error {own.overall.entropy_mae_bits:.4g} bits)")
    axes.set(xlabel="evidence before the query", ylabel="entropy, bits")
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False, fontsize=8)
    return figure


def manifold_plot(states: QueryStates) -> Figure:
    """Hidden states at the queries in their first two principal components, by entropy."""
    plane, shares = principal_plane(states.hidden)
    figure, axes = figure_of(6.2, 4.8)
    points = axes.scatter(plane[:, 0], plane[:, 1], c=states.entropy, s=9, cmap="viridis",
                          linewidths=0)
    axes.set(xlabel=f"first component ({shares[0]:.1%} of the variance)",
             ylabel=f"second component ({shares[1]:.1%})")
    figure.colorbar(points, ax=axes, label="posterior entropy, bits")
    return figure


def accuracy_plot(
    steps: Sequence[int], values: Sequence[float], what: str, losses: Sequence[float] | None = None,
    *, highest: float | None = None,
) -> Figure:
    """A measure of every checkpoint over training, beside the held-out loss.

    Args:
        steps: (K,) of the checkpoints.
        values: (K,) the measure.
        what: its name, for the axis.
        losses: (K,) nats, or None.
        highest: the most that the measure can be, where there is a most.
    """
    figure, axes = figure_of(7.2, 4.0)
    axes.plot(steps, values, "o-", color=ACCENT, label=what)
    axes.set(xlabel="training step", ylabel=what)
    axes.set_ylim(0, None if highest is None else 1.02 * highest)
    lines = axes.get_lines()
    if losses is not None:
        other = axes.twinx()
        lines = [*lines, *other.plot(steps, losses, "s--", ms=4, color=MUTED,
                                     label="held-out loss")]
        other.set_ylabel("loss, nats")
        other.set_ylim(bottom=0)
    axes.legend(lines, [str(line.get_label()) for line in lines], frameon=False, fontsize=8,
                loc="center right")
    return figure
