"""Any column of any feature set the slow way, from stored eager attentions and its name."""

from __future__ import annotations

import functools
from typing import Any

import networkx as nx
import numpy as np
import scipy.linalg
import scipy.stats
import torch

from validator.types import Trace

Array = np.ndarray


class Oracle:
    """All attentions, hidden states and predictions of one trace, in double precision."""

    def __init__(self, model: Any, tokenizer: Any, trace: Trace, last: int = 32) -> None:
        prompt = tokenizer(trace.prompt)["input_ids"]
        coded = tokenizer(trace.completion, return_offsets_mapping=True)
        self.ids = prompt + coded["input_ids"]
        self.p, self.n = len(prompt), len(self.ids)
        self.steps = [
            [self.p + i for i, (a, b) in enumerate(coded["offset_mapping"]) if s <= b - 1 < e]
            for s, e in trace.steps or ()
        ]
        values: list[Any] = []
        hooks = [
            m.register_forward_hook(lambda _m, _i, out: values.append(out))
            for name, m in model.named_modules() if name.endswith("v_proj")
        ]
        model.set_attn_implementation("eager")
        with torch.inference_mode():
            out = model(torch.tensor([self.ids]), output_attentions=True,
                        output_hidden_states=True)
        model.set_attn_implementation("sdpa")
        for hook in hooks:
            hook.remove()
        self.attention = [a[0].double().numpy() for a in out.attentions]
        self.hidden = [h[0].double().numpy() for h in out.hidden_states]
        self.value_norm = [np.linalg.norm(v[0].double().numpy(), axis=1) for v in values]
        logp = torch.log_softmax(out.logits[0].double(), -1).numpy()
        self.surprisal = np.full(self.n, np.nan)
        self.token_entropy = np.full(self.n, np.nan)
        for i in range(self.p, self.n):
            self.surprisal[i] = -logp[i - 1, self.ids[i]]
            self.token_entropy[i] = scipy.stats.entropy(np.exp(logp[i - 1]))
        self.last = last
        self.spectrum = functools.lru_cache(maxsize=None)(self._spectrum)
        self.column = functools.lru_cache(maxsize=None)(self._column)

    def _column(self, name: str) -> float:
        """The value that belongs under a column's name."""
        parts = name.split("__")
        if parts[1] == "baseline":
            return self._baseline(parts[0])
        if parts[-1] == "delta":
            layer = int(parts[1][5:])
            before = [*parts[:-1]]
            before[1] = f"layer{layer - 1}"
            return self.column("__".join(parts[:-1])) - self.column("__".join(before))
        if parts[3].startswith("step_"):
            how = {"mean": np.mean, "min": np.min, "max": np.max}[parts[3][5:]]
            each = [self._value(parts, tokens) for tokens in self.steps]
            return float(how([v for v in each if np.isfinite(v)]))
        return self._value(parts, self._tokens(parts[3]))

    def _tokens(self, span: str) -> list[int]:
        if span.startswith("last"):
            return list(range(max(self.p, self.n - self.last), self.n))
        first, end = {"whole": (0, self.n), "prompt": (0, self.p), "completion": (self.p, self.n),
                      "completion_from_prompt": (0, self.n)}[span]
        return list(range(first, end))

    def _baseline(self, name: str) -> float:
        s, e = self.surprisal[self.p:], self.token_entropy[self.p:]
        return float({"prompt_length": self.p, "completion_length": self.n - self.p,
                      "mean_logprob": -s.mean(), "min_logprob": -s.max(),
                      "mean_token_entropy": e.mean()}[name])

    def _value(self, parts: list[str], tokens: list[int]) -> float:
        descriptor, layer = parts[0], int(parts[1][5:])
        graph, *options = parts[2].split("+")
        signal = parts[4] if len(parts) > 4 else ""
        if graph == "residual":
            states = self.hidden[layer][tokens]
            pooled = states.mean(0) if descriptor.startswith("state_mean") else states[-1]
            return float(pooled[int(descriptor.split("_d")[-1])])
        A = self.attention[layer]
        A = A.mean(0) if graph == "head_mean" else A[int(graph[4:])]
        head = self._head(descriptor, A, tokens, signal)
        if head is not None:
            return float(head)
        key = (layer, graph, tuple(options), tuple(tokens), parts[3] == "completion_from_prompt")
        return float(self._graph(descriptor, *self.spectrum(*key), signal, layer))

    def _head(self, descriptor: str, A: Array, t: list[int], signal: str) -> float | None:
        part = A[np.ix_(t, t)]
        if descriptor.startswith("attended"):
            x = getattr(self, signal)[self.p:]
            seen = A[self.p:, self.p:] @ x
            return {"mean": seen.mean(), "max": seen.max(), "last": seen[-1]}[descriptor[9:]]
        if descriptor == "log_self_attention":
            return np.log(part.diagonal()).mean()
        if descriptor == "lookback_ratio":
            return A[t, : self.p].sum(1).mean()
        in_degree = part.sum(0) / np.arange(len(part), 0, -1)
        per_token = {
            "directed_eigenvalue": lambda: scipy.linalg.eigvals(np.diag(in_degree) - part).real,
            "attention_eigenvalue": lambda: scipy.linalg.eigvals(part).real,
            "attention_entropy": lambda: [scipy.stats.entropy(A[i, : i + 1]) for i in t],
            "renyi_entropy": lambda: [-np.log((A[i] ** 2).sum()) for i in t],
        }
        for name, values in per_token.items():
            if descriptor.startswith(f"{name}_quantile_q"):
                return np.quantile(values(), float(descriptor.split("_q")[-1]))
            if descriptor.startswith(f"{name}_top_k"):
                return sorted(values())[-int(descriptor.split("_k")[-1])]
        return None

    def _spectrum(
        self, layer: int, graph: str, options: tuple[str, ...], tokens: tuple[int, ...],
        from_prompt: bool,
    ) -> tuple[Array, Array, Array, tuple[int, ...]]:
        A = self.attention[layer]
        A = A.mean(0) if graph == "head_mean" else A[int(graph[4:])]
        t = [i for i in tokens if not ("drop_sink" in options and i == 0)]
        part = A[np.ix_(t, t)].copy()
        for option in options:
            if option.startswith("clip"):
                part[part < float(option[4:])] = 0
            if option == "row_normalised":
                sums = part.sum(1, keepdims=True)
                part = np.divide(part, sums, out=part, where=sums > 0)
            if option == "no_self_loops":
                np.fill_diagonal(part, 0)
        block = part
        if from_prompt:
            block = part[self.p:, : self.p]
            part = np.zeros_like(part)
            part[self.p:, : self.p] = block
        weighted = nx.from_numpy_array((part + part.T) / 2)
        if "combinatorial" in options:
            for i in range(len(part)):  # networkx counts a self-loop twice in a degree
                if weighted.has_edge(i, i):
                    weighted.remove_edge(i, i)
            L = nx.laplacian_matrix(weighted).toarray().astype(float)
        else:
            L = nx.normalized_laplacian_matrix(weighted).toarray()
        values, modes = scipy.linalg.eigh(L)
        return values, modes, scipy.linalg.svdvals(block), tuple(t)

    def _graph(
        self, descriptor: str, values: Array, modes: Array, singular: Array,
        tokens: tuple[int, ...], signal: str, layer: int,
    ) -> float:
        base, _, parameter = descriptor.rpartition("_")
        if descriptor == "fiedler_value":
            return values[1] if len(values) > 1 else np.nan
        if base == "spectral_gap":
            k = int(parameter[1:])
            return values[k] - values[k - 1] if len(values) > k else np.nan
        if base == "eigenvalue_quantile":
            return np.quantile(values, float(parameter[1:]))
        if base == "singular_value_quantile":
            return np.quantile(singular, float(parameter[1:]))
        if descriptor == "eigenvalue_entropy":
            return scipy.stats.entropy(np.maximum(values, 0))
        if descriptor == "singular_value_entropy":
            return scipy.stats.entropy(singular)
        x = getattr(self, signal)
        x = np.asarray(x[layer] if isinstance(x, list) else x)[list(tokens)]
        x = x.reshape(len(tokens), -1)
        energy = ((modes.T @ x) ** 2).sum(1)
        rough = (values * energy).sum() / energy.sum()
        if base == "hfer":
            return energy[int(np.ceil(float(parameter[1:]) * len(energy))):].sum() / energy.sum()
        return {"signal_entropy": lambda: scipy.stats.entropy(energy), "roughness": lambda: rough,
                "smoothness": lambda: 1 - rough / values[-1],
                "dirichlet_energy": lambda: rough * energy.sum()}[descriptor]()
