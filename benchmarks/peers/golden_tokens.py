"""First step of golden numbers: the token ids that a peer, in its own environment, is to read.

    python -m benchmarks.peers.golden_tokens --traces FILE.jsonl --output TOKENS.json

The project's own reader formats and tokenises the traces, so that both sides read the same tokens.
The output holds what the text can be told by, not the text; it is temporary all the same.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

from validator.features.encoding import encode_trace, max_positions
from validator.models.loading import load_model
from validator.training.datasets import load_traces
from validator.types import Trace


def main() -> None:
    """Write the model's name and revision, and id, digest and token ids of each trace."""
    args = _arguments()
    loaded = load_model(args.model)
    limit = max_positions(loaded.model.config)
    traces = load_traces(args.traces, format=args.format, limit=args.count)
    encoded = [encode_trace(trace, loaded.tokenizer, limit) for trace in traces]
    result: dict[str, Any] = {
        "model": loaded.name, "revision": loaded.revision, "format": args.format,
        "traces": [
            {"id": e.trace.id, "sha256": text_digest(e.trace), "prompt_tokens": e.prompt_length,
             "ids": e.ids} for e in encoded
        ],
    }
    args.output.write_text(json.dumps(result), encoding="utf-8")


def text_digest(trace: Trace) -> str:
    """SHA-256, in hexadecimal, of the prompt and the completion in one piece."""
    return hashlib.sha256((trace.prompt + trace.completion).encode()).hexdigest()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--traces", type=Path, required=True)
    parser.add_argument("--format", default="gsm8k-solutions")
    parser.add_argument("--count", type=int, default=20, help="lines to read")
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--output", type=Path, required=True)
    return parser.parse_args()


if __name__ == "__main__":
    main()
