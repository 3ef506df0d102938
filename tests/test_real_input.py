"""Any Hugging Face causal-model folder: chat templates that open <think>, boxed and tagged answers, GSM8K's format."""

import asyncio
import importlib.util
import json
import math
import random
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import pytest

from cib_rl.engines.base import Engine, Generation, Sampling
from cib_rl.environments.base import EpisodeEngine, encode_prompt
from cib_rl.environments.factory import make_environment
from cib_rl.errors import UserError
from cib_rl.recipe import EnvironmentSection, Recipe, TaskSection
from cib_rl.recipe_io import load_recipe
from cib_rl.rollout import Episode, Rollouts
from cib_rl.spans import decode, reasoning_mask
from cib_rl.tasks import load_rows
from cib_rl.trainers.sft_data import Row, train_bpe
from cib_rl.trainers.sft_encode import Encoder
from cib_rl.trainers.sft_settings import SFTModel, SFTSettings
from cib_rl.trajectory import StopReason, Trajectory

# The marks and the endings are those families' own; the loops over messages are as short as they can be.
TEMPLATES = {
    "r1_distill": (
        "{{ bos_token }}{% for m in messages %}"
        "{{ '<｜User｜>' if m.role == 'user' else '' }}{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<｜Assistant｜><think>\\n' }}{% endif %}"
    ),
    "qwen3_thinking": (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n<think>\\n' }}{% endif %}"
    ),
    "qwen3": (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}"
        "{% if enable_thinking is defined and enable_thinking is false %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}"
        "{% endif %}"
    ),
}
THINKS_IN_PROMPT = ("r1_distill", "qwen3_thinking")
GSM8K = [
    {
        "question": f"Ann has {a} apples and buys {b} more. How many apples does she have?",
        "answer": f"Ann has {a} + {b} = <<{a}+{b}={a + b}>>{a + b} apples.\n#### {a + b}",
    }
    for a, b in [(3, 4), (12, 9), (999, 2), (20, 22), (5, 5), (40, 2)]
]
TEXTS = [Row(row["question"], row["answer"] + " \\boxed{7} <answer>7</answer> Wait, think.") for row in GSM8K]


def make_tokenizer(template: str, *, tags_are_tokens: bool = True):
    """A byte-level BPE trained here; think tags as one token each, or spelled in pieces."""
    from tokenizers import AddedToken

    tokenizer = train_bpe(TEXTS, 420, TEMPLATES[template])
    if tags_are_tokens:
        tokenizer.add_tokens([AddedToken(tag, normalized=False) for tag in ("<think>", "</think>")])
    return tokenizer


class ScriptedEngine(Engine):
    """Answers the requests in turn with the given texts, each followed by eos."""

    def __init__(self, tokenizer, texts: Sequence[str]) -> None:
        self.tokenizer = tokenizer
        self.texts = list(texts)
        self.prompts: list[list[int]] = []

    async def generate(self, prompt_ids: list[int], sampling: Sampling) -> Generation:
        text = self.texts[len(self.prompts)]
        self.prompts.append(list(prompt_ids))
        ids = [*self.tokenizer.encode(text, add_special_tokens=False), self.tokenizer.eos_token_id]
        if len(ids) > sampling.max_tokens:
            ids = ids[: sampling.max_tokens]
        reason = StopReason.EOS if ids[-1] == self.tokenizer.eos_token_id else StopReason.LENGTH
        return Generation(ids, [-1.0] * len(ids), reason)

    def sync_weights(self, named_tensors, version):
        self.weights_version = version

    def close(self):
        pass


def play(template: str, texts: Sequence[str], *, answer: str = "boxed", tokenizer=None, limit: int = 200, **section):
    tokenizer = tokenizer or make_tokenizer(template)
    settings = EnvironmentSection(max_completion_length=limit, answer=answer, **section)
    engine = ScriptedEngine(tokenizer, texts)
    rollouts = Rollouts(make_environment(settings, tokenizer), engine, tokenizer, answer)
    row = {"id": "0", "prompt": GSM8K[0]["question"], "answer": "7"}
    episodes = [Episode(row, 0, i, seed=i) for i in range(len(texts))]
    return rollouts.run(episodes, Sampling(max_tokens=limit)), tokenizer


def reasoning_text(trajectory: Trajectory, tokenizer) -> str:
    mask = reasoning_mask(trajectory, tokenizer)
    return decode(tokenizer, [i for i, inside in zip(trajectory.policy_ids, mask, strict=True) if inside])


# ---------------------------------------------------------------- templates that think


@pytest.mark.parametrize("template", THINKS_IN_PROMPT)
@pytest.mark.parametrize("tags_are_tokens", [True, False])
def test_a_template_that_opens_the_thinking_makes_the_first_token_reasoning(template, tags_are_tokens):
    tokenizer = make_tokenizer(template, tags_are_tokens=tags_are_tokens)
    done = "Ann has 3 + 4 = 7 apples.\n</think>\n\nShe has \\boxed{7}."
    unclosed = "Ann has 3 + 4, wait, \\boxed{5} is"
    (first, second), _ = play(template, [done, unclosed], tokenizer=tokenizer)

    for trajectory in (first, second):
        assert decode(tokenizer, trajectory.segments[0].prompt_ids).endswith("<think>\n")
        assert "<think>" not in trajectory.text, "the tag is the template's, not the policy's"
        assert reasoning_mask(trajectory, tokenizer)[0] == 1
    # Spelled in pieces, the token that closes the tag may hold what follows it: it counts as reasoning in whole.
    closed = "Ann has 3 + 4 = 7 apples.\n</think>"
    assert reasoning_text(first, tokenizer).removeprefix(closed) in ("" if tags_are_tokens else "\n\n")
    assert "boxed" not in reasoning_text(first, tokenizer)
    assert all(reasoning_mask(second, tokenizer)), "never closed: all of it is reasoning"
    assert first.answer == "7"


@pytest.mark.parametrize("template", THINKS_IN_PROMPT)
def test_what_stands_before_a_second_opening_tag_is_reasoning_too(template):
    (trajectory,), tokenizer = play(template, ["Ann has <think>3 + 4</think> \\boxed{7}"])
    assert reasoning_text(trajectory, tokenizer) == "Ann has <think>3 + 4</think>"


def test_a_policy_that_opens_the_thinking_itself_has_its_tags_counted():
    text = "<think>\n3 + 4 = 7\n</think>\n\n\\boxed{7}"
    (trajectory,), tokenizer = play("qwen3", [text])
    assert reasoning_text(trajectory, tokenizer) == "<think>\n3 + 4 = 7\n</think>"


def test_template_options_reach_the_template():
    (trajectory,), tokenizer = play("qwen3", ["\\boxed{7}"], chat_template_kwargs={"enable_thinking": False})
    assert decode(tokenizer, trajectory.segments[0].prompt_ids).endswith("<think>\n\n</think>\n\n")
    assert trajectory.answer == "7"


@pytest.mark.parametrize("template", TEMPLATES)
def test_the_prompt_holds_each_mark_once_and_suffix_before_the_turn_ends(template):
    tokenizer = make_tokenizer(template)
    section = EnvironmentSection(max_completion_length=8, suffix="\nBox it.")
    text = decode(tokenizer, encode_prompt("How many?", section, tokenizer))
    assert text.count("How many?\nBox it.") == 1
    assert text.count("<|bos|>") == (1 if template == "r1_distill" else 0)
    expected = tokenizer.apply_chat_template(
        [{"role": "user", "content": "How many?\nBox it."}], tokenize=False, add_generation_prompt=True
    )
    assert text == expected


# ---------------------------------------------------------------- answers


@pytest.mark.parametrize(
    ("answer", "text", "found"),
    [
        ("boxed", "so \\boxed{5}, no: \\boxed{\\frac{1}{2}}.", "\\frac{1}{2}"),
        ("boxed", "it is 7", None),
        ("boxed", "it is \\boxed{7", None),
        ("tag", "<answer>5</answer> then <answer> 7 </answer>", "7"),
        ("tag", "<answer>7", None),
        ("hash", "3 + 4 = 7\n#### 7", "7"),
        ("last_line", "work\n7", "7"),
    ],
)
def test_answers_are_read_from_the_completion_and_end_before_eos(answer, text, found):
    (trajectory,), _ = play("qwen3", [text], answer=answer)
    assert trajectory.stop_reason is StopReason.EOS
    assert trajectory.answer == found


def test_a_box_in_closed_reasoning_is_no_answer():
    (trajectory,), _ = play("r1_distill", ["maybe \\boxed{5}?\n</think>\nI do not know."])
    assert trajectory.answer is None


def test_an_answer_cut_off_by_the_limit_is_none():
    tokenizer = make_tokenizer("qwen3")
    text = "She has \\boxed{7}"
    limit = len(tokenizer.encode(text)) - 1
    (trajectory,), _ = play("qwen3", [text], tokenizer=tokenizer, limit=limit)
    assert (trajectory.stop_reason, trajectory.answer) == (StopReason.LENGTH, None)


# ---------------------------------------------------------------- supervised rows meet the same prompt


@pytest.mark.parametrize("suffix", ["", "\nBox it."])
def test_warm_start_rows_and_rollouts_have_the_same_prompt_ids(suffix):
    tokenizer = make_tokenizer("qwen3_thinking")
    rows = [Row(GSM8K[0]["question"], "\\boxed{7}")]
    (example,), left_out = Encoder(tokenizer, SFTModel(max_length=400, suffix=suffix)).examples(rows)
    engine = ScriptedEngine(tokenizer, ["\\boxed{7}"])
    environment = make_environment(EnvironmentSection(max_completion_length=50, suffix=suffix), tokenizer)
    episode = EpisodeEngine(engine, Sampling(max_tokens=50), 0)
    trajectory = asyncio.run(environment.run({"prompt": GSM8K[0]["question"]}, episode))
    assert left_out == 0
    ((start, end),) = example.spans
    assert list(example.ids[:start]) == engine.prompts[0] and end == len(example.ids)
    assert list(example.ids[start:]) == trajectory.policy_ids


def test_a_blind_row_keeps_nothing_of_the_template():
    tokenizer = make_tokenizer("qwen3")
    (example,), _ = Encoder(tokenizer, SFTModel(max_length=400, blind=True)).examples([Row("How many?", "seven")])
    assert decode(tokenizer, example.ids) == "<|bos|>seven<|eos|>"


def test_marks_of_a_template_are_single_tokens_and_survive_saving(tmp_path):
    from transformers import AutoTokenizer

    make_tokenizer("qwen3").save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert len(tokenizer.encode("<|im_start|>", add_special_tokens=False)) == 1
    assert tokenizer.chat_template == TEMPLATES["qwen3"]
    assert tokenizer.eos_token_id != tokenizer.pad_token_id


def test_the_shipped_warm_start_recipe_is_valid():
    settings = load_recipe("math/warmstart_gsm8k", [], schema=SFTSettings)
    policy, prior = settings.models["policy"], settings.models["prior"]
    assert isinstance(policy, SFTModel)
    assert (policy.data, prior.blind, prior.tokenizer) == (prior.data, True, str(settings.output / "policy"))
    tokenizer = train_bpe(TEXTS, 420, policy.chat_template)
    text = decode(tokenizer, encode_prompt("How many?", EnvironmentSection(max_completion_length=8), tokenizer))
    assert text == "<|user|>How many?<|assistant|>"


# ---------------------------------------------------------------- a folder, JSON Lines in GSM8K's format, one step


def make_model_folder(folder: Path, template: str, *, head_dim: int = 16) -> Path:
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    tokenizer = make_tokenizer(template)
    torch.manual_seed(0)
    Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=head_dim,
            max_position_embeddings=256,
            tie_word_embeddings=True,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    ).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def gsm8k_overrides(folder: Path) -> list[str]:
    """The shipped GPU recipe on this folder's model and files; only sizes and places differ."""
    rows = folder / "gsm8k.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in GSM8K), encoding="utf-8")
    task = f"{{name: jsonl, path: {rows}, columns: {{prompt: question}}, answer_after: '####'}}"
    model = make_model_folder(folder / "model", "r1_distill")
    return [
        f"model={model}",
        f"output={folder / 'runs'}",
        "run_name=run",
        f"task={task}",
        f"evaluation.task={task}",
        "evaluation.problems=2",
        "engine={name: transformers}",
        "trainer.dtype=float32",
        "environment.max_completion_length=16",
        "sampling.group_size=4",
        f"rewards.surprisal.prior.model={model}",
        "trainer.steps=1",
        "trainer.prompts_per_step=2",
        "trainer.learning_rate=1e-3",
        "trainer.warmup_ratio=0",  # the first step of a warm-up moves nothing
        "trainer.filter.zero_variance=off",
    ]


@pytest.mark.trl
def test_the_shipped_recipe_makes_a_step_on_a_model_folder_and_gsm8k_rows(tmp_path):
    import torch
    from transformers import AutoModelForCausalLM

    from cib_rl.trainers.run import train
    from cib_rl.trajectory_io import read_trajectories

    recipe = load_recipe("math/cib_grpo_gsm8k", gsm8k_overrides(tmp_path))
    assert isinstance(recipe, Recipe)
    run = train(recipe, base_dir=tmp_path, progress=False)

    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    trained = next(line for line in lines if "loss" in line)
    assert trained["accuracy"] == 0.0 and math.isfinite(trained["loss"])
    assert [line["step"] for line in lines if "eval/accuracy" in line] == [0, 1]
    trajectories = read_trajectories(run / "trajectories" / "step-000000-rank0.parquet")
    assert len(trajectories) == 8
    tokenizer = make_tokenizer("r1_distill")
    for trajectory in trajectories:
        prompt = decode(tokenizer, trajectory.segments[0].prompt_ids)
        assert prompt.endswith("\\boxed{}.<｜Assistant｜><think>\n")
        assert trajectory.task["answer"].isdigit(), "the gold is what stands after ####"
    before, after = (
        AutoModelForCausalLM.from_pretrained(folder).state_dict()
        for folder in (tmp_path / "model", next((run / "checkpoints").iterdir()))
    )
    # Nothing was right, so all the signal is the surprisal's.
    assert any(not torch.equal(before[name], after[name]) for name in before)


@pytest.mark.vllm
@pytest.mark.slow
def test_vllm_takes_more_prompt_tokens_at_once_than_one_of_its_passes(tmp_path):
    from cib_rl.engines.vllm import VLLMEngine
    from cib_rl.recipe import EngineSection

    model = make_model_folder(tmp_path / "model", "qwen3", head_dim=32)
    tokenizer = make_tokenizer("qwen3")
    engine = VLLMEngine(model, tokenizer, EngineSection(name="vllm", max_num_seqs=40, max_model_len=256))
    draw = random.Random(0)
    prompts = [[draw.randrange(3, 300) for _ in range(240)] for _ in range(40)]  # 9,600 tokens; a pass takes 4,096

    async def all_at_once():
        engine.set_active_episodes(len(prompts))
        return await asyncio.gather(
            *(engine.generate(prompt, Sampling(max_tokens=4, seed=i)) for i, prompt in enumerate(prompts))
        )

    try:
        generations = asyncio.run(all_at_once())
    finally:
        engine.close()
    assert [generation.error for generation in generations] == [None] * len(prompts)
    assert all(1 <= len(generation.ids) <= 4 for generation in generations)


def test_gsm8k_rows_read_as_numbers(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"question": "q", "answer": "so\n#### 1,001"}) + "\n")
    section = TaskSection(name="jsonl", path=str(path), columns={"prompt": "question"}, answer_after="####")
    assert load_rows(section, tmp_path)[0]["answer"] == "1001"


def test_gsm8k_rows_without_the_mark_name_file_and_line(tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = [{"question": "q", "answer": "#### 1"}, {"question": "q", "answer": "1"}]
    path.write_text("\n".join(json.dumps(row) for row in rows))
    section = TaskSection(name="jsonl", path=str(path), columns={"prompt": "question"}, answer_after="####")
    with pytest.raises(UserError, match=r"rows\.jsonl, line 2.*####"):
        load_rows(section, tmp_path)


# ---------------------------------------------------------------- the data of docs/real_input.md


def _prepare():
    path = Path(__file__).parents[1] / "docs" / "real_input" / "prepare.py"
    spec = importlib.util.spec_from_file_location("prepare", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("problem", "answer", "expression"),
    [
        ("Joan found 70 shells. She has 27 left. How many did she give?", "43", "70-27=43."),
        ("He had 32, she 42. They ate 35. How many are left?", "39", "32+42=74. 74-35=39."),
        ("4 boxes of 1.5 pounds?", "6", "4*1.5=6."),
    ],
)
def test_made_completions_compute_the_answer(problem, answer, expression):
    texts = _prepare().mawps_texts({"problem": problem, "answer": answer}, 0, random.Random(0))
    assert expression in texts[0]["completion"]
    assert texts[0]["completion"].endswith(f"The answer is \\boxed{{{answer}}}.")


def test_copies_with_other_numbers_stay_true():
    prepare = _prepare()
    row = {"problem": "He had 32, she 42. They ate 35. How many are left?", "answer": "39"}
    texts = prepare.mawps_texts(row, 20, random.Random(0))
    assert len({text["prompt"] for text in texts}) > 15
    for text in texts:
        a, b, c = (int(n) for n in prepare.NUMBER.findall(text["prompt"]))
        assert text["completion"].endswith(f"\\boxed{{{a + b - c}}}.")


def test_a_problem_with_two_readings_gets_no_copies():
    # 2 + 2 = 2 * 2: which one is meant cannot be told from the answer.
    texts = _prepare().mawps_texts({"problem": "2 cats and 2 dogs?", "answer": "4"}, 5, random.Random(0))
    assert len(texts) == 1


def test_expressions_that_agree_everywhere_are_certain():
    _, certain = _prepare().explain([Fraction(7), Fraction(9), Fraction(5)], Fraction(21), random.Random(0))
    assert certain  # (7+9)+5 = (7+5)+9 = ...


def test_problems_alike_but_for_numbers_are_on_one_side():
    prepare = _prepare()
    alike = [f"{name} has {n} red apples and eats {n - 1}." for name in ("Ann", "Bob") for n in range(2, 30)]
    others = [f"Something else number {word} entirely {word}" for word in "abcdefgh"]
    rows = [{"problem": problem} for problem in alike + others]
    train, held = prepare.split(rows, 0.3, random.Random(0))
    assert held and not set(train) & set(held)
    assert not any("apples" in rows[i]["problem"] for i in train)
