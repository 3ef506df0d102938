"""What the trainer's tests share: a recipe for a tiny run, an engine that answers without a model, plug-in rewards."""

from __future__ import annotations

import math
import random
from pathlib import Path

from cib_rl.engines.base import Engine, Generation
from cib_rl.plugin import TokenRewards, reward
from cib_rl.recipe import Recipe
from cib_rl.trajectory import StopReason

EOS = 1
HERE = Path(__file__).resolve()


class RandomEngine(Engine):
    """Tokens and log-probabilities that follow from the request's seed alone; no model anywhere."""

    def __init__(self, vocabulary: int = 57, longest: int = 12) -> None:
        self.vocabulary = vocabulary
        self.longest = longest
        self.syncs: list[int] = []
        self.requests: list[tuple[list[int], int | None]] = []

    async def generate(self, prompt_ids, sampling):
        self.requests.append((list(prompt_ids), sampling.seed))
        rng = random.Random(sampling.seed)
        length = rng.randint(1, min(self.longest, sampling.max_tokens))
        ids = [rng.randrange(4, self.vocabulary) for _ in range(length)]
        ended = rng.random() < 0.7
        if ended:
            ids[-1] = EOS
        logprobs = [-rng.uniform(2.0, 6.0) for _ in ids]
        return Generation(
            ids, logprobs, StopReason.EOS if ended else StopReason.LENGTH, weights_version=self.weights_version
        )

    def sync_weights(self, named_tensors, version):
        self.syncs.append(version)
        self.weights_version = version

    def close(self):
        pass


@reward("even_length", kind="outcome")
def even_length(trajectories):
    """1 for an even number of tokens."""
    return [float(t.num_tokens % 2 == 0) for t in trajectories]


@reward("always_right", kind="outcome")
def always_right(trajectories):
    """1 for everything."""
    return [1.0 for _ in trajectories]


@reward("first_token", kind="shaping")
def first_token(trajectories):
    """A number between 0 and 1 that depends on the first token."""
    return [(t.policy_ids[0] % 7) / 7 for t in trajectories]


@reward("every_token", kind="shaping")
def every_token(trajectories):
    """A reward for each policy token."""
    return [TokenRewards([math.sin(i) for i in t.policy_ids]) for t in trajectories]


@reward("flat_for_every_fourth_draw", kind="outcome")
def flat_for_every_fourth_draw(trajectories):
    """All right in groups 0, 4, 8, ...; half right in the others."""
    return [1.0 if t.group % 4 == 0 else float(t.member % 2) for t in trajectories]


@reward("fails_on_first_draws", kind="outcome")
def fails_on_first_draws(trajectories):
    """Raises when it is given one of the first two draws (all that rank 0 of two gets at first)."""
    if any(t.group < 2 for t in trajectories):
        raise RuntimeError("no grader for these")
    return [float(t.member % 2) for t in trajectories]


@reward("never_applies", kind="shaping")
def never_applies(trajectories):
    """None for everything, and a diagnostic on every second member."""
    for t in trajectories:
        if t.member % 2:
            t.diagnostics["odd_tokens"] = t.num_tokens
    return [None] * len(trajectories)


def logging_for_trl(completion_ids, log_metric, log_extra, **kwargs):
    """As TRL's rewards are written: applies to completions of more than three tokens."""
    log_metric("longest", max(len(ids) for ids in completion_ids))
    log_extra("first_id", [ids[0] for ids in completion_ids])
    return [1.0 if len(ids) > 3 else None for ids in completion_ids]


@reward("always_fails", kind="outcome")
def always_fails(trajectories):
    raise RuntimeError("the grader is gone")


def write_tasks(path: Path, count: int = 16) -> None:
    """`count` rows of JSON Lines with prompts of different lengths."""
    path.write_text(
        "".join(f'{{"id": {i}, "prompt": "{"abc" * (i % 3)}q{i} ", "answer": "{i}"}}\n' for i in range(count))
    )


def tiny_recipe(model: Path, folder: Path, **changes: object) -> Recipe:
    """A recipe over JSON Lines tasks in `folder`; `changes` are dotted keys, e.g. `{"trainer.steps": 3}`."""
    write_tasks(folder / "tasks.jsonl")
    values: dict = {
        "model": str(model),
        "run_name": "run",
        "output": str(folder / "runs"),
        "task": {"name": "jsonl", "path": str(folder / "tasks.jsonl"), "max_ungradable": 1.0},
        "environment": {"max_completion_length": 12},
        "engine": {"max_logprob_gap": 100.0},
        "sampling": {"group_size": 4},
        "rewards": [{"name": f"{HERE}:even_length"}, {"name": f"{HERE}:first_token", "weight": 0.3}],
        "trainer": {"steps": 2, "prompts_per_step": 2, "learning_rate": 1e-3, "max_grad_norm": 1e9},
        "logging": {"tensorboard": False},
    }
    for dotted, value in changes.items():
        *parents, key = dotted.split(".")
        section = values
        for parent in parents:
            section = section.setdefault(parent, {})
        section[key] = value
    return Recipe.model_validate(values)
