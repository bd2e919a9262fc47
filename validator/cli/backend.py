"""Options of commands whose work can be spread over processes and machines."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from validator.errors import ParameterError

if TYPE_CHECKING:
    from validator.plugins.distributed import RayCluster

__all__ = ["backend_options", "ray_cluster", "refuse_without_backend"]

_RAY = {"address": "--address", "num_workers": "--num-workers",
        "gpus_per_worker": "--gpus-per-worker"}


def backend_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--backend`` and what goes with it."""
    group = parser.add_argument_group("many processes or machines")
    group.add_argument("--backend", choices=["serial", "ray"],
                       help="serial: piece by piece in this process; ray: on a Ray cluster "
                            "(pip install 'spectral-validator[ray]')")
    group.add_argument("--address", metavar="ADDRESS",
                       help="Ray's: local starts one here, auto joins the one that runs here "
                            "(default: local)")
    group.add_argument("--num-workers", type=int, metavar="K",
                       help="Ray workers, each with a model of its own (default: 1)")
    group.add_argument("--gpus-per-worker", type=float, metavar="G",
                       help="GPUs of a worker, e.g. 1 or 0.5 (default: 0)")


def refuse_without_backend(args: argparse.Namespace) -> None:
    """Raise ParameterError for options that would do nothing without ``--backend ray``."""
    given = [flag for name, flag in _RAY.items() if getattr(args, name) is not None]
    if given and args.backend != "ray":
        raise ParameterError(f"{', '.join(given)} given without --backend ray")


def ray_cluster(args: argparse.Namespace) -> RayCluster | None:
    """The cluster that was asked for; None for another backend.

    Raises ParameterError for options that do not belong together.
    """
    refuse_without_backend(args)
    if args.backend != "ray":
        return None
    from validator.plugins.distributed import RayCluster

    given = {name: getattr(args, name) for name in _RAY if getattr(args, name) is not None}
    return RayCluster(**given, cpus_per_worker=args.threads or 1)
