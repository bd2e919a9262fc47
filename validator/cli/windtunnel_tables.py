"""The tables of ``validator windtunnel measure``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from validator.cli.console import table
from validator.cli.windtunnel_train import checkpoint_table

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from validator.windtunnels.entropy import EntropyReport
    from validator.windtunnels.measure_evidence import Geometry
    from validator.windtunnels.measure_walks import Exactness
    from validator.windtunnels.measured import Measured

__all__ = ["show_measured"]


def show_measured(out: Console, found: Measured) -> None:
    """Print every table there is something for, then the notes."""
    for one in _tables(found):
        out.print(one)
    for note in found.notes:
        out.print(note, markup=False, soft_wrap=True)


def _tables(found: Measured) -> Iterator[Table]:
    name = f"{found.loaded.name} on {found.subject.name}, {found.style}"
    if found.in_context is not None:
        yield _exact(f"{name}, in context", found.in_context)
    if found.walks is not None:
        yield _exact(name, found.walks.unseen)
        if found.walks.deeper is not None:
            yield _exact("deeper than any trained on", found.walks.deeper)
        if found.walks.roles:
            yield table("Head with the most attention on what a step follows from",
                        ["stage and target", "layer", "head", "mass"],
                        [[what, str(h.layer), str(h.head), f"{h.value:.3f}"]
                         for what, h in found.walks.roles.items()])
    if found.evidence is not None:
        reports = {"model": found.evidence.model, **found.evidence.controls,
                   **{what: own.report for what, own in found.mlps.items()}}
        yield _entropies(name, reports)
        yield _positions(reports)
    if found.geometry is not None:
        yield _geometry(found.geometry)
    if found.run is not None:
        yield checkpoint_table(found.run)


def _exact(title: str, found: Exactness) -> Table:
    low, high = found.interval
    rows = [[str(depth), f"{share:.3f}", "", str(count)]
            for depth, (share, count) in found.by_depth.items()]
    return table(f"Whole answers that are right: {title}",
                 ["depth", "exact", "95%", "problems"],
                 [*rows, ["all", f"{found.exact:.3f}", f"[{low:.3f}, {high:.3f}]",
                          str(found.problems)]], {len(rows): "bold"})


def _entropies(title: str, reports: Mapping[str, EntropyReport]) -> Table:
    rows = []
    for name, report in reports.items():
        own, (low, high) = report.overall, report.interval
        rows.append([name, f"{own.entropy_mae_bits:.4f}", f"[{low:.4f}, {high:.4f}]",
                     f"{report.curve_mae_bits:.4f}", f"{own.posterior_kl_bits:.4f}",
                     f"{own.mass_on_support:.4f}", f"{own.candidate_mass:.4f}"])
    first = next(iter(reports.values()))
    rows.append(["position alone", f"{first.position_mae_bits:.4f}", *[""] * 5])
    return table(f"Entropy against the exact posterior, bits: {title}",
                 ["", "mean |error|", "95%", "error of means", "KL", "mass on support",
                  "mass on candidates"], rows, {0: "bold"})


def _positions(reports: Mapping[str, EntropyReport]) -> Table:
    first = next(iter(reports.values()))
    rows: list[list[str]] = []
    for place, exact in first.by_position.items():
        own: list[Any] = [report.by_position[place] for report in reports.values()]
        rows.append([str(place), f"{exact.posterior_entropy:.3f}",
                     *(f"{entry.model_entropy:.3f}" for entry in own)])
    return table("Mean entropy by the evidence before, bits",
                 ["evidence", "exact", *reports], rows)


def _geometry(found: Geometry) -> Table:
    axis = found.entropy_axis
    at = axis.ridge_r2_at_position
    before = {kind: frame.abs_cosine for kind, frame in found.key_frame_untrained.items()}
    rows = [[f"|cos| of layer-0 keys of {kind}", f"{frame.abs_cosine:.3f}",
             f"untrained {before[kind]:.3f}, random {frame.random:.3f}"]
            for kind, frame in found.key_frame.items()]
    without = {name: f"{error:.4f}" for name, error in found.entropy_error_without.items()}
    rows += [
        ["variance along the first axis", f"{axis.pc1_share:.3f}",
         f"of means by position {axis.pc1_share_of_means:.3f}"],
        ["|Spearman| of the axis with entropy", f"{axis.pc1_spearman:.3f}", ""],
        ["R2 of entropy from states (ridge)", f"{axis.ridge_r2:.3f}",
         f"from position alone {axis.position_r2:.3f}"],
        ["R2 at fixed position", "n/a" if at is None else f"{at:.3f}", ""],
        ["entropy error without the axis, bits", without["pc1"],
         f"with it {without['none']}, without a random one {without['random']}"]]
    return table(f"Geometry, {found.problems} problems", ["", "model", "beside it"], rows)
