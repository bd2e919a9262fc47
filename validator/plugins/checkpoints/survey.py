"""All checkpoints of a run, scored on one probe, and what each criterion would have chosen."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from validator.errors import ParameterError, ValidatorError
from validator.plugins.checkpoints.answers import Asking, Question, accuracy, own_answers
from validator.plugins.checkpoints.folders import Checkpoint, find_checkpoints, load_checkpoint
from validator.plugins.checkpoints.probe import Probe
from validator.plugins.checkpoints.ranking import (
    Criterion,
    Judgement,
    judge_criterion,
    rank_order,
)
from validator.types import Progress, Trace

__all__ = ["LOSS", "CheckpointRow", "Survey", "criteria_of", "survey_checkpoints"]

LOSS = "validation_loss"
LAST = "last"
OWN = "own_"


@dataclass(frozen=True, slots=True)
class CheckpointRow:
    """What is known of one checkpoint."""

    name: str
    step: int
    values: Mapping[str, float]
    """Criterion -> value; NaN where it is undefined, empty where the checkpoint is unreadable."""
    accuracy: float | None = None
    """True accuracy in [0, 1]; None where it is not known."""
    error: str | None = None
    """Why the checkpoint could not be scored: it then has no values and ranks last."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Survey:
    """The checkpoints of a run, earliest first."""

    rows: tuple[CheckpointRow, ...]
    by: str
    """The criterion they are ranked by."""
    score: str
    """What ``validity`` is: ``learned``, or a label-free score's name."""
    loss_source: str
    """Where validation losses come from."""

    @property
    def order(self) -> list[int]:
        """Positions of the rows, best first; unreadable ones last."""
        values = [row.values.get(self.by, math.nan) for row in self.rows]
        return rank_order(values, higher_is_better=self.by != LOSS)

    def judgements(self) -> list[Judgement]:
        """Each criterion against true accuracy; none where fewer than two accuracies are known."""
        truth = [math.nan if r.accuracy is None else r.accuracy for r in self.rows]
        if sum(not math.isnan(t) for t in truth) < 2:
            return []
        return [judge_criterion(c, truth) for c in criteria_of(self.rows)]

    @property
    def verdict(self) -> str:
        """Which checkpoint to keep and, where accuracies are known, what that costs."""
        best = self.rows[self.order[0]]
        said = f"By {self.by} keep {best.name}."
        own = next((j for j in self.judgements() if j.criterion == self.by), None)
        if own is None or own.regret is None or own.accuracy is None:
            return said
        return (f"{said} Its true accuracy is {own.accuracy:.3f}, that of the best checkpoint "
                f"{own.accuracy + own.regret:.3f}: a regret of {own.regret:.3f}.")

    def to_json(self) -> dict[str, Any]:
        """Plain values, NaN as None: the checkpoints earliest first, and the criteria."""
        place = {position: rank for rank, position in enumerate(self.order, 1)}
        return {
            "by": self.by, "score": self.score, "loss_source": self.loss_source,
            "verdict": self.verdict,
            "checkpoints": [
                {"name": row.name, "step": row.step, "rank": place[i], "accuracy": row.accuracy,
                 "error": row.error, "notes": list(row.notes),
                 "values": {n: None if math.isnan(v) else v for n, v in row.values.items()}}
                for i, row in enumerate(self.rows)],
            "criteria": [
                {**asdict(j), "picked": None if j.picked is None else self.rows[j.picked].name}
                for j in self.judgements()],
        }


def criteria_of(rows: Sequence[CheckpointRow]) -> list[Criterion]:
    """Every criterion of the rows, ``last`` first; a checkpoint without a value has NaN."""
    names = list(dict.fromkeys(name for row in rows for name in row.values))
    last = tuple(math.nan if row.error else float(row.step) for row in rows)
    return [Criterion(LAST, last)] + [
        Criterion(name, tuple(row.values.get(name, math.nan) for row in rows), name != LOSS)
        for name in names]


def survey_checkpoints(
    run: str | Path, probe: Probe, *, base: str | Path | None = None,
    truth: Mapping[str, float] | None = None, questions: Sequence[Question] = (),
    asking: Asking | None = None, own: bool = False, heldout: Sequence[Trace] = (),
    by: str = "validity", dtype: str = "float32", device: str = "cpu",
    progress: Progress | None = None,
) -> Survey:
    """Score the probe with every checkpoint of a run.

    Args:
        run: a Trainer's output folder.
        probe: the traces and their scorer.
        base: the model that adapters belong to, in place of the one they name.
        truth: name or step of a checkpoint -> its true accuracy in [0, 1].
        questions: asked of every checkpoint, whose accuracy on them is then the true one; each
            needs a target.
        asking: how they are asked.
        own: score the answers to the questions as well, as criteria ``own_<name>``.
        heldout: traces whose mean negative log-likelihood (nats a token) is the validation loss,
            for runs whose Trainer measured none; without them, that of the probe's valid traces.
        by: the criterion that ranks the checkpoints.
        dtype: of the models.
        device: where they run.
        progress: called with (done, total) checkpoints.

    Raises:
        ParameterError: no checkpoints, a truth of none of them, or an unknown criterion.
        ModelError: none of the checkpoints could be read; says why of the first.
    """
    found = find_checkpoints(run)
    known = _truths(truth or {}, found)
    measured = all(c.eval_loss is not None for c in found)
    rows = []
    for i, checkpoint in enumerate(found):
        def read(checkpoint: Checkpoint = checkpoint) -> tuple[dict[str, float], float | None]:
            loaded = load_checkpoint(checkpoint, base=base, dtype=dtype, device=device,
                                     artifact_base=probe.base)
            values = _values(loaded, probe, checkpoint if measured else None, heldout)
            own_right = _asked(loaded, probe, questions, asking or Asking(), own, values)
            return values, own_right

        rows.append(_row(checkpoint, read, known.get(checkpoint.step)))
        if progress is not None:
            progress(i + 1, len(found))
    return _survey(tuple(rows), by, probe.chosen, _source(measured, heldout))


def _survey(rows: tuple[CheckpointRow, ...], by: str, score: str, source: str) -> Survey:
    if all(row.error for row in rows):
        raise ParameterError(f"none of {len(rows)} checkpoints could be scored; "
                             f"{rows[0].name}: {rows[0].error}")
    known = [c.name for c in criteria_of(rows)[1:]]
    if by not in known:
        raise ParameterError(f"no criterion {by!r} to rank by; there are: {', '.join(known)}")
    return Survey(rows, by, score, source)


def _row(
    checkpoint: Checkpoint, read: Callable[[], tuple[dict[str, float], float | None]],
    truth: float | None,
) -> CheckpointRow:
    name = checkpoint.path.name
    try:
        values, right = read()
    except (ValidatorError, OSError) as error:
        return CheckpointRow(name, checkpoint.step, {}, truth, str(error), checkpoint.notes)
    return CheckpointRow(name, checkpoint.step, values, right if truth is None else truth, None,
                         checkpoint.notes)


def _values(
    loaded: Any, probe: Probe, measured: Checkpoint | None, heldout: Sequence[Trace]
) -> dict[str, float]:
    scores = probe.read(loaded.model, loaded.tokenizer)
    values = scores.means()
    if measured is not None and measured.eval_loss is not None:
        loss: float | None = measured.eval_loss
    elif heldout:
        loss = -probe.mean_logprob(loaded.model, loaded.tokenizer, heldout)
    else:
        loss = scores.valid_nll()
    return values if loss is None else {**values, LOSS: loss}


def _asked(
    loaded: Any, probe: Probe, questions: Sequence[Question], asking: Asking, own: bool,
    values: dict[str, float],
) -> float | None:
    """Accuracy on the questions; the scores of the answers are put among the values."""
    if not questions:
        return None
    answers = own_answers(loaded.model, loaded.tokenizer, questions, asking)
    if own:
        found = probe.read(loaded.model, loaded.tokenizer, answers).means()
        # Whether its validity ranks its own right answers first is no longer a label-free matter.
        values |= {OWN + n: v for n, v in found.items() if n != "validity_auroc"}
    return accuracy(answers)


def _truths(truth: Mapping[str, float], found: Sequence[Checkpoint]) -> dict[int, float]:
    steps = {key: c.step for c in found for key in (c.path.name, str(c.step))}
    unknown = [key for key in truth if key not in steps]
    if unknown:
        raise ParameterError(
            f"an accuracy is given for {unknown[0]!r}, which is none of the checkpoints "
            f"{', '.join(c.path.name for c in found)}")
    bad = {k: v for k, v in truth.items() if not 0 <= v <= 1}
    if bad:
        raise ParameterError(f"accuracies must lie in [0, 1], got {bad}")
    return {steps[key]: value for key, value in truth.items()}


def _source(measured: bool, heldout: Sequence[Trace]) -> str:
    if measured:
        return "eval_loss of the Trainer"
    which = "held-out traces" if heldout else "valid traces of the probe"
    return f"mean negative log-likelihood of the {which}, nats a token"
