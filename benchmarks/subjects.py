"""What the benchmarks run on: a known model, or random weights of a stated shape."""

from __future__ import annotations

import argparse
from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from validator.features.encoding import EncodedTrace
from validator.models.loading import load_model
from validator.types import Trace

__all__ = ["add_subject_arguments", "random_trace", "subject"]

SHAPES: dict[str, dict[str, int]] = {
    "1b": {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
           "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256},
    "8b": {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
           "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256},
}
POSITIONS = 131072


def add_subject_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments that choose the model and where it runs."""
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--shape", choices=sorted(SHAPES),
                        help="random weights of this shape instead of --model")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--threads", type=int, default=2)


def subject(args: argparse.Namespace) -> Any:
    """The model that the arguments name, in evaluation mode."""
    torch.set_num_threads(args.threads)
    if args.shape is None:
        return load_model(args.model, dtype=args.dtype, device=args.device).model
    config = LlamaConfig(**SHAPES[args.shape], max_position_embeddings=POSITIONS)
    with torch.device(args.device):
        model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, args.dtype))
    return model.eval()


def random_trace(model: Any, length: int, completion: int | None = None) -> EncodedTrace:
    """Random tokens, always the same for a length; by default half of them are the completion."""
    generator = torch.Generator().manual_seed(length)
    ids = torch.randint(5, model.config.vocab_size, (length,), generator=generator)
    prompt = length - (length // 2 if completion is None else completion)
    return EncodedTrace(Trace(f"random-{length}", "p", " ", " "), tuple(ids.tolist()), prompt)
