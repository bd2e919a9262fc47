"""A tokenizer with one token per symbol: trained models and posteriors speak of the same thing."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from validator.errors import ParameterError

__all__ = ["BOS", "EOS", "PAD", "symbol_tokenizer"]

PAD, BOS, EOS = "<pad>", "<s>", "</s>"


def symbol_tokenizer(symbols: Sequence[str]) -> PreTrainedTokenizerFast:
    """Words parted by white space, one token each; ids 0, 1, 2 are padding, begin and end.

    A text begins with no special token unless it is written out. A word that is no symbol is an
    error when it is encoded, not an unknown token.

    Raises ParameterError for symbols that repeat, are empty or hold white space.
    """
    words = list(symbols)
    if len(set(words)) < len(words) or any(not w or w.split() != [w] for w in words):
        raise ParameterError("symbols must be distinct words without white space")
    vocabulary = {word: i for i, word in enumerate([PAD, BOS, EOS, *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, bos_token=BOS, eos_token=EOS)
