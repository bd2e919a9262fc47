"""Column names that parse back into the recipe of the number below them.

``descriptor[_q0.25|_c0.5]__layer12__head_mean__completion[__surprisal]`` for graph quantities,
``name__baseline`` for the baselines carried beside them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from validator.errors import FeatureMismatchError

__all__ = ["BASELINES", "Column"]

BASELINES = (
    "prompt_length",
    "completion_length",
    "mean_logprob",
    "min_logprob",
    "mean_token_entropy",
)
"""The baselines every score stands beside: lengths in tokens, log-probabilities in nats."""

_HEAD = re.compile(r"head_mean|head(\d+)")
_PARAMETER = re.compile(r"(.+)_([a-z])(\d+(?:\.\d+)?)")


@dataclass(frozen=True, slots=True)
class Column:
    """The recipe of one feature: which descriptor, of which layer, head, span and signal."""

    descriptor: str
    layer: int | None = None
    """None for baselines."""
    head: int | None = None
    """None for the head-mean graph."""
    span: str = ""
    signal: str = ""
    """The graph signal, where the descriptor has one."""
    parameter: float | None = None
    """The quantile (``q``) or cutoff (``c``), where the descriptor has one."""
    parameter_key: str = "q"

    @property
    def is_baseline(self) -> bool:
        """True for lengths, log-probabilities and token entropy."""
        return self.layer is None

    def __str__(self) -> str:
        if self.is_baseline:
            return f"{self.descriptor}__baseline"
        name = self.descriptor
        if self.parameter is not None:
            name += f"_{self.parameter_key}{self.parameter:g}"
        head = "head_mean" if self.head is None else f"head{self.head}"
        parts = [name, f"layer{self.layer}", head, self.span]
        return "__".join(parts + ([self.signal] if self.signal else []))

    @classmethod
    def parse(cls, name: str) -> Column:
        """The recipe written in ``name``. Raises FeatureMismatchError if it is not one of ours."""
        parts = name.split("__")
        if len(parts) == 2 and parts[1] == "baseline":
            return cls(parts[0])
        if len(parts) in (4, 5) and re.fullmatch(r"layer\d+", parts[1]):
            head = _HEAD.fullmatch(parts[2])
            if head:
                found = _PARAMETER.fullmatch(parts[0])
                return cls(
                    descriptor=found[1] if found else parts[0],
                    layer=int(parts[1][5:]),
                    head=None if head[1] is None else int(head[1]),
                    span=parts[3],
                    signal=parts[4] if len(parts) == 5 else "",
                    parameter=float(found[3]) if found else None,
                    parameter_key=found[2] if found else "q",
                )
        raise FeatureMismatchError(
            f"column {name!r} is not descriptor__layer<i>__head<i>|head_mean__span[__signal] "
            "nor name__baseline"
        )
