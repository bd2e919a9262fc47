"""What every tunnel of evidence must hold to, whatever it asks."""

from __future__ import annotations

from typing import Any

import numpy as np

from validator.windtunnels.symbols import symbol_tokenizer


def check_render(tunnel: Any, seed: int) -> None:
    """Right traces are right, steps lie inside, and the same seed gives the same problem."""
    problem, again = (tunnel.sample(np.random.default_rng(seed)) for _ in range(2))
    assert problem == again
    for style in tunnel.styles:
        trace = tunnel.render(problem, style)
        assert trace.label == 1
        assert set(trace.step_labels) == {1}
        assert tunnel.verify(problem, trace) == (True,) * len(trace.steps)
        assert trace.problem_id == problem.id
        assert trace.meta["style"] == style


def check_twins(tunnel: Any, seed: int) -> None:
    """Twins are wrong, differ from the right trace, and are as long in symbols."""
    rng = np.random.default_rng(seed)
    problem = tunnel.sample(rng)
    for style in tunnel.styles:
        right = tunnel.render(problem, style)
        for kind in tunnel.corruptions:
            wrong = tunnel.corrupt(problem, style, kind, rng)
            assert wrong.label == 0
            assert 0 in wrong.step_labels
            assert wrong.prompt == right.prompt
            assert wrong.completion != right.completion
            assert len(wrong.completion.split()) == len(right.completion.split())
            assert len(wrong.steps) == len(right.steps)
            assert tuple(map(bool, wrong.step_labels)) == tunnel.verify(problem, wrong)
            assert wrong.meta["corruption"] == kind


def check_token_queries(tunnel: Any, seed: int) -> None:
    """Queries of the token style agree with the posterior, and their texts with the trace."""
    style = tunnel.styles[0]
    problem = tunnel.sample(np.random.default_rng(seed))
    tokenizer = symbol_tokenizer(tunnel.symbols(style))
    for query in tunnel.queries(problem, style):
        found = tunnel.posterior(problem, query.prefix.split())
        assert found.symbols == query.posterior.symbols
        np.testing.assert_allclose(found.probabilities, query.posterior.probabilities, atol=1e-12)
        assert tuple(c.strip() for c in query.candidates) == found.symbols
        before = tokenizer(query.prefix)["input_ids"]
        for candidate in query.candidates:
            after = tokenizer(query.prefix + candidate)["input_ids"]
            assert after[:-1] == before
            assert len(after) == len(before) + 1


def check_batch(tunnel: Any, seed: int) -> Any:
    """A batch of one is what the same generator samples; with it, the ids of its trace."""
    style = tunnel.styles[0]
    batch = tunnel.token_batch(np.random.default_rng(seed), 1, style)
    problem = tunnel.sample(np.random.default_rng(seed))
    assert batch.problem_ids == (problem.id,)
    assert set(batch.labels[batch.labels != batch.ids].tolist()) <= {-100}
    trace = tunnel.render(problem, style)
    tokenizer = symbol_tokenizer(tunnel.symbols(style))
    return batch, tokenizer(trace.prompt + trace.completion)["input_ids"]
