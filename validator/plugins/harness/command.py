"""``validator lm-eval ...``: lm-eval's own command, with our tasks and model registered."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from validator.errors import HarnessError

__all__ = ["TASKS", "register_model", "require_lm_eval", "run_lm_eval"]

TASKS = Path(__file__).parent / "tasks"
"""The folder of our task files; what ``--include_path`` is given."""

RELEASES = ((0, 4, 13), (0, 5))
"""lm-eval from the first, before the second."""


def require_lm_eval() -> str:
    """lm-eval's version. Raises HarnessError where it is missing or not one we know."""
    try:
        found = version("lm-eval")
    except PackageNotFoundError as error:
        raise HarnessError("lm-eval is not installed; "
                           "`pip install 'spectral-validator[eval]'` installs it") from error
    parts = tuple(int(p) for p in found.split(".")[:3] if p.isdigit())
    if not RELEASES[0] <= parts < RELEASES[1]:
        raise HarnessError(f"lm-eval {found} is installed; the spectral tasks need >=0.4.13,<0.5: "
                           "`pip install 'spectral-validator[eval]'`")
    return found


def run_lm_eval(arguments: Sequence[str]) -> int:
    """Run lm-eval's command line with ``arguments``; its ``run``, ``ls`` and ``validate`` too.

    Our tasks come last in the include path, so that folders of the user's own are kept.
    """
    require_lm_eval()
    from lm_eval._cli.harness import HarnessCLI

    register_model()
    with _argv(["lm_eval", *arguments]):
        command = HarnessCLI()
        args = command.parse_args()
        if hasattr(args, "include_path"):
            given = args.include_path or _of_config(getattr(args, "config", None))
            own = [] if given is None else [given] if isinstance(given, str) else list(given)
            args.include_path = own if _installed() else [*own, str(TASKS)]
        command.execute(args)
    return 0


def register_model() -> None:
    """Make ``hf-spectral`` a model of lm-eval, beside its own."""
    importlib.import_module("lm_eval.models")  # it registers lm-eval's own unless one is there
    from lm_eval.api.registry import model_registry

    if "hf-spectral" not in model_registry:
        model_registry.register(
            "hf-spectral", target="validator.plugins.harness.model:SpectralHFLM")


def _of_config(path: str | None) -> Any:
    """The include path of a ``--config`` file, which one on the command line replaces."""
    if path is None or not Path(path).is_file():
        return None  # lm-eval says what is wrong with it
    from lm_eval.config.evaluate_config import EvaluatorConfig

    return EvaluatorConfig.load_yaml_config(path).get("include_path")


def _installed() -> bool:
    """Whether lm-eval finds the tasks of this version by itself; twice, it would warn of each."""
    import lm_eval.tasks

    from validator.plugins.harness.stubs import FOLDER

    folder = Path(lm_eval.tasks.__path__[0]) / FOLDER
    return all((folder / p.name).is_file() and (folder / p.name).read_bytes() == p.read_bytes()
               for p in TASKS.glob("*.yaml"))


@contextmanager
def _argv(value: list[str]) -> Iterator[None]:
    before = sys.argv
    sys.argv = value
    try:
        yield
    finally:
        sys.argv = before
