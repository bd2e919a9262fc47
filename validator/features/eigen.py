"""Dense eigendecomposition of many small symmetric matrices on the CPU.

A single decomposition of a few hundred rows gains little from several threads, and its thousands of
short parallel regions stall badly when a core is busy. Decompositions of different layers do not
wait for each other, so each gets one thread.

The threads live for one call. Measured: idle threads of a pool that stays slow every later
parallel region of the main thread by half and more.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

__all__ = ["symmetric_eigh", "symmetric_eigvalsh"]


def symmetric_eigh(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues and eigenvectors of symmetric matrices, in double precision.

    Args:
        matrices: (G, T, T) symmetric.

    Returns:
        (G, T) ascending eigenvalues; (G, T, T) orthonormal eigenvectors, as columns.
    """
    values, modes = _each_on_one_thread(torch.linalg.eigh, matrices)
    return values, modes


def symmetric_eigvalsh(matrices: Tensor) -> Tensor:
    """Ascending eigenvalues (G, T) of symmetric matrices (G, T, T), in double precision."""
    (values,) = _each_on_one_thread(lambda m: (torch.linalg.eigvalsh(m),), matrices)
    return values


def _each_on_one_thread(
    decompose: Callable[[Tensor], tuple[Tensor, ...]], matrices: Tensor
) -> tuple[Tensor, ...]:
    # Apple's MPS has no double precision
    doubled = (matrices.cpu() if matrices.device.type == "mps" else matrices).double()
    threads = torch.get_num_threads()
    if doubled.device.type != "cpu" or min(threads, len(doubled)) < 2:
        return _run(decompose, doubled)
    own, *others = doubled.tensor_split(min(threads, len(doubled)))
    try:
        torch.set_num_threads(1)  # of this thread, and of threads to come
        with ThreadPoolExecutor(len(others)) as pool:
            rest = [pool.submit(_run, decompose, part) for part in others]
            parts = [_run(decompose, own), *(r.result() for r in rest)]
    finally:
        torch.set_num_threads(threads)
    return tuple(torch.cat(found) for found in zip(*parts, strict=True))


def _run(
    decompose: Callable[[Tensor], tuple[Tensor, ...]], matrices: Tensor
) -> tuple[Tensor, ...]:
    with torch.inference_mode():
        return tuple(decompose(matrices))
