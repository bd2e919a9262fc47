"""Answers of an OpenAI-compatible server, sampled there and checked, labelled and scored here."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args
from urllib.parse import urlsplit

from validator.errors import EndpointError, ParameterError, ValidatorError, ValidatorWarning
from validator.training.decoding import Continuation, Sampling
from validator.training.problems import Problem, PromptFormat
from validator.training.sample_file import run_manifest
from validator.training.sampling import Origin, SamplingRun, draw_traces, require_checkable
from validator.types import Progress, Trace

__all__ = ["Api", "Endpoint", "EndpointDraws", "chat_prompts", "sample_from_endpoint"]

Api = Literal["completions", "chat"]
"""``/v1/completions`` continues a text; ``/v1/chat/completions`` answers a user's message."""

_CUT = ("length", "content_filter")
"""Reasons to finish that are not the model's own."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A server, one of its models, and how it is asked. The key is the environment's."""

    url: str
    """Up to ``/v1``, without user, password or query: it is written to the manifest."""
    model: str
    """As the server calls it."""
    api: Api = "completions"
    concurrency: int = 8
    """Problems asked about at the same time."""
    timeout: float = 600.0
    """Seconds until a request counts as failed."""
    retries: int = 5
    """Of a request that failed with 408, 409, 429, 5xx or no answer; the wait doubles."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Further fields of every request's body, for what one server alone knows."""

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        for name, valid, wanted in (
            ("url", parts.scheme in ("http", "https") and bool(parts.hostname),
             "like http://127.0.0.1:8000/v1"),
            ("url", not (parts.username or parts.password or parts.query or parts.fragment),
             "without user, password, query and fragment; a key goes into OPENAI_API_KEY"),
            ("model", bool(self.model), "the server's name of a model"),
            ("api", self.api in get_args(Api), f"one of {', '.join(get_args(Api))}"),
            ("concurrency", self.concurrency >= 1, "at least 1"),
            ("timeout", self.timeout > 0, "above 0"),
            ("retries", self.retries >= 0, "0 or more"),
        ):
            if not valid:
                # a password in the address must not reach a log by way of this message
                got = "" if name == "url" else f", got {getattr(self, name)!r}"
                raise ParameterError(f"endpoint {name} must be {wanted}{got}")


def sample_from_endpoint(
    endpoint: Endpoint, problems: Sequence[Problem], prompt: PromptFormat, sampling: Sampling,
    output: Path, *, shown: tuple[str, Sequence[str]] | None = None, command: str = "",
    progress: Progress | None = None,
) -> SamplingRun:
    """Sample N answers of a served model to each problem, into the file ``sample_traces`` writes.

    What is resumed, labelled and kept is as :func:`validator.training.sampling.draw_traces` says;
    a request that fails for good ends the run and costs no answer that came before it. A served
    model's weights are not known here: of it, the manifest names the model and the settings.

    Args:
        endpoint: the server.
        problems: ids distinct.
        prompt: how they are asked.
        sampling: how answers are drawn; ``batch_size`` is the server's business and not used. A
            seed of its own goes with each request; whether it is honoured is the server's choice.
        output: JSONL file to write.
        shown: a name for what the traces' prompts are, and these prompts by problem, where the
            texts sent are not what the reader is to be shown; see :func:`chat_prompts`.
        command: recorded in the manifest.
        progress: called with (done, total) traces.

    Raises:
        EndpointError: naming the problem and the status.
        ParameterError, LabelError, TraceError: as ``sample_traces``.
        ValidatorError: the openai package is missing, or the file cannot be written.

    Warns:
        ValidatorWarning: no problem has two different answers though the temperature is above 0.
    """
    openai = _openai()
    require_checkable(problems, prompt)
    sent = tuple(prompt.prompt(p.question) for p in problems)
    name, prompts = shown or ("prompt as sent", sent)
    how = {k: v for k, v in asdict(sampling).items() if k != "batch_size"}
    manifest = run_manifest(
        {"model": endpoint.model, "endpoint": endpoint.url, "api": endpoint.api,
         "extra": dict(endpoint.extra), "shown": name},
        problems, prompt, how, command, {"openai": openai.__version__})
    origin = Origin(endpoint.model, tuple(prompts), {"api": endpoint.api, "shown": name})
    with _client(endpoint) as client:
        draws = EndpointDraws(client, endpoint, sent, [p.id for p in problems], sampling,
                              prompt.stop)
        done = draw_traces(draws, problems, prompt, sampling.n, output, manifest, origin,
                           workers=endpoint.concurrency, progress=progress)
    if sampling.temperature > 0 and sampling.n > 1 and not _varies(done.traces):
        warnings.warn(
            f"all {sampling.n} answers to each problem are the same at temperature "
            f"{sampling.temperature}: the server seems not to sample. `transformers serve` needs "
            'the extra field {"generation_config": "{\\"do_sample\\": true}"}.',
            ValidatorWarning, stacklevel=2)
    return done


def chat_prompts(tokenizer: Any, texts: Sequence[str]) -> list[str]:
    """What a chat model is shown for each text: one user message in its chat template.

    Args:
        tokenizer: the reader's.
        texts: the messages.

    Raises:
        ParameterError: the tokenizer has no chat template.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise ParameterError("the reader's tokenizer has no chat template; give no reader, and the "
                             "traces show the plain prompt, or use the completions API")
    return [
        tokenizer.apply_chat_template([{"role": "user", "content": text}], tokenize=False,
                                      add_generation_prompt=True)
        for text in texts
    ]


class EndpointDraws:
    """Draws continuations of a fixed list of prompts from a server; threads may share it.

    Args:
        client: an ``openai.OpenAI``.
        endpoint: what to ask it.
        prompts: the texts sent.
        names: of the prompts, distinct; they enter the seeds and the errors.
        sampling: how tokens are drawn.
        stop: strings that end a continuation; the text is cut before the first of them here, since
            some servers leave it in.

    Attributes:
        chunks: one prompt each, so that an error costs no finished problem.
        shares_prefix: True; what a server does about it is not told.
    """

    shares_prefix = True

    def __init__(self, client: Any, endpoint: Endpoint, prompts: Sequence[str],
                 names: Sequence[str], sampling: Sampling, stop: Sequence[str]) -> None:
        self.client, self.endpoint, self.sampling = client, endpoint, sampling
        self.prompts, self.names, self.stop = tuple(prompts), tuple(names), tuple(stop)
        self.chunks = [(i,) for i in range(len(self.prompts))]
        self._one_each = False  # set once the server has refused n > 1

    def draw(self, chunk: Sequence[int]) -> list[list[Continuation]]:
        """N continuations of each prompt of a chunk, in its order."""
        return [self._answers(i) for i in chunk]

    def _answers(self, i: int) -> list[Continuation]:
        """Asks until there are N: a server that ignores ``n`` sends one answer a request."""
        got: list[Continuation] = []
        while (missing := self.sampling.n - len(got)) > 0:
            got += self._ask(i, len(got), missing)[:missing]
        return got

    def _ask(self, i: int, first: int, wanted: int) -> list[Continuation]:
        """One request or, where the server refuses to give several answers, two."""
        import openai

        refused = False
        if wanted > 1 and not self._one_each:
            try:
                return self._request(i, first, wanted)
            except EndpointError as error:
                refused = isinstance(error.__cause__, (openai.BadRequestError,
                                                       openai.UnprocessableEntityError))
                if not refused:
                    raise
        found = self._request(i, first, 1)
        self._one_each = self._one_each or refused
        return found

    def _request(self, i: int, first: int, count: int) -> list[Continuation]:
        """``count`` answers to prompt ``i``, of which ``first`` are there, or as many as come."""
        import openai

        where = f"problem {self.names[i]!r}: {self.endpoint.url}"
        try:
            response = self._create(i, self._settings(i, first, count))
        except openai.APIStatusError as error:
            # the body, since error.message keeps what servers say under "error" alone
            reason = _short(error.response.text.strip() or error.message)
            raise EndpointError(f"{where} answered {error.status_code}: {reason}"
                                f"{_HINTS.get(error.status_code, '')}") from error
        except openai.APITimeoutError as error:
            raise EndpointError(f"{where} gave no answer in {self.endpoint.timeout:g} seconds, "
                                f"{self.endpoint.retries + 1} times; allow more") from error
        except openai.APIConnectionError as error:
            raise EndpointError(f"{where} is not reached ({error.__cause__ or error}); is the "
                                "server running, and is this its address?") from error
        except (openai.OpenAIError, ValueError) as error:
            raise EndpointError(f"{where} sent no completion but {_short(str(error))}") from error
        return self._continuations(response, where)

    def _create(self, i: int, settings: Mapping[str, Any]) -> Any:
        if self.endpoint.api == "chat":
            return self.client.chat.completions.create(
                messages=[{"role": "user", "content": self.prompts[i]}], **settings)
        return self.client.completions.create(prompt=self.prompts[i], **settings)

    def _settings(self, i: int, first: int, count: int) -> dict[str, Any]:
        s = self.sampling
        settings: dict[str, Any] = {
            "model": self.endpoint.model, "temperature": s.temperature, "top_p": s.top_p,
            "max_tokens": s.max_new_tokens, "seed": self._seed(i, first)}
        if self.stop:
            settings["stop"] = list(self.stop)
        if count > 1:
            settings["n"] = count
        if self.endpoint.extra:
            settings["extra_body"] = dict(self.endpoint.extra)
        return settings

    def _seed(self, i: int, first: int) -> int:
        """Hashed, since servers give the n answers of one request the seeds s, s + 1, ..."""
        key = repr((self.sampling.seed, self.names[i], first)).encode()
        return int.from_bytes(hashlib.sha256(key).digest()[:4]) & 0x7FFFFFFF

    def _continuations(self, response: Any, where: str) -> list[Continuation]:
        choices = getattr(response, "choices", None)
        if not isinstance(choices, list) or not choices:
            raise EndpointError(f"{where} sent no completion but {_short(repr(response))}")
        usage = getattr(getattr(response, "usage", None), "completion_tokens", None)
        tokens = usage if isinstance(usage, int) else 0
        each = [tokens // len(choices) + (k < tokens % len(choices)) for k in range(len(choices))]
        return [self._continuation(c, t, where) for c, t in zip(choices, each, strict=True)]

    def _continuation(self, choice: Any, tokens: int, where: str) -> Continuation:
        if self.endpoint.api == "chat":
            message = getattr(choice, "message", None)
            text = getattr(message, "content", None)
            if text is None and message is not None:
                text = ""  # all of it was reasoning or a tool's call: there is no answer
        else:
            text = getattr(choice, "text", None)
        if not isinstance(text, str):
            raise EndpointError(f"{where} sent a choice without text: {_short(repr(choice))}")
        places = [text.find(s) for s in self.stop if s in text]
        finished = bool(places) or getattr(choice, "finish_reason", None) not in _CUT
        return Continuation(text[: min(places)] if places else text, finished, tokens)


_HINTS = {
    401: "; put the key into OPENAI_API_KEY",
    403: "; put the key into OPENAI_API_KEY",
    404: "; is the model's name right, does the address end in /v1, and is this API offered?",
    429: "; ask for less at a time",
}


def _short(text: str) -> str:
    return text if len(text) <= 300 else text[:300] + "..."


def _varies(traces: Sequence[Trace]) -> bool:
    texts = defaultdict[str, set[str]](set)
    for trace in traces:
        texts[trace.problem_id].add(trace.completion)
    return any(len(found) > 1 for found in texts.values())


def _openai() -> Any:
    try:
        import openai
    except ImportError as error:
        raise ValidatorError("asking a server needs the openai package: "
                             "pip install 'spectral-validator[openai]'") from error
    return openai


def _client(endpoint: Endpoint) -> Any:
    """Local servers ask for no key, the client does: it gets one that says nothing."""
    return _openai().OpenAI(
        base_url=endpoint.url, api_key=os.environ.get("OPENAI_API_KEY") or "none",
        timeout=endpoint.timeout, max_retries=endpoint.retries)
