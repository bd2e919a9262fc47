"""Every column of the default feature set the slow way, from stored eager attentions."""

from __future__ import annotations

from typing import Any

import networkx as nx
import numpy as np
import scipy.stats
import torch

from validator.types import Trace


def oracle(model: Any, tokenizer: Any, trace: Trace) -> dict[str, float]:
    """Every column of the default feature set, the slow way."""
    prompt = tokenizer(trace.prompt)["input_ids"]
    ids = prompt + tokenizer(trace.completion)["input_ids"]
    p, n = len(prompt), len(ids)
    model.set_attn_implementation("eager")
    with torch.inference_mode():
        out = model(torch.tensor([ids]), output_attentions=True, output_hidden_states=True)
    model.set_attn_implementation("sdpa")
    logp = torch.log_softmax(out.logits[0].double(), -1).numpy()
    surprisal = np.array([-logp[i - 1, ids[i]] for i in range(p, n)])
    entropy = np.array([scipy.stats.entropy(np.exp(logp[i - 1])) for i in range(p, n)])
    row = {
        "prompt_length__baseline": p, "completion_length__baseline": n - p,
        "mean_logprob__baseline": -surprisal.mean(), "min_logprob__baseline": -surprisal.max(),
        "mean_token_entropy__baseline": entropy.mean(),
    }
    tokens = {"surprisal": surprisal[:, None], "token_entropy": entropy[:, None]}
    for layer, attention in enumerate(out.attentions):
        heads = attention[0].double().numpy()
        hidden = out.hidden_states[layer][0].double().numpy()
        for span, first in (("whole", 0), ("completion", p)):
            signals = {"hidden": hidden[first:]} | (tokens if span == "completion" else {})
            row |= symmetric(heads.mean(0)[first:, first:], signals, layer, span)
            for h, A in enumerate(heads):
                row |= per_head(A, first, layer, h, span)
        for h, A in enumerate(heads):
            for name, x in tokens.items():
                seen = A[p:, p:] @ x[:, 0]
                for what, value in (("mean", seen.mean()), ("max", seen.max()), ("last", seen[-1])):
                    row[f"attended_{what}__layer{layer}__head{h}__completion__{name}"] = value
    return row


def symmetric(
    A: np.ndarray, signals: dict[str, np.ndarray], layer: int, span: str
) -> dict[str, float]:
    where = f"layer{layer}__head_mean__{span}"
    graph = nx.from_numpy_array((A + A.T) / 2)
    values, modes = np.linalg.eigh(nx.normalized_laplacian_matrix(graph).toarray())
    row = {
        f"fiedler_value__{where}": values[1],
        f"spectral_gap_k2__{where}": values[2] - values[1],
        f"eigenvalue_entropy__{where}": scipy.stats.entropy(np.maximum(values, 0)),
    }
    for q in (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 1.0):
        row[f"eigenvalue_quantile_q{q:g}__{where}"] = np.quantile(values, q)
    for name, x in signals.items():
        energy = ((modes.T @ x) ** 2).sum(1)
        row[f"hfer_c0.5__{where}__{name}"] = energy[-(len(A) // 2):].sum() / energy.sum()
        row[f"signal_entropy__{where}__{name}"] = scipy.stats.entropy(energy)
        rough = (values * energy).sum() / energy.sum()
        if name == "hidden":
            row[f"smoothness__{where}__{name}"] = 1 - rough / values[-1]
        else:
            row[f"roughness__{where}__{name}"] = rough
    return row


def per_head(A: np.ndarray, first: int, layer: int, head: int, span: str) -> dict[str, float]:
    where = f"layer{layer}__head{head}__{span}"
    part = A[first:, first:]
    in_degree = part.sum(0) / np.arange(len(part), 0, -1)
    directed = np.linalg.eigvals(np.diag(in_degree) - part).real
    entropy = np.array([scipy.stats.entropy(r[r > 0]) for r in A[first:]])
    row = {f"log_self_attention__{where}": np.log(part.diagonal()).mean()}
    for q in (0.0, 0.25, 0.5, 0.75, 1.0):
        row[f"directed_eigenvalue_quantile_q{q:g}__{where}"] = np.quantile(directed, q)
        row[f"attention_entropy_quantile_q{q:g}__{where}"] = np.quantile(entropy, q)
    return row
