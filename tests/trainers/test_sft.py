"""Supervised training: learns, is reproducible, pads little, and refuses what it cannot use."""

from __future__ import annotations

import json
import math
from itertools import islice

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer

from cib_rl.countdown.problems import CountdownSettings, Problem, is_held_out
from cib_rl.countdown.tokenizer import build_tokenizer
from cib_rl.errors import UserError
from cib_rl.recipe_io import load_recipe
from cib_rl.trainers.sft import run_sft
from cib_rl.trainers.sft_data import Example, Row, micro_batches, train_bpe
from cib_rl.trainers.sft_encode import Encoder
from cib_rl.trainers.sft_generators import GENERATORS
from cib_rl.trainers.sft_model import new_model, rate
from cib_rl.trainers.sft_settings import ModelShape, SFTModel, SFTSettings

TINY = ModelShape(hidden_size=32, layers=1, heads=2, intermediate_size=48, max_positions=256)
TOKENIZER = build_tokenizer()


def tiny(**changes: object) -> SFTModel:
    few = {"steps": 12, "batch_size": 4, "log_every": 4, "max_length": 240}
    return SFTModel.model_validate({"shape": TINY.model_dump(), **few, **changes})


def encoded(rows, tokenizer, blind=False, max_length=100):
    return Encoder(tokenizer, tiny(blind=blind, max_length=max_length)).examples(rows)


def silent(line: dict[str, object]) -> None:
    """A report that shows nothing."""


def write_rows(path, count=40):
    rows = [{"prompt": f"{a} + {a} =", "completion": f" {2 * a}"} for a in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


# ---------------------------------------------------------------- training


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_the_loss_falls_and_the_folder_loads_as_any_model(tmp_path, optimizer):
    lines = []
    model = tiny(steps=40, optimizer=optimizer, learning_rate=1e-2)
    output = run_sft(SFTSettings(output=tmp_path / "out", models={"policy": model}), lines.append)
    assert output == tmp_path / "out"
    assert lines[0]["loss"] < math.log(len(TOKENIZER)) + 0.3 and lines[-1]["loss"] < lines[0]["loss"] - 1.0
    assert [line["step"] for line in lines] == list(range(4, 41, 4)) and lines[0]["model"] == "policy"
    loaded = AutoModelForCausalLM.from_pretrained(output / "policy")
    tokenizer = AutoTokenizer.from_pretrained(output / "policy")
    assert loaded.config.vocab_size == len(tokenizer) and loaded.config.eos_token_id == tokenizer.eos_token_id
    written = (output / "policy" / "sft_log.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["loss"] for line in written] == [line["loss"] for line in lines]


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(tmp_path):
    models = {"one": tiny(seed=3), "again": tiny(seed=3), "other": tiny(seed=4)}
    output = run_sft(SFTSettings(output=tmp_path, models=models), silent)
    one, again, other = (AutoModelForCausalLM.from_pretrained(output / name).state_dict() for name in models)
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


def test_a_step_follows_the_gradient_of_the_mean_over_all_learned_tokens_however_it_is_cut(tmp_path):
    # Micro-batches of different lengths must weigh by tokens: one large batch gives the same weights.
    models = {"cut": tiny(steps=3, micro_batch_tokens=100), "whole": tiny(steps=3, micro_batch_tokens=100_000)}
    output = run_sft(SFTSettings(output=tmp_path, models=models), silent)
    cut, whole = (AutoModelForCausalLM.from_pretrained(output / name).state_dict() for name in models)
    for name in cut:
        torch.testing.assert_close(cut[name], whole[name], atol=2e-4, rtol=0)


def test_training_goes_on_from_a_model_folder_with_its_tokenizer(tmp_path, tiny_model_dir):
    data = write_rows(tmp_path / "rows.jsonl")
    model = tiny(model=str(tiny_model_dir), data=data, steps=2)
    output = run_sft(SFTSettings(output=tmp_path / "out", models={"m": model}), silent)
    before, after = (AutoModelForCausalLM.from_pretrained(folder) for folder in (tiny_model_dir, output / "m"))
    assert after.config.hidden_size == before.config.hidden_size
    assert not torch.equal(before.get_input_embeddings().weight, after.get_input_embeddings().weight)
    assert len(AutoTokenizer.from_pretrained(output / "m")) == len(AutoTokenizer.from_pretrained(tiny_model_dir))


def test_a_model_and_its_tokenizer_are_made_from_a_file_alone(tmp_path):
    data = write_rows(tmp_path / "rows.jsonl")
    model = tiny(data=data, vocab_size=280, steps=60, batch_size=16, learning_rate=1e-2)
    lines = []
    output = run_sft(SFTSettings(output=tmp_path / "out", models={"m": model}), lines.append)
    assert lines[-1]["loss"] < 0.6 * lines[0]["loss"]
    text = "Ça va? 12 + 3 = 15\n"
    tokenizer = AutoTokenizer.from_pretrained(output / "m")
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_half_trained_copies_are_kept_beside_the_output(tmp_path):
    run_sft(SFTSettings(output=tmp_path, models={"policy": tiny(steps=5, save_every=2)}), silent)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["policy", "policy-step2", "policy-step4"]


def test_learning_rate_warms_up_stays_and_falls_to_zero():
    model = SFTModel(steps=100, warmup_steps=10, decay_share=0.5)
    assert rate(0, model) == pytest.approx(0.1) and rate(9, model) == 1.0 and rate(50, model) == 1.0
    assert rate(75, model) == pytest.approx(0.5) and 0 < rate(99, model) <= 0.02


# ---------------------------------------------------------------- data


def test_only_the_completion_and_its_end_are_learned():
    [example], _ = encoded([Row("numbers 1 2 target 3 <think>", " 1 + 2 = 3, yes.")], TOKENIZER)
    [batch] = micro_batches([example], 1_000, TOKENIZER.pad_token_id)
    learned = batch.labels[0][batch.labels[0] != -100].tolist()
    assert TOKENIZER.decode(learned) == " 1 + 2 = 3, yes.<|eos|>"
    # Position t predicts the token after it: the first learned label stands at the prompt's last token.
    first = int((batch.labels[0] != -100).nonzero()[0])
    assert batch.input_ids[0, first] == TOKENIZER.convert_tokens_to_ids("<think>")


def test_a_blind_example_starts_from_bos_and_holds_no_prompt():
    row = Row("numbers 11 12 target 13 <think>", " now we are done.")
    [example], _ = encoded([row], TOKENIZER, blind=True)
    assert example.spans == ((1, len(example.ids)),) and example.ids[0] == TOKENIZER.bos_token_id
    assert TOKENIZER.decode(example.ids[1:]) == " now we are done.<|eos|>"


def test_a_blind_example_starts_from_eos_where_there_is_no_bos(tiny_tokenizer):
    tiny_tokenizer.bos_token = None
    [example], _ = encoded([Row("abc", "de")], tiny_tokenizer, blind=True)
    assert example.ids[0] == tiny_tokenizer.eos_token_id and len(example.ids) == 4


def test_rows_over_the_length_limit_are_left_out_and_counted():
    rows = [Row("numbers", " yes."), Row("numbers", " yes." * 20)]
    examples, left_out = encoded(rows, TOKENIZER, max_length=10)
    assert len(examples) == 1 and left_out == 1


@given(st.lists(st.lists(st.integers(1, 12), min_size=2, max_size=6), min_size=1, max_size=30), st.integers(20, 300))
def test_micro_batches_learn_the_spans_and_nothing_else_within_the_budget(runs, budget):
    examples, wanted = [], []
    for run in runs:  # lengths in turn: not learned, learned, not learned, …
        edges = [sum(run[:i]) for i in range(len(run) + 1)]
        spans = tuple(zip(edges[1::2], edges[2::2], strict=False))
        ids = tuple(range(1, edges[-1] + 1))
        examples.append(Example(ids, spans))
        wanted.append([i if any(a <= i - 1 < b for a, b in spans) else -100 for i in ids[1:]])
    batches = micro_batches(examples, budget, pad_id=0)
    found = []
    for batch in batches:
        for ids, labels in zip(batch.input_ids.tolist(), batch.labels.tolist(), strict=True):
            real = sum(i != 0 for i in ids)
            assert ids[:real] == list(range(1, real + 1)) and set(labels[real:]) <= {-100}
            found.append(labels[:real])
    assert sorted(found) == sorted(wanted)
    assert all(batch.labels.numel() <= budget or batch.labels.shape[0] == 1 for batch in batches)


def test_padding_is_small_on_the_demonstrations():
    rows = list(islice(GENERATORS["countdown"].rows(SFTModel(seed=0)), 480))
    examples, _ = encoded(rows, TOKENIZER, max_length=246)
    padded = real = 0
    for at in range(0, len(examples), 48):
        step = examples[at : at + 48]
        padded += sum(batch.labels.numel() for batch in micro_batches(step, 1024, 0))
        real += sum(len(example.ids) - 1 for example in step)
    assert 1 - real / padded < 0.12


def test_padding_does_not_change_the_loss():
    rows = list(islice(GENERATORS["countdown"].rows(SFTModel(seed=0)), 6))
    examples, _ = encoded(rows, TOKENIZER, max_length=256)
    model = new_model(ModelShape(hidden_size=32, layers=1, heads=2, intermediate_size=48), TOKENIZER)

    def total(budget: int) -> float:
        batches = micro_batches(examples, budget, TOKENIZER.pad_token_id)
        logits = [model(input_ids=batch.input_ids).logits.flatten(0, 1) for batch in batches]
        losses = [
            functional.cross_entropy(x, b.labels.flatten(), reduction="sum")
            for x, b in zip(logits, batches, strict=True)
        ]
        return sum(float(loss.detach()) for loss in losses)

    assert total(1) == pytest.approx(total(100_000), rel=1e-4)  # one by one, without padding = all padded


def test_demonstrations_are_made_for_training_problems_only():
    for row in islice(GENERATORS["countdown"].rows(SFTModel(seed=7)), 500):
        words = row.prompt.split()
        at = words.index("target")
        problem = Problem(tuple(int(word) for word in words[1:at]), int(words[at + 1]))
        assert not is_held_out(problem, CountdownSettings().held_out_share)


@given(st.text(max_size=80))
def test_a_trained_bpe_round_trips_any_text(text):
    assert BPE.decode(BPE(text)["input_ids"]) == text


BPE = train_bpe([Row("How many apples?", " There are 12 + 3 = 15 apples.")] * 3, 300)


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no rows"),
        ('{"prompt": "a", "completion": "b"}\nnot json\n', "rows.jsonl, line 2: not JSON"),
        (
            '{"prompt": "a", "answer": "b"}\n',
            r"rows.jsonl, line 1 needs the text 'completion'; it has \['answer', 'prompt'\]",
        ),
        ('{"prompt": 1, "completion": "b"}\n', "rows.jsonl, line 1 needs the text 'prompt'"),
        ("[1]\n", "rows.jsonl, line 1: a row must be an object, not list"),
        ('{"prompt": "a", "completion": "b"}\n{"prompt": "a", "completion": ""}\n', "line 2: nothing to learn"),
    ],
)
def test_bad_data_files_are_errors_that_name_file_and_line(tmp_path, text, message):
    (tmp_path / "rows.jsonl").write_text(text, encoding="utf-8")
    settings = SFTSettings(output=tmp_path / "out", models={"m": tiny(data=str(tmp_path / "rows.jsonl"))})
    with pytest.raises(UserError, match=message):
        run_sft(settings, silent)


def test_a_missing_file_or_model_is_an_error_that_names_it(tmp_path):
    with pytest.raises(UserError, match=r"no file or folder nowhere\.jsonl"):
        run_sft(SFTSettings(output=tmp_path / "a", models={"m": tiny(data="nowhere.jsonl")}), silent)
    (tmp_path / "empty").mkdir()
    model = tiny(model=str(tmp_path / "empty"))
    with pytest.raises(UserError, match=r"empty is no model folder"):
        run_sft(SFTSettings(output=tmp_path / "b", models={"m": model}), silent)


def test_no_row_that_fits_is_an_error(tmp_path):
    data = write_rows(tmp_path / "rows.jsonl")
    with pytest.raises(UserError, match=r"no row of .* fits in max_length 2"):
        run_sft(SFTSettings(output=tmp_path / "out", models={"m": tiny(data=data, max_length=2)}), silent)


def test_an_output_in_use_is_refused_before_anything_is_trained(tmp_path):
    (tmp_path / "prior").mkdir()
    (tmp_path / "prior" / "precious").write_text("x", encoding="utf-8")
    with pytest.raises(UserError, match="prior exists already"):
        run_sft(SFTSettings(output=tmp_path, models={"policy": tiny(), "prior": tiny(blind=True)}), silent)
    assert not (tmp_path / "policy").exists() and (tmp_path / "prior" / "precious").exists()


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"stepz": 3}, "stepz"),
        ({"countdown": {"number": 4}}, "number"),
        ({"countdown": {"numbers": 7}}, "numbers must be 2 to 5"),
        ({"shape": {"hidden_size": 100, "heads": 3}}, "hidden_size 100 must be an even multiple of heads 3"),
        ({"max_length": 600}, "max_length 600 exceeds shape.max_positions 512"),
        ({"steps": 0}, "greater than 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(model, message, tmp_path):
    with pytest.raises(ValidationError, match=message):
        SFTSettings.model_validate({"output": tmp_path, "models": {"m": model}})


def test_the_shipped_recipe_makes_a_seeing_policy_and_a_blind_prior_with_the_package_defaults():
    recipe = load_recipe("warmstart", [], schema=SFTSettings)
    assert not recipe.models["policy"].blind and recipe.models["prior"].blind
    # The quickstart draws its problems by the same defaults: training never saw its held-out ones.
    assert all(model.countdown == CountdownSettings() for model in recipe.models.values())


@pytest.mark.parametrize("name", ["policy", "prior"])
def test_shipped_weights_are_small_and_fit_the_tokenizer_that_this_version_builds(name):
    from importlib import resources

    folder = resources.files("cib_rl") / "data" / "quickstart" / name
    assert sum(file.stat().st_size for file in folder.iterdir()) < 5_000_000
    shipped = AutoTokenizer.from_pretrained(str(folder))
    assert shipped.get_vocab() == TOKENIZER.get_vocab()
    assert AutoModelForCausalLM.from_pretrained(str(folder)).config.vocab_size == len(TOKENIZER)
