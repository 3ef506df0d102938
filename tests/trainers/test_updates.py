"""Updates that are left out: gradients that are no numbers, and what skipping leaves of Adam and of the schedule."""

from __future__ import annotations

import copy
import itertools
import math

import pytest
import torch
from transformers import TrainerCallback

from cib_rl.errors import UserError
from cib_rl.run_folder import RunFolder
from cib_rl.trainers import run, updates
from cib_rl.trainers.checkpoint import find_checkpoint, verify_checkpoint
from tests.trainers.support import RandomEngine, tiny_recipe

pytestmark = [pytest.mark.trl]

TRAINERS = {
    "grpo": {},
    "ppo": {"trainer.name": "ppo", "critic": {"learning_rate": 1e-3}},
    "head": {"trainer.name": "ppo", "critic": {"learning_rate": 1e-2, "backbone": "policy"}},
    "head, not detached": {
        "trainer.name": "ppo", "critic": {"learning_rate": 1e-2, "backbone": "policy", "detach": False},
    },
}  # fmt: skip


@pytest.fixture(autouse=True)
def _random_engine(monkeypatch):
    monkeypatch.setattr(run, "make_engine", lambda *_: RandomEngine(longest=8))


class _Overflow(TrainerCallback):
    """Makes a gradient infinite in the steps `at` (0 is the first), the loss staying as it is; keeps weights and Adam's
    state after each step."""

    def __init__(self, at=(), of="policy"):
        self.at, self.of, self.trainer, self.hook = at, of, None, None
        self.policy, self.critic, self.adam = [], [], []

    def _critic(self):
        critic = getattr(self.trainer, "critic", None)
        return getattr(critic, "model", None) or getattr(critic, "head", None)

    def on_step_begin(self, args, state, control, model=None, **_):
        if not self.policy:
            self._keep(model)
        if state.global_step in self.at:
            parameter = next((model if self.of == "policy" else self._critic()).parameters())
            self.hook = parameter.register_hook(lambda gradient: gradient * math.inf)

    def on_step_end(self, args, state, control, model=None, **_):
        if self.hook is not None:
            self.hook.remove()
        self._keep(model)

    def _keep(self, model):
        self.policy.append({n: p.detach().clone() for n, p in model.named_parameters()})
        if critic := self._critic():
            self.critic.append({n: p.detach().clone() for n, p in critic.named_parameters()})
        self.adam.append(copy.deepcopy(self.trainer.optimizer.state_dict()["state"]) if self.trainer.optimizer else {})


def _train(recipe, watch, resume=None):
    with run.prepare(recipe, checkpoint=resume, callbacks=[watch]) as trainer:
        watch.trainer = trainer
        try:
            trainer.train(resume_from_checkpoint=str(resume) if resume else None)
        finally:
            watch.lines = RunFolder(trainer.run_folder.path).read_metrics()
    return watch


def _moved(states):
    return [any(not torch.equal(a[n], b[n]) for n in a) for a, b in itertools.pairwise(states)]


def _same_adam(one, other):
    return set(one) == set(other) and all(torch.equal(one[k][n], other[k][n]) for k in one for n in one[k])


@pytest.mark.parametrize("name", TRAINERS)
def test_a_gradient_that_is_no_number_moves_nothing_and_is_counted(tmp_path, tiny_model_dir, name):
    """The loss is finite, so only the gradient can tell."""
    changes = {"trainer.steps": 4, "trainer.weight_decay": 0.1, **TRAINERS[name]}
    watch = _train(tiny_recipe(tiny_model_dir, tmp_path, **changes), _Overflow(at=[1]))
    assert _moved(watch.policy) == [True, False, True, True]
    assert all(p.isfinite().all() for p in watch.policy[-1].values())
    assert [_same_adam(a, b) for a, b in itertools.pairwise(watch.adam)] == [False, True, False, False]
    assert [line.get("nonfinite_gradients", 0) for line in watch.lines] == [0, 1, 0, 0]
    assert all("nonfinite_losses" not in line for line in watch.lines)
    assert [line["grad_norm"] is None for line in watch.lines] == [False, True, False, False]
    if watch.critic:  # learns on
        assert _moved(watch.critic) == [True] * 4


@pytest.mark.parametrize("name", ["ppo", "head"])
def test_so_does_one_of_the_critic(tmp_path, tiny_model_dir, name):
    watch = _Overflow(at=[1], of="critic")
    _train(tiny_recipe(tiny_model_dir, tmp_path, **{"trainer.steps": 3, **TRAINERS[name]}), watch)
    assert _moved(watch.critic) == [True, False, True] and _moved(watch.policy) == [True] * 3
    assert all(p.isfinite().all() for p in watch.critic[-1].values())
    assert [line.get("critic/grad_norm") is None for line in watch.lines] == [False, True, False]


@pytest.mark.parametrize("name", ["grpo", "ppo"])
def test_too_many_in_a_row_stop_the_run_with_a_checkpoint_to_go_on_from(tmp_path, tiny_model_dir, monkeypatch, name):
    monkeypatch.setattr(updates, "OVERFLOWS", 3)
    recipe = tiny_recipe(tiny_model_dir, tmp_path, **{"trainer.steps": 9, **TRAINERS[name]})
    # Two in a row are no reason, three are.
    broken = _Overflow(at=[0, 1, 3, 4, 5, 6, 7, 8])
    with pytest.raises(UserError, match=r"not finite in 3 steps in a row.*checkpoint of step 6 .* is whole"):
        _train(recipe, broken)
    checkpoint = find_checkpoint(tmp_path / "runs" / "run")
    assert verify_checkpoint(checkpoint) == 6
    whole = _Overflow(at=[0, 1, 3, 4, 5])
    (tmp_path / "whole").mkdir()
    monkeypatch.setattr(updates, "OVERFLOWS", 4)
    _train(tiny_recipe(tiny_model_dir, tmp_path / "whole", **{"trainer.steps": 9, **TRAINERS[name]}), whole)
    resumed = _train(recipe, _Overflow(), resume=checkpoint)
    for one, other in ((whole.policy, resumed.policy), (whole.critic, resumed.critic)):
        assert not one or all(torch.equal(one[-1][n], other[-1][n]) for n in one[-1])
    assert [line["step"] for line in resumed.lines] == list(range(1, 10))


@pytest.mark.parametrize("name", TRAINERS)
def test_a_skipped_update_leaves_adam_as_it_is(tmp_path, tiny_model_dir, name):
    """Windows of four steps, of which the third and the fourth are above the limit of KL."""
    changes = {
        "trainer.steps": 6, "trainer.num_iterations": 4, "trainer.max_kl": 1e-9, "trainer.weight_decay": 0.1,
        **TRAINERS[name],
    }  # fmt: skip
    watch = _train(tiny_recipe(tiny_model_dir, tmp_path, **changes), _Overflow())
    assert [line["policy_skipped"] for line in watch.lines] == [0, 0, 1, 1, 0, 0]
    kept = [_same_adam(a, b) for a, b in itertools.pairwise(watch.adam)]
    assert kept == [False, False, True, True, False, False]
    assert _moved(watch.policy) == [not same for same in kept]


def test_the_policys_schedule_begins_when_the_critic_has_learned_alone(tmp_path, tiny_model_dir):
    critic = {"learning_rate": 1e-3, "warmup_steps": 3, "schedule": "linear"}
    changes = {
        "trainer.name": "ppo", "critic": critic, "trainer.steps": 9, "trainer.schedule": "cosine",
        "trainer.warmup_ratio": 0.33, "trainer.learning_rate": 0.01,
    }  # fmt: skip
    watch = _train(tiny_recipe(tiny_model_dir, tmp_path, **changes), _Overflow())
    # Six steps of its own: two of warm-up, then half a cosine over four.
    own = [0.0, 0.005, *(0.01 * (1 + math.cos(math.pi * k / 4)) / 2 for k in range(4))]
    assert [line["learning_rate"] for line in watch.lines] == pytest.approx([0.0] * 3 + own)
    assert [line["critic/learning_rate"] for line in watch.lines] == pytest.approx(
        [k * 1e-3 / 9 for k in range(8, -1, -1)]
    )


def test_a_warm_up_over_the_whole_run_is_one(tmp_path, tiny_model_dir):
    """transformers reads a share of 1 as one step."""
    changes = {"trainer.steps": 4, "trainer.warmup_ratio": 1.0, "trainer.learning_rate": 0.01}
    watch = _train(tiny_recipe(tiny_model_dir, tmp_path, **changes), _Overflow())
    assert [line["learning_rate"] for line in watch.lines] == pytest.approx([0.0, 0.0025, 0.005, 0.0075])
