"""Names of the solvers, apart from what they need to be imported."""

from __future__ import annotations

__all__ = ["SOLVERS"]

SOLVERS = ("exact", "lanczos")
