"""Maps of layers and heads, one panel for each thing known of a head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from validator.errors import ParameterError
from validator.whole_file import replacing

__all__ = ["FORMATS", "describe_maps", "head_map", "save_head_map"]

FORMATS = (".png", ".svg")
SIGNED = {"change": 0.0, "AUROC": 0.5}
"""First word of a panel that has a middle, and the middle."""
COLUMNS = 4
NOT_STUDIED = "#ced4da"


def head_map(
    panels: Mapping[str, NDArray[np.float64]], layers: Sequence[int], title: str
) -> Figure:
    """Layers downwards, heads to the right; heads that were not studied are grey.

    Args:
        panels: name -> (L, H) values; NaN where there is none.
        layers: (L,) true indices.
        title: heading.

    Raises:
        ParameterError: no panels.
    """
    if not panels:
        raise ParameterError("no panels: a map of heads needs something that is known of them")
    columns = min(COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(3.1 * columns, (0.13 * len(layers) + 1.4) * rows + 0.5),
                    layout="constrained")
    figure.suptitle(title, fontsize=11)
    places = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, (name, values) in zip(places, panels.items(), strict=False):
        image = _draw(axes, name, values)
        axes.set_facecolor(NOT_STUDIED)
        axes.set_title(name, fontsize=8)
        axes.set(xlabel="head", ylabel="layer")
        axes.set_xticks(range(values.shape[1]))
        every = max(1, len(layers) // 15)
        axes.set_yticks(range(0, len(layers), every), [str(k) for k in layers[::every]])
        axes.tick_params(labelsize=7)
        figure.colorbar(image, ax=axes, fraction=0.05).ax.tick_params(labelsize=7)
    for axes in places[len(panels):]:
        axes.set_visible(False)
    return figure


def _draw(axes: Any, name: str, values: NDArray[np.float64]) -> Any:
    """Shares from 0 to 1; what has a middle, as far from it on both sides."""
    shown, middle = np.ma.masked_invalid(values), SIGNED.get(name.split()[0])
    if middle is None:
        return axes.imshow(shown, cmap="viridis", vmin=0, vmax=1, aspect="auto")
    reach = float(np.nanmax(np.abs(values - middle), initial=0.0)) or 1.0
    return axes.imshow(shown, cmap="RdBu", vmin=middle - reach, vmax=middle + reach,
                       aspect="auto")


def describe_maps(panels: Mapping[str, NDArray[np.float64]], layers: Sequence[int]) -> str:
    """The same in words, for those who do not see the picture: extremes of each panel."""
    parts = []
    for name, values in panels.items():
        known = values[~np.isnan(values)]
        if known.size == 0:
            continue
        ends = [_at(values, layers, int(at)) for at in (np.nanargmin(values),
                                                        np.nanargmax(values))]
        parts.append(f"{name}: lowest {ends[0]}, median {np.median(known):.3g}, highest {ends[1]}")
    return f"Layers {layers[0]} to {layers[-1]} by head. " + ". ".join(parts) + "."


def _at(values: NDArray[np.float64], layers: Sequence[int], flat: int) -> str:
    row, head = divmod(flat, values.shape[1])
    return f"{values[row, head]:.3g} (layer {layers[row]}, head {head})"


def save_head_map(
    path: Path, panels: Mapping[str, NDArray[np.float64]], layers: Sequence[int], title: str
) -> None:
    """Write the map as PNG or SVG, with its description in the file's metadata.

    Raises ParameterError for another ending.
    """
    if path.suffix not in FORMATS:
        raise ParameterError(f"a map is written as {' or '.join(FORMATS)}, got {path.name!r}")
    told: dict[str, str | None] = {
        "Title": title, "Description": describe_maps(panels, layers)}
    if path.suffix == ".svg":
        told["Date"] = None  # the same numbers give the same bytes
    path.parent.mkdir(parents=True, exist_ok=True)
    with (matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "spectral-validator"}),
          replacing(path) as partial):
        head_map(panels, layers, title).savefig(
            partial, format=path.suffix[1:], dpi=150, metadata=told)
