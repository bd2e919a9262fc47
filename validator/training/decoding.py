"""N sampled continuations of many prompts, with what the prompts share computed once.

transformers' ``generate`` does the sampling. The tokens that all prompts begin with (exemplars) are
read once; prompts of equal length form a batch, so that nothing is ever padded; each prompt's own
tokens are read once and its key-value cache is then repeated for its N samples.
"""

from __future__ import annotations

import copy
import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, StoppingCriteriaList
from transformers.cache_utils import DynamicLayer

from validator.errors import ContextLengthError, ParameterError
from validator.features.encoding import common_prefix, max_positions
from validator.features.generation import plain_generation

__all__ = ["Continuation", "Drawing", "Sampler", "Sampling", "plan_chunks"]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are drawn."""

    n: int = 8
    temperature: float = 0.8
    """0 is greedy: the n samples are then the same."""
    top_p: float = 1.0
    max_new_tokens: int = 64
    seed: int = 0
    batch_size: int = 64
    """Most continuations decoded together."""

    def __post_init__(self) -> None:
        for name, valid, wanted in (
            ("n", self.n >= 1, "at least 1"),
            ("temperature", self.temperature >= 0, "0 or more"),
            ("top_p", 0 < self.top_p <= 1, "in (0, 1]"),
            ("max_new_tokens", self.max_new_tokens >= 1, "at least 1"),
            ("batch_size", self.batch_size >= 1, "at least 1"),
        ):
            if not valid:
                raise ParameterError(f"{name} must be {wanted}, got {getattr(self, name)}")


@dataclass(frozen=True, slots=True)
class Continuation:
    """What the model wrote after a prompt."""

    text: str
    """Up to the first stop string, which is not included."""
    finished: bool
    """False where the token limit cut it off."""
    tokens: int
    """Tokens drawn, stop included."""


def plan_chunks(lengths: Sequence[int], n: int, batch_size: int) -> list[tuple[int, ...]]:
    """Batches of prompts of equal token length; a function of the prompts alone.

    Args:
        lengths: tokens of each prompt.
        n: samples of each.
        batch_size: most samples together; one prompt's samples are never parted.

    Returns:
        Positions of the prompts in each chunk; every prompt is in exactly one.
    """
    buckets: dict[int, list[int]] = defaultdict(list)
    for i, length in enumerate(lengths):
        buckets[length].append(i)
    step = max(1, batch_size // n)
    return [
        tuple(bucket[i : i + step]) for bucket in buckets.values()
        for i in range(0, len(bucket), step)
    ]


class Drawing:
    """Continues token ids as the sampling says, whatever the model's own settings say.

    Args:
        model: a transformers causal LM.
        tokenizer: its tokenizer.
        sampling: how tokens are drawn.
        stop: strings that end a continuation.
    """

    def __init__(self, model: Any, tokenizer: Any, sampling: Sampling, stop: Sequence[str]) -> None:
        self.model, self.tokenizer, self.sampling = model, tokenizer, sampling
        self.stop = tuple(stop)

    def draw(
        self, ids: Tensor, cache: Any, seed: int, criteria: Sequence[Any] = ()
    ) -> Tensor:
        """One continuation of each row; torch's own generators are left as they were.

        Args:
            ids: (B, P) prompts.
            cache: keys and values of their first tokens, fewer than P, or None.
            seed: of torch's generators.
            criteria: further stopping criteria, of transformers.

        Returns:
            (B, K) tokens drawn, padded on the right after a row's end.
        """
        accelerators = [self.model.device] if self.model.device.type == "cuda" else []
        with (torch.random.fork_rng(devices=accelerators), torch.inference_mode(),
              plain_generation(self.model)):
            torch.manual_seed(seed)
            output: Tensor = self.model.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), past_key_values=cache,
                tokenizer=self.tokenizer, generation_config=self._configuration(),
                stopping_criteria=StoppingCriteriaList(criteria))
        return output[:, ids.shape[1] :]

    def seed(self, prompts: Sequence[Sequence[int]]) -> int:
        """A seed of the sampling's seed and the prompts' token ids."""
        key = repr((self.sampling.seed, [list(p) for p in prompts])).encode()
        return int.from_bytes(hashlib.sha256(key).digest()[:4])

    def continuation(self, row: Tensor) -> Continuation:
        """What (K,) drawn tokens say, up to where they end."""
        ends = self._configuration().eos_token_id
        stops = set(ends if isinstance(ends, list) else [ends])
        kept: list[int] = []
        for token in row.tolist():
            if token in stops:
                text = self.tokenizer.decode(kept, skip_special_tokens=True)
                return Continuation(self._cut(text)[0], True, len(kept) + 1)
            kept.append(token)
            if self.stop and any(s in self.tokenizer.decode(kept[-8:]) for s in self.stop):
                break
        text, stopped = self._cut(self.tokenizer.decode(kept, skip_special_tokens=True))
        return Continuation(text, stopped, len(kept))

    def require_room(self, longest: int) -> None:
        """Raise ContextLengthError where a prompt of so many tokens leaves too few positions."""
        limit, new = max_positions(self.model.config), self.sampling.max_new_tokens
        if limit is not None and longest + new > limit:
            raise ContextLengthError(
                f"the longest prompt and {new} new tokens make {longest + new} tokens, the model "
                f"has positions for {limit}; lower max_new_tokens")

    def _configuration(self) -> GenerationConfig:
        s = self.sampling
        drawing = {"do_sample": True, "temperature": s.temperature, "top_p": s.top_p, "top_k": 0}
        config = self.model.generation_config
        end = config.eos_token_id if config.eos_token_id is not None else (
            self.tokenizer.eos_token_id)
        pad = self.tokenizer.pad_token_id
        first_end = end[0] if isinstance(end, list) else end
        return GenerationConfig(
            max_new_tokens=s.max_new_tokens, eos_token_id=end, bos_token_id=config.bos_token_id,
            pad_token_id=first_end if pad is None else pad, stop_strings=list(self.stop) or None,
            **(drawing if s.temperature > 0 else {"do_sample": False}))

    def _cut(self, text: str) -> tuple[str, bool]:
        places = [text.find(s) for s in self.stop if s in text]
        return (text[: min(places)], True) if places else (text, False)


class Sampler:
    """Draws continuations of a fixed list of prompts, chunk by chunk, reproducibly.

    Args:
        model: a transformers causal LM.
        tokenizer: its tokenizer.
        prompts: their texts.
        sampling: how tokens are drawn.
        stop: strings that end a continuation.

    Attributes:
        chunks: prompts that are decoded together; each chunk has its own seed, so any subset can
            be drawn in any order with the same result.
        shares_prefix: False where the architecture's cache cannot be repeated, and every prompt is
            read whole.
    """

    def __init__(self, model: Any, tokenizer: Any, prompts: Sequence[str], sampling: Sampling,
                 stop: Sequence[str]) -> None:
        if not prompts:
            raise ParameterError("no prompts to continue; give at least one")
        self.model, self.sampling = model, sampling
        self.drawing = Drawing(model, tokenizer, sampling, stop)
        self.ids = [tokenizer(p)["input_ids"] for p in prompts]
        lengths = [len(i) for i in self.ids]
        self.drawing.require_room(max(lengths))
        self.chunks = plan_chunks(lengths, sampling.n, sampling.batch_size)
        self._prefix = self.ids[0][: min(common_prefix(self.ids), min(lengths) - 1)]
        self._cache = self._read_prefix() if self._prefix else None
        self.shares_prefix = self._cache is not None

    def draw(self, chunk: Sequence[int]) -> list[list[Continuation]]:
        """N continuations of each prompt of a chunk, in its order."""
        prompts = torch.tensor([self.ids[i] for i in chunk], device=self.model.device)
        n = self.sampling.n
        output = self.drawing.draw(
            prompts.repeat_interleave(n, 0), self._read_prompts(prompts),
            self.drawing.seed([self.ids[i] for i in chunk]))
        drawn = [self.drawing.continuation(row) for row in output]
        return [drawn[i : i + n] for i in range(0, len(drawn), n)]

    def _read_prefix(self) -> Any:
        ids = torch.tensor([self._prefix], device=self.model.device)
        with torch.inference_mode():
            cache = self.model(input_ids=ids, use_cache=True, logits_to_keep=1).past_key_values
        shareable = all(type(layer) is DynamicLayer for layer in getattr(cache, "layers", [None]))
        return cache if shareable else None

    def _read_prompts(self, prompts: Tensor) -> Any:
        """Cache of all tokens but the last of each prompt, repeated for its samples."""
        if self._cache is None:
            return None
        cache = copy.deepcopy(self._cache)
        cache.batch_repeat_interleave(len(prompts))
        rest = prompts[:, len(self._prefix) : -1]
        if rest.shape[1]:
            with torch.inference_mode():
                self.model(input_ids=rest, past_key_values=cache, use_cache=True, logits_to_keep=1)
        cache.batch_repeat_interleave(self.sampling.n)
        return cache
