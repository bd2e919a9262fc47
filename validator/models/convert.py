"""A quantised GGUF file turned into a plain float32 safetensors folder, and the proof of it."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from tokenizers.pre_tokenizers import ByteLevel, Digits
from tokenizers.pre_tokenizers import Sequence as PreTokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer

from validator.errors import ModelIntegrityError
from validator.models.catalog import KnownModel, Proof, proof_terms
from validator.models.quiet import quiet
from validator.models.reading import read_folder
from validator.types import Progress

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["convert", "mean_nll"]

_STEPS = 5


def convert(
    known: KnownModel, gguf: Path, folder: Path, progress: Progress | None = None
) -> dict[str, float]:
    """Write the model and tokenizer of ``gguf`` into ``folder``; the numbers that prove it.

    ``gguf`` must have passed its checksum. The proof compares the model as read from the GGUF file
    with the one read back from ``folder``: equal mean negative log-likelihood of the sentences in
    ``configs/models.yaml`` within its tolerance, equal to the recorded value within a wider one,
    and equal tokenizers. Raises ModelIntegrityError otherwise.
    """
    terms = proof_terms()
    with quiet():
        tokenizer = _read_tokenizer(known, gguf)
        _step(progress, 1)
        model = AutoModelForCausalLM.from_pretrained(
            gguf.parent, gguf_file=gguf.name, dtype=torch.float32, trust_remote_code=False
        ).eval()
        _step(progress, 2)
        before = mean_nll(model, tokenizer, terms.sentences)
        _step(progress, 3)
        _save(model, tokenizer, folder)
        del model  # two copies in memory are enough
        _step(progress, 4)
    reloaded, reread = read_folder(folder)
    _require_same_tokenizer(known, tokenizer, reread, terms.sentences)
    after = mean_nll(reloaded, reread, terms.sentences)
    _require_same_nll(known, before, after, terms)
    _step(progress, 5)
    return {
        "nll_gguf": before,
        "nll_safetensors": after,
        "difference": abs(after - before),
        "reference_nll": known.reference_nll,
        "tolerance": terms.tolerance,
        "reference_tolerance": terms.reference_tolerance,
    }


@torch.inference_mode()
def mean_nll(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, sentences: Sequence[str]
) -> float:
    """Mean of -log p(token | tokens before it) over all sentences, nats per token.

    The first token of a sentence is given, not predicted; each sentence is read alone.
    """
    total, count = 0.0, 0
    for sentence in sentences:
        ids = torch.tensor([tokenizer(sentence).input_ids], device=model.device)  # (1, T)
        logp = model(ids).logits[0, :-1].double().log_softmax(-1)  # (T - 1, V)
        total -= logp.gather(1, ids[0, 1:, None]).sum().item()
        count += ids.shape[1] - 1
    return total / count


def _read_tokenizer(known: KnownModel, gguf: Path) -> PreTrainedTokenizerBase:
    tokenizer = AutoTokenizer.from_pretrained(
        gguf.parent, gguf_file=gguf.name, trust_remote_code=False
    )
    tokenizer.model_max_length = known.context_length
    if known.split_digits:
        # The GGUF file names its digit splitting (tokenizer.ggml.pre) but transformers does not
        # read it: without it two spaces before a digit become other tokens than in training.
        tokenizer.backend_tokenizer.pre_tokenizer = PreTokenizers(
            [Digits(individual_digits=True), ByteLevel(add_prefix_space=False, use_regex=True)]
        )
    return tokenizer


def _save(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path
) -> None:
    # A model read from GGUF counts as quantised and refuses to be saved; a fresh one does not.
    config = copy.deepcopy(model.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    with torch.random.fork_rng(devices=[]):  # its initial weights must not use up the user's seed
        plain = AutoModelForCausalLM.from_config(
            config, dtype=torch.float32, trust_remote_code=False
        )
    plain.load_state_dict(model.state_dict())
    plain.generation_config = model.generation_config
    plain.save_pretrained(folder, max_shard_size="1TB")
    tokenizer.save_pretrained(folder)
    for path in folder.iterdir():
        path.chmod(0o644)  # safetensors writes 0600, which a shared cache cannot use


def _require_same_nll(known: KnownModel, before: float, after: float, terms: Proof) -> None:
    for what, wanted, tolerance in (
        ("the GGUF file", before, terms.tolerance),
        ("the recorded value", known.reference_nll, terms.reference_tolerance),
    ):
        if not abs(after - wanted) <= tolerance:  # a NaN must fail too
            raise ModelIntegrityError(
                f"{known.name}: the converted model gives {after:.6f} nats per token, {what} "
                f"{wanted:.6f}; they may differ by {tolerance:g}. The conversion is discarded. "
                "Report this with your versions of torch, transformers and gguf."
            )


def _require_same_tokenizer(
    known: KnownModel,
    ours: PreTrainedTokenizerBase,
    reread: PreTrainedTokenizerBase,
    sentences: Sequence[str],
) -> None:
    ids = [ours(s).input_ids for s in sentences]
    checks = {
        "encoding": (ids, [reread(s).input_ids for s in sentences]),
        "decoding": (
            list(sentences), [reread.decode(i, skip_special_tokens=True) for i in ids]
        ),
        "special tokens": (ours.special_tokens_map, reread.special_tokens_map),
        "chat template": (ours.chat_template, reread.chat_template),
        "end token": (known.eos_token, reread.eos_token),
        "adds a first token": (
            known.adds_bos, reread.bos_token_id in reread("a").input_ids
        ),
    }
    for what, (wanted, got) in checks.items():
        if wanted != got:
            raise ModelIntegrityError(
                f"{known.name}: the tokenizer's {what} changed: expected {wanted!r}, got {got!r}"
            )


def _step(progress: Progress | None, done: int) -> None:
    if progress is not None:
        progress(done, _STEPS)
