"""One graph over tokens, decomposed: Fiedler vector, spectral clusters, a drawing."""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits

from validator.explain.data import LayerGraph

__all__ = ["MOST_CLUSTERS", "eigengap", "layer_graph", "spectral_clusters", "strongest_edges"]

Array = NDArray[np.float64]

MOST_CLUSTERS = 8
EDGES_A_TOKEN = 2
MOST_EDGES = 400


def layer_graph(layer: int, graph: Array, eigenvalues: Array, modes: Array, seed: int = 0
                ) -> LayerGraph:
    """What is shown of one layer.

    Args:
        layer: its index in the model.
        graph: (T, T) symmetric, non-negative, T >= 3.
        eigenvalues: (T,) of its normalized Laplacian, ascending.
        modes: (T, T) its orthonormal eigenvectors, as columns.
        seed: of k-means.
    """
    degrees = graph.sum(axis=1)
    fiedler = modes[:, 1] * _sign(modes[:, 1])
    edges = strongest_edges(graph, min(MOST_EDGES, EDGES_A_TOKEN * len(graph)))
    return LayerGraph(
        layer, eigenvalues, fiedler, spectral_clusters(modes, eigengap(eigenvalues), seed),
        _drawing(modes, degrees), edges, graph[edges[:, 0], edges[:, 1]], degrees)


def eigengap(eigenvalues: Array, most: int = MOST_CLUSTERS) -> int:
    """The number of clusters k >= 2 after which the spectrum jumps most.

    argmax over k of lambda_{k+1} - lambda_k, counted from 1 (von Luxburg 2007, section 8.3); the
    gap at k = 1 says only that the graph is connected, so one cluster is never the answer.

    Args:
        eigenvalues: (T,) ascending, T >= 3.
        most: largest k.
    """
    gaps = np.diff(eigenvalues[: min(most, len(eigenvalues) - 1) + 1])[1:]
    return int(gaps.argmax()) + 2


def spectral_clusters(modes: Array, k: int, seed: int = 0) -> NDArray[np.int64]:
    """k-means on the rows of the first k eigenvectors, each row of norm 1.

    Ng, Jordan and Weiss 2002, steps 3 to 5. Clusters are numbered by first appearance.

    Args:
        modes: (T, T) eigenvectors of the normalized Laplacian by ascending eigenvalue, as columns.
        k: number of clusters; fewer come out where fewer rows differ.
        seed: of the ten starts.
    """
    points = modes[:, :k]
    norm = np.linalg.norm(points, axis=1, keepdims=True)
    points = points / np.where(norm > 0, norm, 1.0)
    # A few hundred points gain nothing from threads, whose barriers stall where a core is busy.
    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct rows than clusters
        found = KMeans(k, n_init=10, random_state=seed).fit(points).labels_
    _, first, own = np.unique(found, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first)).astype(np.int64)[own]


def strongest_edges(graph: Array, count: int) -> NDArray[np.int64]:
    """(E, 2) the ``count`` heaviest edges i < j of a (T, T) graph, heaviest first, none of 0."""
    i, j = np.triu_indices(len(graph), 1)
    weights = graph[i, j]
    order = np.argsort(-weights, kind="stable")[:count]
    order = order[weights[order] > 0]
    return np.stack([i[order], j[order]], axis=1).astype(np.int64)


def _drawing(modes: Array, degrees: Array) -> Array:
    """(T, 2) the second and third eigenvector over the square root of the degree.

    Koren 2005, section 3.3: the drawing that puts each token near the mean of its neighbours,
    weighted by the edges.
    """
    scale = np.sqrt(np.where(degrees > 0, degrees, 1.0))[:, None]
    points = modes[:, 1:3] / scale
    return np.asarray(points * np.array([_sign(points[:, 0]), _sign(points[:, 1])]))


def _sign(vector: Array) -> float:
    """The sign that makes the entry of largest size positive: eigenvectors have none of their own.

    Entries within rounding of the largest count as ties, of which the first decides.
    """
    size = np.abs(vector)
    return 1.0 if vector[int(np.argmax(size >= size.max() * (1 - 1e-9)))] >= 0 else -1.0
