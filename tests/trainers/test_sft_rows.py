"""Files, conversations and trajectories that supervised training reads, and the rows it refuses or leaves out."""

from __future__ import annotations

import gzip
import json

import pytest
import torch
from transformers import AutoModelForCausalLM

from cib_rl.errors import UserError
from cib_rl.rollout import finish
from cib_rl.trainers.sft import encode, read, run_sft
from cib_rl.trainers.sft_data import Row, train_bpe
from cib_rl.trainers.sft_encode import Encoder
from cib_rl.trainers.sft_rows import read_data
from cib_rl.trainers.sft_settings import SFTModel, SFTSettings
from cib_rl.trajectory import Segment, StopReason, Trajectory
from cib_rl.trajectory_io import write_trajectories
from tests.conftest import build_tiny_tokenizer
from tests.trained_tokenizers import byte_level, unigram

NAN = float("nan")
TAGGED = "<search>a</search><information>Doc 1 b</information><answer>c</answer>"


def write(path, rows):
    with (gzip.open if path.suffix == ".gz" else open)(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n\n" for row in rows)
    return path


def settings(path, **keys):
    return SFTModel(data=str(path), shape={"max_positions": 4000}, **{"max_length": 400, **keys})


def talk(*texts):
    roles = ["user", "assistant"] * len(texts)
    return [{"role": role, "content": text} for role, text in zip(roles, texts, strict=False)]


# ---------------------------------------------------------------- texts and messages


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz"])
def test_texts_and_conversations_are_read_by_their_columns(tmp_path, name):
    path = write(tmp_path / name, [{"prompt": "a", "completion": "b", "more": 1}] * 2)
    data = read_data(path, {}, {})
    assert data.kind == "texts" and [(r.prompt, r.completion) for r in data.rows] == [("a", "b")] * 2
    assert data.rows[1].where.endswith(f"{name}, line 3")
    path = write(tmp_path / name, [{"q": "a", "says": talk("x", "y", "z"), "tools": [{"name": "t"}]}])
    data = read_data(path, {"messages": "says"}, {})
    assert data.kind == "messages" and data.rows[0].messages == talk("x", "y") and data.rows[0].tools == [{"name": "t"}]


def test_a_conversation_without_its_question_gets_it_from_a_column(tmp_path):
    path = write(tmp_path / "rows.jsonl", [{"question": "who", "messages": talk("x", "y")[1:]}])
    [row] = read_data(path, {"prompt": "question"}, {}).rows
    assert row.messages == talk("who", "y")
    with pytest.raises(UserError, match=r"line 1: the first message is the assistant's; say which column"):
        read_data(path, {}, {})


def test_rows_are_chosen_by_what_their_columns_hold(tmp_path):
    rows = [{"prompt": str(i), "completion": "b", "ok": i % 2 == 0, "a": {"b": i}} for i in range(6)]
    rows.append({"prompt": "6", "completion": "b"})
    path = write(tmp_path / "rows.jsonl", rows)
    data = read_data(path, {}, {"ok": True})
    assert [row.prompt for row in data.rows] == ["0", "2", "4"] and data.notes == ["4 of 7 rows left out by where"]
    assert [row.prompt for row in read_data(path, {}, {"ok": True, "a.b": 4}).rows] == ["4"]
    with pytest.raises(UserError, match="none of 7 rows meets where; in the first one ok is True, fine is not there"):
        read_data(path, {}, {"ok": True, "fine": 1})


def test_blocks_are_left_out_where_the_protocol_is_named_and_refused_where_it_is_not(tmp_path):
    tokenizer = byte_level()
    path = write(tmp_path / "rows.jsonl", [{"prompt": "who", "completion": TAGGED}])
    plain = settings(path)
    with pytest.raises(UserError, match=r"line 1: the completion holds <information>.*environment: {name: search}"):
        encode(read(plain), plain, tokenizer)
    named = settings(
        path, environment={"name": "search", "preset": "search_r1", "retriever": {"name": "bm25"}}, max_length=4000
    )
    [example], _ = encode(read(named), named, tokenizer)
    own = [tokenizer.decode(example.ids[a:b]) for a, b in example.spans]
    assert own == ["<search>a</search>", f"<answer>c</answer>{tokenizer.eos_token}"]
    assert tokenizer.decode(example.ids).startswith("Answer the given question.")


def test_an_episode_that_ends_in_a_search_has_no_end_of_sequence_and_no_documents_after_it(tmp_path):
    tokenizer = byte_level()
    ends = ["<search>a</search>", "<search>a</search>\n<information>Doc 1 b</information>\n"]
    path = write(tmp_path / "rows.jsonl", [{"prompt": "who", "completion": end} for end in ends])
    model = settings(path, environment={"name": "search"}, max_length=4000)
    examples, _ = encode(read(model), model, tokenizer)
    assert [tokenizer.decode(e.ids[e.spans[0][0] :]) for e in examples] == ["<search>a</search>"] * 2


def test_a_blind_prior_reads_documents_but_no_question(tmp_path):
    tokenizer = byte_level()
    path = write(tmp_path / "rows.jsonl", [{"prompt": "who", "completion": TAGGED}])
    model = settings(path, environment={"name": "search"}, blind=True)
    [example], _ = encode(read(model), model, tokenizer)
    assert example.ids[0] == tokenizer.eos_token_id and example.spans[0][0] == 1
    assert tokenizer.decode(example.ids[1:]).startswith("<search>a</search>\n\n<information>Doc 1 b")


def test_long_rows_are_left_out_and_counted_or_refused_but_never_cut(tmp_path):
    path = write(tmp_path / "rows.jsonl", [{"messages": talk("x", "y" * 30 * n)} for n in (1, 40, 2)])
    model = settings(path)
    examples, notes = encode(read(model), model, build_tiny_tokenizer())
    assert [len(e.ids) for e in examples] == [33, 63]
    assert notes == ["1 of 3 rows are longer than max_length 400: left out"]
    strict = settings(path, long_rows="refuse")
    with pytest.raises(UserError, match=r"line 3: 1,203 tokens, more than max_length 400"):
        encode(read(strict), strict, build_tiny_tokenizer())


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "a", "completion": ""}, "line 3: nothing to learn: the completion is empty"),
        ({"prompt": "a", "completion": "<information>a</information>"}, "line 3: nothing to learn: .* documents alone"),
        ({"prompt": "a", "completion": "<information>a"}, "line 3: <information> without its counterpart"),
        ({"prompt": "a", "messages": talk("a", "b")}, "line 3 needs the text 'completion'"),
    ],
)
def test_rows_with_nothing_to_learn_are_refused_by_line(tmp_path, row, message):
    model = settings(
        write(tmp_path / "r.jsonl", [{"prompt": "a", "completion": "b"}, row]), environment={"name": "search"}
    )
    with pytest.raises(UserError, match=message):
        encode(read(model), model, byte_level())


def test_a_conversation_without_the_assistant_is_refused_by_line(tmp_path):
    path = write(tmp_path / "rows.jsonl", [{"messages": talk("a", "b")}, {"messages": talk("a")}])
    with pytest.raises(UserError, match="line 3: nothing to learn: no message is the assistant's"):
        read_data(path, {}, {})


def test_words_that_the_tokenizer_does_not_know_are_refused_by_line(tmp_path):
    model = settings(
        write(tmp_path / "rows.jsonl", [{"prompt": "A", "completion": "b"}, {"prompt": "a", "completion": "B"}])
    )
    with pytest.raises(UserError, match="line 3: the tokenizer has no tokens for 1 pieces"):
        encode(read(model), model, build_tiny_tokenizer())


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"environment": {"name": "mine:Env"}}, "texts can be made for single_turn and search"),
        ({"environment": {"preset": "inforage"}}, "unknown key 'preset' of single_turn"),
        ({"environment": {"suffix": "a"}, "suffix": "b"}, "suffix and environment.suffix"),
        ({"environment": {"chat_template": "sometimes"}}, "chat_template"),
        ({"long_rows": "cut"}, "long_rows"),
    ],
)
def test_settings_of_texts_that_make_no_sense_are_refused(keys, message):
    with pytest.raises(ValueError, match=message):
        SFTModel(**keys)


def test_an_unknown_column_is_refused(tmp_path):
    path = write(tmp_path / "rows.jsonl", [{"prompt": "a", "completion": "b"}])
    with pytest.raises(UserError, match="columns: unknown 'response'; known: prompt, completion, messages"):
        read_data(path, {"response": "x"}, {})


# ---------------------------------------------------------------- trajectories


def episode(tokenizer, number, stop=StopReason.EOS, errors=()):
    first, second = Segment(tokenizer.encode("who was it")), Segment(tokenizer.encode("in short"))
    for segment, texts in (
        (first, ["let me", " the docs ", "three", " more docs"]),
        (second, [" that", "is", "right"]),
    ):
        for place, text in enumerate(texts):
            ids = tokenizer.encode(text)
            if (place % 2 == 0) == (segment is first):
                segment.append_policy(ids, [NAN] * len(ids))
            else:
                segment.append_environment(ids)
    made = Trajectory({"id": str(number), "prompt": "p"}, group=number, segments=[first, second], stop_reason=stop)
    finish(made, tokenizer, "tag")
    made.rewards = {"qa_em": float(number % 2)}
    made.errors = list(errors)
    return made


def test_trajectories_give_their_own_tokens_and_mask(tmp_path):
    tokenizer = byte_level()
    played = [episode(tokenizer, n) for n in range(4)]
    write_trajectories(tmp_path / "t.parquet", played, 0)
    model = settings(tmp_path / "t.parquet", where={"rewards.qa_em": 1})
    examples, notes = encode(read(model), model, tokenizer)
    assert notes == ["2 of 4 episodes left out by where"] and len(examples) == 4
    for example, segment in zip(examples[:2], played[1].segments, strict=True):
        # Each token by itself: learned exactly where the policy sampled it; nothing after its last one is kept.
        mask = [0] * len(segment.prompt_ids) + segment.policy_mask
        last = max(i for i, m in enumerate(mask) if m)
        assert list(example.ids) == segment.context_ids[: last + 1]
        assert [int(any(a <= i < b for a, b in example.spans)) for i in range(last + 1)] == mask[: last + 1]
    assert len(examples[0].spans) == 2


def test_failed_and_empty_episodes_are_left_out_and_counted(tmp_path):
    tokenizer = byte_level()
    broken = [episode(tokenizer, 1, errors=["gone"]), episode(tokenizer, 2, stop=StopReason.TIMEOUT)]
    write_trajectories(tmp_path / "t.parquet", [episode(tokenizer, 0), *broken], 0)
    data = read_data(tmp_path / "t.parquet", {}, {})
    assert len(data.rows) == 1 and data.notes == ["2 of 3 episodes failed or are empty: left out"]
    write_trajectories(tmp_path / "t.parquet", broken, 0)
    with pytest.raises(UserError, match="nothing to learn: all episodes failed"):
        read_data(tmp_path / "t.parquet", {}, {})


def test_a_run_folder_is_all_its_windows(tmp_path):
    for n in range(3):
        write_trajectories(tmp_path / "trajectories" / f"step-{n:06d}-rank0.parquet", [episode(byte_level(), n)], n)
    assert len(read_data(tmp_path, {}, {}).rows) == 3


# The last one has tokens for all of these ids: only what they stand for differs.
@pytest.mark.parametrize(
    "other",
    [unigram, build_tiny_tokenizer, lambda: train_bpe([Row(" ".join(map(chr, range(97, 2000))), "")] * 2, 2000)],
)
def test_tokens_of_another_tokenizer_are_refused_by_row(tmp_path, other):
    write_trajectories(tmp_path / "t.parquet", [episode(byte_level(), 0)], 0)
    model = settings(tmp_path / "t.parquet")
    with pytest.raises(UserError, match=r"t.parquet, row 1: its tokens are those of another tokenizer"):
        encode(read(model), model, other())


def test_trajectories_take_no_texts_of_an_environment_and_need_a_tokenizer(tmp_path):
    write_trajectories(tmp_path / "t.parquet", [episode(byte_level(), 0)], 0)
    for keys in ({"suffix": "x"}, {"environment": {"name": "search"}}):
        model = settings(tmp_path / "t.parquet", **keys)
        with pytest.raises(UserError, match="hold their prompts' tokens"):
            encode(read(model), model, byte_level())
    with pytest.raises(UserError, match="name the model or tokenizer they are of"):
        run_sft(SFTSettings(output=tmp_path / "o", models={"m": settings(tmp_path / "t.parquet")}), print)
    with pytest.raises(UserError, match="holds trajectories, whose columns are known"):
        read_data(tmp_path / "t.parquet", {"prompt": "x"}, {})


# ---------------------------------------------------------------- training


def test_the_loss_is_that_of_the_policys_tokens(tmp_path, tiny_model_dir):
    path = write(tmp_path / "rows.jsonl", [{"messages": talk("who?", "it is b", "sure?", "yes")}])
    lines = []
    model = settings(path, model=str(tiny_model_dir), steps=1, batch_size=1, autocast_bf16=False)
    run_sft(SFTSettings(output=tmp_path / "out", models={"m": model}), lines.append)
    tokenizer, network = build_tiny_tokenizer(), AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    text = "who?\n it is b<eos>\nsure?\n yes<eos>"
    ids = [i for part in ("who?\n", "it is b<eos>", "\nsure?\n", "yes<eos>") for i in tokenizer.encode(part)]
    with torch.no_grad():
        logs = network(torch.tensor([ids])).logits[0].log_softmax(-1)
    # By hand: characters 5 to 12 and 20 to 23, each predicted from the position before it.
    wanted = [*range(5, 13), *range(20, 24)]
    assert len(ids) == 24 and text.count("<eos>") == 2
    assert lines[-1]["loss"] == pytest.approx(-sum(float(logs[t - 1, ids[t]]) for t in wanted) / len(wanted), abs=1e-3)


# ---------------------------------------------------------------- real traces


@pytest.mark.data
def test_fireact_and_webdancer_load(data_dir):
    chat = "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content + '<|eos|>' }}{% endfor %}"
    chat += "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    tokenizer = byte_level.__wrapped__(eos="<|eos|>")
    tokenizer.chat_template = chat
    path = data_dir / "traces" / "fireact_trajectories.jsonl.gz"
    data = read_data(path, {}, {"correct": True, "task": "hotpotqa"})
    assert len(data.rows) == 719
    with pytest.raises(UserError, match="line 2039: the first message is the assistant's"):
        read_data(path, {}, {})
    whole = read_data(path, {"prompt": "question"}, {})
    assert len(whole.rows) == 2088 and all(row.messages[0]["role"] == "user" for row in whole.rows)
    encoder = Encoder(tokenizer, settings(path, environment={}))
    encoder.settings.max_length = 100_000
    for row in data.rows[::40]:
        [example], _ = encoder.examples([row])
        own = "".join(tokenizer.decode(example.ids[a:b]) for a, b in example.spans)
        assert own == "".join(m["content"] + "<|eos|>" for m in row.messages if m["role"] == "assistant")
        assert "Observation: " not in own and own.count("Action: ") >= 1
    dancer = read_data(data_dir / "traces" / "webdancer_think_search.jsonl", {"prompt": "question"}, {})
    [example], _ = encoder.examples(dancer.rows[:1])
    assert len(dancer.rows) == 200 and len(example.spans) == 2
