"""Column names that parse back into the recipe of the number below them.

``descriptor[_q0.25]__layer12__head_mean[+option]__completion[__surprisal][__delta]`` for graph
quantities, ``state_mean_d17__layer12__residual__completion`` for hidden states,
``name__baseline`` for the baselines carried beside them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from validator.errors import FeatureMismatchError

__all__ = ["BASELINES", "STATES", "TRANSFORMS", "Column"]

BASELINES = (
    "prompt_length",
    "completion_length",
    "mean_logprob",
    "min_logprob",
    "mean_token_entropy",
)
"""The baselines every score stands beside: lengths in tokens, log-probabilities in nats."""

TRANSFORMS = ("delta", "z_uniform", "z_recency", "z_permuted")
"""``delta``: minus the same descriptor one layer before. ``z_<null>``: minus its mean over
content-free graphs of the named kind, over their standard deviation."""

STATES = ("state_mean", "state_last")
"""Coordinates of the hidden states that enter a layer, pooled over a span: no graph is in them."""

_GRAPH = re.compile(r"(?:residual|head_mean|head(\d+))((?:\+[a-z_]+[0-9.]*)*)")
_PARAMETER = re.compile(r"(.+)_([a-z])(\d+(?:\.\d+)?)")
_EXPECTED = ("descriptor__layer<i>__head<i>|head_mean|residual[+option]__span[__signal]"
             "[__transform] nor name__baseline")


@dataclass(frozen=True, slots=True)
class Column:
    """The recipe of one feature: which descriptor, of which layer, graph, span and signal."""

    descriptor: str
    layer: int | None = None
    """None for baselines."""
    head: int | None = None
    """None for the head-mean graph."""
    span: str = ""
    signal: str = ""
    """The graph signal, where the descriptor has one."""
    parameter: float | None = None
    """The quantile (``q``), cutoff (``c``), rank (``k``) or coordinate (``d``), where the
    descriptor has one."""
    parameter_key: str = "q"
    options: tuple[str, ...] = ()
    """How the graph departs from the symmetric normalized one, e.g. ``combinatorial``."""
    transform: str = ""
    """One of :data:`TRANSFORMS`, or nothing."""

    @property
    def is_baseline(self) -> bool:
        """True for lengths, log-probabilities and token entropy."""
        return self.layer is None

    @property
    def is_state(self) -> bool:
        """True for hidden states themselves, which only the probe baseline reads."""
        return self.descriptor in STATES

    def __str__(self) -> str:
        if self.is_baseline:
            return f"{self.descriptor}__baseline"
        name = self.descriptor
        if self.parameter is not None:
            name += f"_{self.parameter_key}{self.parameter:g}"
        whole = "residual" if self.is_state else "head_mean"
        graph = "+".join((whole if self.head is None else f"head{self.head}", *self.options))
        parts = [name, f"layer{self.layer}", graph, self.span, self.signal, self.transform]
        return "__".join(p for p in parts if p)

    @classmethod
    def parse(cls, name: str) -> Column:
        """The recipe written in ``name``. Raises FeatureMismatchError if it is not one of ours."""
        parts = name.split("__")
        if len(parts) == 2 and parts[1] == "baseline":
            return cls(parts[0])
        transform = parts.pop() if parts[-1] in TRANSFORMS else ""
        if len(parts) not in (4, 5) or not re.fullmatch(r"layer\d+", parts[1]):
            raise _not_a_column(name)
        graph, found = _GRAPH.fullmatch(parts[2]), _PARAMETER.fullmatch(parts[0])
        if graph is None or (graph[0] == "residual") != (parts[0].startswith("state_")):
            raise _not_a_column(name)
        return cls(
            descriptor=found[1] if found else parts[0],
            layer=int(parts[1][5:]),
            head=None if graph[1] is None else int(graph[1]),
            span=parts[3],
            signal=parts[4] if len(parts) == 5 else "",
            parameter=float(found[3]) if found else None,
            parameter_key=found[2] if found else "q",
            options=tuple(graph[2].split("+")[1:]),
            transform=transform,
        )


def _not_a_column(name: str) -> FeatureMismatchError:
    return FeatureMismatchError(f"column {name!r} is not {_EXPECTED}")
