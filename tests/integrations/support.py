"""What the tests of other trainers share: rows, plug-in rewards, tiny runs of TRL, our own scores to compare with."""

from __future__ import annotations

import asyncio
import math
import threading
from pathlib import Path

from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from cib_rl.engines.base import Generation, Sampling
from cib_rl.environments.single_turn import SingleTurn
from cib_rl.plugin import Failed, RewardContext, RewardSuite, by_group, reward
from cib_rl.recipe import EnvironmentSection, RewardSection
from cib_rl.rollout import Episode, Rollouts
from cib_rl.trajectory import StopReason
from tests.environments.scripted import ScriptedEngine

HERE = Path(__file__).resolve()
DIGIT = "regex:[0-9]"  # a random model says a digit now and then: the last one is its answer
CHAT = "{% for m in messages %}{{ m['role'][:1] + ': ' + m['content'] + '\n' }}{% endfor %}a: <think>"
LONGEST = 16


@reward("judge", kind="shaping")
async def judge(trajectories, *, bonus: float = 0.0):
    """An async reward that depends on the text, special tokens included."""
    return [bonus + math.sin(len(t.policy_text)) for t in trajectories]


@reward("shorter_than_mean", kind="shaping")
def shorter_than_mean(trajectories):
    """Tokens below the mean of the group: depends on which completions belong together."""
    values = [0.0] * len(trajectories)
    for members in by_group(trajectories):
        mean = sum(trajectories[i].num_tokens for i in members) / len(members)
        for i in members:
            values[i] = mean - trajectories[i].num_tokens
    return values


@reward("picky", kind="outcome")
def picky(trajectories):
    """Cannot score the completions of row r1; does not apply to row r2."""
    failed, does_not_apply = Failed("the judge is away"), None
    return [failed if t.task["id"] == "r1" else does_not_apply if t.task["id"] == "r2" else 1.0 for t in trajectories]


def rows(*, conversational: bool = False, count: int = 4) -> list[dict]:
    """Rows of TRL's kind, with further columns; gold answers are digits."""
    texts = [f"q{i} {'abc ' * (i % 3)}" for i in range(count)]
    prompts = [[{"role": "user", "content": text}] for text in texts] if conversational else texts
    return [{"prompt": prompt, "solution": str(3 + i % 2), "id": f"r{i}"} for i, prompt in enumerate(prompts)]


@reward("share", kind="outcome")
def share(trajectories):
    """The row's own number."""
    return [t.task["share"] for t in trajectories]


@reward("odd_ones_fail", kind="shaping")
def odd_ones_fail(trajectories):
    """Tokens; cannot score an odd number of them."""
    return [Failed("odd") if t.num_tokens % 2 else float(t.num_tokens) for t in trajectories]


@reward("counts_calls", kind="shaping")
class CountsCalls:
    """Keeps what it was called with; cannot score the completions of row r1."""

    def __init__(self):
        self.calls = []

    def __call__(self, trajectories):
        self.calls.append([t.task["id"] for t in trajectories])
        return [Failed("no judge") if t.task["id"] == "r1" else float(t.success) for t in trajectories]


BARRIER = threading.Barrier(2)


@reward("meets_another", kind="shaping")
async def meets_another(trajectories):
    """Ends when a second call of it has started as well."""
    await asyncio.to_thread(BARRIER.wait, 60)
    return [1.0 for _ in trajectories]


@reward("cut_off", kind="shaping")
def cut_off(trajectories):
    """1 for a completion that the length limit has cut off."""
    return [float(t.truncated) for t in trajectories]


class Recorder:
    """A reward function that keeps what TRL gives it, call by call."""

    __name__ = "recorder"

    def __init__(self):
        self.calls = []

    def __call__(self, prompts, completions, completion_ids, **columns):
        self.calls.append({"prompts": prompts, "completions": completions, "ids": completion_ids} | columns)
        return [0.0] * len(prompts)


def grpo(model, tokenizer, data, reward_funcs, folder, *, batch=8, **changes):
    """TRL's own trainer on a tiny model: groups of 4, `batch` completions in a step, two steps."""
    arguments = dict(
        output_dir=str(folder),
        per_device_train_batch_size=batch,
        per_device_eval_batch_size=8,
        num_generations=4,
        max_completion_length=LONGEST,
        max_steps=2,
        learning_rate=1e-3,
        logging_steps=1,
        save_strategy="no",
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
        seed=5,
    )
    return GRPOTrainer(
        model=model,
        reward_funcs=reward_funcs,
        args=GRPOConfig(**(arguments | changes)),
        train_dataset=Dataset.from_list(data),
        processing_class=tokenizer,
    )


def own_trajectories(tokenizer, call, *, answer=DIGIT, chat=False, size=4):
    """The completions of a recorded call as our own rollouts make them: an engine 'samples' the recorded tokens."""
    generations = [Generation(list(ids), [-1.0] * len(ids), _stop(ids, tokenizer)) for ids in call["ids"]]
    section = EnvironmentSection(
        max_completion_length=LONGEST, answer=answer, chat_template="always" if chat else "never"
    )
    rollouts = Rollouts(SingleTurn(section, tokenizer), ScriptedEngine(tokenizer, *generations), tokenizer, answer)
    episodes = [
        Episode({"id": call["id"][i], "prompt": prompt, "answer": call["solution"][i]}, i // size, i % size, seed=i)
        for i, prompt in enumerate(call["prompts"])
    ]
    return rollouts.run(episodes, Sampling(max_tokens=LONGEST, temperature=1.0))


def own_scores(tokenizer, trajectories, *sections, **context):
    """What a recipe with these rewards gives."""
    suite = RewardSuite([RewardSection(**s) for s in sections], RewardContext(tokenizer=tokenizer, **context))
    try:
        return suite.score(trajectories, stop=False)
    finally:
        suite.close()


def _stop(ids, tokenizer):
    return StopReason.EOS if ids[-1] == tokenizer.eos_token_id else StopReason.LENGTH
