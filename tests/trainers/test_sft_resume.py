"""Supervised training that is stopped and resumed is the one that was not stopped, to the last bit."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from cib_rl.errors import UserError
from cib_rl.trainers import sft
from cib_rl.trainers.sft import run_sft
from cib_rl.trainers.sft_checkpoint import STATE
from cib_rl.trainers.sft_settings import SFTSettings
from tests.conftest import build_tiny_tokenizer

SHAPE = {"hidden_size": 32, "layers": 1, "heads": 2, "intermediate_size": 48, "max_positions": 256}


class Stopped(Exception):
    """Raised in the middle of a training."""


def settings(folder, **changes):
    keys = {"shape": SHAPE, "steps": 14, "batch_size": 4, "log_every": 3, "save_every": 4, "max_length": 240, **changes}
    return SFTSettings.model_validate({"output": folder, "models": {"policy": keys, "prior": {**keys, "blind": True}}})


def rows(path, count=9):
    path.write_text(
        "".join(json.dumps({"prompt": f"{a}+{a}=", "completion": f" {2 * a}"}) + "\n" for a in range(count))
    )
    return str(path)


def stop_after(monkeypatch, steps):
    """Training stops after so many steps of all models together."""
    left = [steps]
    step = sft._step

    def counted(*args):
        if not left[0]:
            raise Stopped
        left[0] -= 1
        return step(*args)

    monkeypatch.setattr(sft, "_step", counted)
    return lambda: monkeypatch.setattr(sft, "_step", step)


def lines(folder):
    found = [json.loads(line) for line in (folder / "sft_log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("seconds", "tokens_per_second")} for line in found]


def quiet(line):
    """A report that shows nothing."""


@pytest.mark.parametrize(
    ("changes", "stop"),
    [({}, 6), ({"optimizer": "adamw"}, 13), ({"autocast_bf16": True}, 14 + 9), ({"data": "countdown"}, 10), ({}, 2)],
    ids=["muon", "adamw, log and copies out of step", "the second model", "demonstrations", "before any copy"],
)
def test_a_stopped_training_becomes_the_one_that_was_not_stopped(tmp_path, monkeypatch, changes, stop):
    changes = {"data": rows(tmp_path / "rows.jsonl"), "vocab_size": 280, **changes}  # 9 rows: an epoch is 2.25 steps
    run_sft(settings(tmp_path / "whole", **changes), quiet)
    again = stop_after(monkeypatch, stop)
    with pytest.raises(Stopped):
        run_sft(settings(tmp_path / "cut", **changes), quiet)
    again()
    if stop == 2:  # nothing was saved: nothing to resume, and nothing in the way
        with pytest.raises(UserError, match="holds nothing to resume"):
            run_sft(settings(tmp_path / "cut", **changes), quiet, resume=True)
    torch.manual_seed(99)
    reported = []
    run_sft(settings(tmp_path / "cut", **changes), reported.append, resume=stop != 2)
    for name in ("policy", "prior"):
        one, other = (load_file(tmp_path / run / name / "model.safetensors") for run in ("whole", "cut"))
        assert set(one) == set(other) and all(torch.equal(one[key], other[key]) for key in one)
        assert lines(tmp_path / "whole" / name) == lines(tmp_path / "cut" / name)
    assert len(reported) == 2 * 5 - stop // 14 * 5 - (stop % 14) // 4 * 4 // 3  # none is reported twice
    assert not list(tmp_path.rglob(STATE)) and not list(tmp_path.rglob("*.partial"))


def test_dropout_draws_the_numbers_it_would_have_drawn(tmp_path, monkeypatch, make_tiny_model):
    model = make_tiny_model()
    model.config.attention_dropout = 0.5
    model.save_pretrained(tmp_path / "model")
    build_tiny_tokenizer().save_pretrained(tmp_path / "model")
    keys = {"data": rows(tmp_path / "rows.jsonl"), "model": str(tmp_path / "model"), "steps": 6}
    run_sft(settings(tmp_path / "whole", **keys), quiet)
    again = stop_after(monkeypatch, 5)
    with pytest.raises(Stopped):
        run_sft(settings(tmp_path / "cut", **keys), quiet)
    again()
    torch.manual_seed(99)
    run_sft(settings(tmp_path / "cut", **keys), quiet, resume=True)
    one, other = (load_file(tmp_path / run / "policy" / "model.safetensors") for run in ("whole", "cut"))
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_only_the_newest_copy_holds_the_state(tmp_path, monkeypatch):
    stop_after(monkeypatch, 13)
    with pytest.raises(Stopped):
        run_sft(settings(tmp_path / "out", data=rows(tmp_path / "rows.jsonl"), vocab_size=280), quiet)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["policy-step12", "policy-step4", "policy-step8"]
    assert [p.parent.name for p in tmp_path.rglob(STATE)] == ["policy-step12"]


def test_a_finished_output_is_left_as_it_is(tmp_path):
    keys = {"data": rows(tmp_path / "rows.jsonl"), "vocab_size": 280, "steps": 1}
    run_sft(settings(tmp_path / "out", **keys), quiet)
    reported = []
    run_sft(settings(tmp_path / "out", **keys), reported.append, resume=True)
    assert reported == []


def test_other_settings_or_rows_are_not_gone_on_with(tmp_path, monkeypatch):
    file = rows(tmp_path / "rows.jsonl")
    keys = {"data": file, "vocab_size": 280}
    again = stop_after(monkeypatch, 6)
    with pytest.raises(Stopped):
        run_sft(settings(tmp_path / "out", **keys), quiet)
    again()
    with pytest.raises(UserError, match=r"policy-step4 was made by other settings: .*learning_rate"):
        run_sft(settings(tmp_path / "out", **keys, learning_rate=1e-3), quiet, resume=True)
    rows(tmp_path / "rows.jsonl", 8)
    with pytest.raises(UserError, match=r"the rows are not those that .*policy-step4 was trained on"):
        run_sft(settings(tmp_path / "out", **keys), quiet, resume=True)
    rows(tmp_path / "rows.jsonl")
    run_sft(settings(tmp_path / "out", **keys, log_every=1), quiet, resume=True)
    with pytest.raises(UserError, match=r"policy was made by other settings: .*steps"):
        run_sft(settings(tmp_path / "out", **keys, steps=20), quiet, resume=True)


def test_without_resume_copies_of_a_stopped_training_are_in_the_way(tmp_path, monkeypatch):
    keys = {"data": rows(tmp_path / "rows.jsonl"), "vocab_size": 280}
    again = stop_after(monkeypatch, 6)
    with pytest.raises(Stopped):
        run_sft(settings(tmp_path / "out", **keys), quiet)
    again()
    with pytest.raises(UserError, match=r"policy-step4 exists already; choose another output.*or go on with --resume"):
        run_sft(settings(tmp_path / "out", **keys), quiet)
    (tmp_path / "out" / "policy-step4" / STATE).unlink()
    with pytest.raises(UserError, match=r"policy-step4 has no sft_state.pt"):
        run_sft(settings(tmp_path / "out", **keys), quiet, resume=True)
