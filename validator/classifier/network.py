"""A small multilayer perceptron, trained by scikit-learn and kept as plain matrices."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.neural_network import MLPClassifier

__all__ = ["NetworkHead", "fit_network"]

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class NetworkHead:
    """tanh layers and one linear output."""

    weights: tuple[Array, ...]
    """(D, H1), (H1, H2), ..., (Hk, 1)."""
    biases: tuple[Array, ...]
    """(H1,), (H2,), ..., (1,)."""

    def margin(self, Z: Array) -> Array:
        """(N, D) columns -> (N,) logits of the positive class."""
        for W, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            Z = np.tanh(Z @ W + bias)
        return np.asarray(Z @ self.weights[-1][:, 0] + self.biases[-1][0])


def fit_network(Z: Array, y: Array, weights: Array, *, hidden_layer_sizes: tuple[int, ...],
                alpha: float, max_iter: int, seed: int) -> tuple[NetworkHead, int]:
    """Minimise sum_i w_i log-loss_i + alpha |all weights|^2 / 2 -> (head, iterations).

    Full-batch L-BFGS: no batch order, so weights act as repeated rows and a seed fixes everything.
    """
    model = MLPClassifier(hidden_layer_sizes, activation="tanh", solver="lbfgs", alpha=alpha,
                          max_iter=max_iter, tol=1e-6, random_state=seed)
    model.fit(Z, y, sample_weight=weights)
    head = NetworkHead(tuple(np.array(W, order="C") for W in model.coefs_),
                       tuple(np.array(bias) for bias in model.intercepts_))
    return head, int(model.n_iter_)
