"""What commands score with: an artifact, or the one that ships for the model."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from validator.cli.console import error_console

if TYPE_CHECKING:
    from validator.scoring import Validator

__all__ = ["MODEL", "scorer_of"]

MODEL = "smollm2-135m-instruct"
"""Read with where no model is named."""


def scorer_of(
    args: argparse.Namespace, without: str, *, wanted: bool = True, ships: bool = True
) -> tuple[Validator, str | None]:
    """What reads and scores, and its classifier's name or None.

    Args:
        args: with ``model``, ``artifact``, ``features``, ``store``, ``no_store``, ``device`` and
            ``threads``.
        without: what it means that there is no classifier, and what to do, for the message that
            says so.
        wanted: whether a classifier is.
        ships: whether it may be the one that ships.
    """
    from validator.features.extractor import SpectralFeatureExtractor
    from validator.models.cache import cache_root
    from validator.scoring import Validator, shipped_artifact

    store = None if args.no_store else args.store or cache_root() / "features"
    options: dict[str, Any] = {
        "device": args.device, "num_threads": args.threads, "store": store}
    model = args.model or MODEL
    artifact = args.artifact or (shipped_artifact(model) if ships else None)
    if wanted and artifact is not None:
        given = args.model if args.artifact else None
        return Validator.load(
            artifact, model=given, feature_set=args.features, **options), Path(artifact).name
    if wanted:
        what = f"no classifier ships for {model}" if ships else "there is no classifier"
        error_console().print(f"{what}, so {without}", markup=False)
    return Validator(SpectralFeatureExtractor(
        model, feature_set=args.features or "default", **options)), None
