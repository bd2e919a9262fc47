"""Runs on disk: what is written, that it is true, and that it is read again."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from validator.errors import ParameterError
from validator.models.loading import load_model
from validator.plugins.checkpoints import find_checkpoints
from validator.windtunnels.bijection import BijectionTunnel
from validator.windtunnels.runs import RECORD, Run, Schedule, read_run, train_run
from validator.windtunnels.settings import (
    TUNNELS,
    changed_tunnel,
    settings_of,
    tunnel_class,
    tunnel_from_json,
)
from validator.windtunnels.subjects import SUBJECTS, TEST_SEED, Subject, find_subject
from validator.windtunnels.tree import TreePathTunnel

TINY = Subject("tiny", TreePathTunnel(nodes=(5, 6), depth=(2, 3), dummies=(0, 1), labels=8),
               "edges", 12)
PAIRS = Subject("pairs", BijectionTunnel(4), "pairs", 4)


@pytest.fixture(scope="module")
def walks(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("runs") / "walks"
    return train_run(TINY, folder, Schedule(seed=3, checkpoints=2, problems=8))


@pytest.mark.parametrize("name", TUNNELS)
def test_settings_of_every_tunnel_survive_json(name: str) -> None:
    tunnel = tunnel_class(name)()
    text = json.dumps(settings_of(tunnel))
    assert tunnel_from_json(name, json.loads(text)) == tunnel


def test_settings_are_read_by_their_types() -> None:
    tree = changed_tunnel(TreePathTunnel(), {"nodes": "9,12", "task": "direct", "branching": "2"})
    assert tree == TreePathTunnel(nodes=(9, 12), task="direct", branching=2)
    pairs = changed_tunnel(BijectionTunnel(), {"repeat": "True", "pairs": "7"})
    assert pairs == BijectionTunnel(repeat=True, pairs=7)
    assert changed_tunnel(pairs, {"pairs": "none"}) == BijectionTunnel(repeat=True)
    sula = changed_tunnel(tunnel_class("sula")(), {"words": "a,b,c", "reliability": "0.8"})
    assert (sula.words, sula.reliability) == (("a", "b", "c"), 0.8)


@pytest.mark.parametrize(("settings", "said"), [
    ({"node": "3,4"}, "no setting 'node'; it has: task, nodes"),
    ({"nodes": "3"}, "nodes must be two whole numbers"),
    ({"nodes": "9,x"}, "nodes must be two whole numbers"),
    ({"branching": "1"}, "branching must be 2 or more")])
def test_bad_settings_are_told(settings: dict[str, str], said: str) -> None:
    with pytest.raises(ParameterError, match=said):
        changed_tunnel(TreePathTunnel(), settings)
    with pytest.raises(ParameterError, match="repeat must be true or false, got 'yes'"):
        changed_tunnel(BijectionTunnel(), {"repeat": "yes"})


def test_unknown_names_are_told_the_known_ones() -> None:
    with pytest.raises(ParameterError, match="no subject 'edges'; there are: edges-16"):
        find_subject("edges")
    with pytest.raises(ParameterError, match="no tunnel 'edges'; there are: tree, filter-sort"):
        tunnel_class("edges")


def test_a_subject_draws_the_same_problems_each_time() -> None:
    for subject in SUBJECTS.values():
        first = subject.problems(3)
        assert [p.id for p in first] == [p.id for p in subject.problems(3)]
        assert [p.id for p in subject.problems(3, seed=1)] != [p.id for p in first]
    with pytest.raises(ParameterError, match="at least 1 problem"):
        TINY.problems(0)


def test_a_run_has_a_checkpoint_at_every_place_and_is_read_again(walks: Run) -> None:
    assert [c.step for c in walks.checkpoints] == [0, 6, 12]
    assert walks.last.name == "checkpoint-12"
    assert read_run(walks.folder) == walks
    assert walks.schedule == Schedule(3, 12, None, None, 2, 8)
    found = json.loads((walks.folder / RECORD).read_text())
    assert found["versions"]["torch"] == torch.__version__
    assert len(found["losses"]) == found["steps"] == 12


def test_losses_and_accuracies_are_those_of_the_saved_checkpoints(walks: Run) -> None:
    """Recomputed from the files: logits of everything, answers token by token without a cache."""
    batch = TINY.tunnel.token_batch(np.random.default_rng(TEST_SEED + 1), 512, "edges")
    ids, labels = torch.from_numpy(batch.ids), torch.from_numpy(batch.labels)
    loaded = load_model(walks.last)
    with torch.inference_mode():
        logits = loaded.model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    loss = functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    assert walks.checkpoints[-1].loss == pytest.approx(float(loss), rel=1e-4)
    right = [answered(loaded, trace.prompt) == trace.completion
             for trace in (TINY.tunnel.render(p, "edges") for p in TINY.problems(8))]
    assert walks.checkpoints[-1].exact == np.mean(right)


def answered(loaded: Any, prompt: str) -> str:
    ids = loaded.tokenizer(prompt)["input_ids"]
    asked = len(ids)
    while len(ids) < asked + 12 and (len(ids) == asked or ids[-1] != 2):
        with torch.inference_mode():
            ids.append(int(loaded.model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    return " ".join(loaded.tokenizer.convert_ids_to_tokens(ids[asked:-1]))


def test_the_files_are_what_checkpoint_ranking_looks_for(walks: Run) -> None:
    found = find_checkpoints(walks.folder)
    assert [(c.step, c.eval_loss) for c in found] == [(c.step, c.loss) for c in walks.checkpoints]
    truth = json.loads((walks.folder / "truth.json").read_text())
    assert truth == {c.name: c.exact for c in walks.checkpoints}


def test_what_is_measured_is_not_trained_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch
                                            ) -> None:
    seen: dict[str, Any] = {}
    original = Subject.train

    def train(self: Subject, model: Any, **options: Any) -> Any:
        seen.update(options)
        return original(self, model, **options)

    monkeypatch.setattr(Subject, "train", train)
    train_run(PAIRS, tmp_path, Schedule(checkpoints=1, problems=5))
    batch = PAIRS.tunnel.token_batch(np.random.default_rng(TEST_SEED + 1), 512, "pairs")
    assert seen["held_out"] == {*(p.id for p in PAIRS.problems(5)), *batch.problem_ids}


def test_a_run_of_evidence_records_entropy_errors(tmp_path: Path) -> None:
    run = train_run(replace(PAIRS, tunnel=BijectionTunnel(5)), tmp_path / "run",
                    Schedule(steps=3, checkpoints=1, problems=3))
    assert [c.exact for c in run.checkpoints] == [None, None]
    assert all(c.entropy_mae_bits is not None and c.entropy_mae_bits > 0 for c in run.checkpoints)
    assert not (tmp_path / "run" / "truth.json").exists()


def test_out_of_time_the_last_checkpoint_is_where_it_ended(tmp_path: Path) -> None:
    run = train_run(TINY, tmp_path / "run", Schedule(steps=10, checkpoints=1, problems=2,
                                                     budget_seconds=0.0))
    assert (run.training.stopped, [c.step for c in run.checkpoints]) == ("budget", [0])
    assert run.last.is_dir()


def test_another_first_model_is_trained_in_place(tmp_path: Path) -> None:
    model = TINY.untrained(7)
    run = train_run(TINY, tmp_path / "run", Schedule(steps=2, checkpoints=1, problems=2),
                    model=model)
    rows = torch.tensor([[3, 4, 5]])
    with torch.inference_mode():
        torch.testing.assert_close(load_model(run.last).model(input_ids=rows).logits,
                                   model(input_ids=rows).logits)


def test_runs_are_not_written_over_and_bad_records_are_told(walks: Run, tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="holds a run already"):
        train_run(TINY, walks.folder, Schedule())
    for schedule, said in (
            (Schedule(checkpoints=0), "checkpoints must be 1 or more"),
            (Schedule(learning_rate=0.0), "learning_rate must be above 0"),
            (Schedule(budget_seconds=-1.0), "budget_seconds must be 0 or more"),
            (Schedule(steps=0), "max_steps must be 1 or more"),
            (Schedule(problems=0), "at least 1 problem")):
        with pytest.raises(ParameterError, match=said):
            train_run(TINY, tmp_path / "other", schedule)
        assert not (tmp_path / "other").exists()
    with pytest.raises(ParameterError, match=f"holds no {RECORD}"):
        read_run(tmp_path)
    (tmp_path / RECORD).write_text(json.dumps({"subject": asdict(PAIRS)}))
    with pytest.raises(ParameterError, match="is no record of a run"):
        read_run(tmp_path)
