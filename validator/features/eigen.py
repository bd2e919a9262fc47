"""Dense eigendecomposition of many small symmetric matrices on the CPU.

A single decomposition of a few hundred rows gains little from several threads, and its thousands of
short parallel regions stall badly when a core is busy. Decompositions of different layers do not
wait for each other, so each gets one thread.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from threading import Barrier

import torch
from torch import Tensor

__all__ = ["symmetric_eigh"]


def symmetric_eigh(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues and eigenvectors of symmetric matrices, in double precision.

    Args:
        matrices: (G, T, T) symmetric.

    Returns:
        (G, T) ascending eigenvalues; (G, T, T) orthonormal eigenvectors, as columns.
    """
    doubled = matrices.double()
    workers = min(torch.get_num_threads(), len(doubled))
    if doubled.device.type != "cpu" or workers < 2:
        return _decompose(doubled)
    parts = list(_pool(workers).map(_decompose, doubled))
    return torch.stack([v for v, _ in parts]), torch.stack([m for _, m in parts])


def _decompose(matrices: Tensor) -> tuple[Tensor, Tensor]:
    with torch.inference_mode():
        values, modes = torch.linalg.eigh(matrices)
    return values, modes


@lru_cache(maxsize=4)
def _pool(workers: int) -> ThreadPoolExecutor:
    """Threads that each run PyTorch's kernels on one core."""
    before = torch.get_num_threads()
    started = Barrier(workers + 1)

    def start() -> None:
        torch.set_num_threads(1)
        started.wait()

    pool = ThreadPoolExecutor(workers, "eigh", start)
    for _ in range(workers):
        pool.submit(int)
    started.wait()
    torch.set_num_threads(before)  # set_num_threads(1) is also the default of threads to come
    return pool
