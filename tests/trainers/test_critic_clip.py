"""The critic's clip: what its optimizer gets, and where its weights go, against plain torch with `clip_grad_norm_`."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM

from cib_rl.run_folder import RunFolder
from cib_rl.trajectory_io import read_trajectories
from tests.trainers.naive_ppo import NaivePPO, Settings
from tests.trainers.support import tiny_recipe
from tests.trainers.test_ppo import PPO, _critic_of, _rewards, _train, random_engine  # noqa: F401 (a fixture)

pytestmark = [pytest.mark.trl]

STEPS = 6


def _binds(norms, limit):
    """In some steps and not in others: were it in all, Adam would hardly tell a clipped gradient from a plain one."""
    return {norm > limit * 1.02 for norm in norms} == {True, False}


def _norms(folder):
    return [line["critic/grad_norm"] for line in RunFolder(folder).read_metrics()]


def test_a_critic_of_its_own_takes_clipped_steps(tmp_path, tiny_model_dir, monkeypatch, random_engine):  # noqa: F811
    limit = 2.6
    critic = {"learning_rate": 5e-3, "value_clip": 0.1, "max_grad_norm": limit}
    # The policy's clip, which does not bind, is another.
    recipe = tiny_recipe(tiny_model_dir, tmp_path, **PPO | {"trainer.steps": STEPS, "critic": critic})
    watch = _train(recipe, monkeypatch)
    naive = NaivePPO(
        AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32),
        _critic_of(tiny_model_dir),
        Settings(recipe.trainer.learning_rate, 5e-3, value_clip=0.1, critic_max_norm=limit),
    )
    norms = []
    for step in range(STEPS):
        trajectories = read_trajectories(watch.folder.trajectories / f"step-{step:06d}-rank0.parquet")
        naive.window(trajectories, *_rewards(trajectories, "plain"))
        naive.step(watch.rows[step])
        norms.append(sum((g**2).sum() for g in naive.gradients[step][1].values()).sqrt().item())
        got, start = watch.weights[step + 1][1], watch.weights[0][1]
        apart = sum(((p - got[n]) ** 2).sum() for n, p in naive.critic.named_parameters()).sqrt()
        went = sum(((p - start[n]) ** 2).sum() for n, p in naive.critic.named_parameters()).sqrt()
        assert apart / went < 2e-3, step
    assert _binds(norms, limit), norms
    assert _norms(watch.folder.path) == pytest.approx(norms, rel=1e-3)


@pytest.mark.parametrize("detach", [True, False])
def test_a_head_on_the_policy_takes_clipped_steps(
    tmp_path, tiny_model_dir, monkeypatch, random_engine, detach  # noqa: F811
):  # fmt: skip
    """Its own clip: the policy's neither binds nor counts the head in."""
    limit = 2.0
    critic = {"backbone": "policy", "detach": detach, "learning_rate": 2e-2, "max_grad_norm": limit}
    if not detach:
        critic["coefficient"] = 0.7
    recipe = tiny_recipe(tiny_model_dir, tmp_path, **PPO | {"trainer.steps": STEPS, "critic": critic})
    watch = _train(recipe, monkeypatch)
    policy = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32)
    head = torch.nn.Linear(policy.config.hidden_size, 1)
    torch.nn.init.zeros_(head.weight)
    torch.nn.init.zeros_(head.bias)
    optimizer, norms = torch.optim.AdamW(head.parameters(), lr=2e-2, weight_decay=0.0), []
    for step in range(STEPS):
        policy.load_state_dict(watch.weights[step][0], strict=False)
        loss = 0.0
        trajectories = read_trajectories(watch.folder.trajectories / f"step-{step:06d}-rank0.parquet")
        for t in trajectories:
            (segment,) = t.segments
            with torch.no_grad():
                hidden = policy(torch.tensor([segment.context_ids]), output_hidden_states=True).hidden_states[-1][0]
            values = head(hidden[len(segment.prompt_ids) - 1 : -1])[:, 0]
            loss = loss + 0.5 * ((values - torch.tensor(t.tracks["return"])) ** 2).sum()
        optimizer.zero_grad()
        (loss / sum(t.num_tokens for t in trajectories) * (1 if detach else 0.7)).backward()
        norms.append(torch.nn.utils.clip_grad_norm_(head.parameters(), limit).item())
        optimizer.step()
        for name, parameter in head.named_parameters():
            torch.testing.assert_close(watch.weights[step + 1][1][name], parameter.detach(), atol=1e-5, rtol=2e-3)
    assert _binds(norms, limit), norms
    assert _norms(watch.folder.path) == pytest.approx(norms, rel=1e-3)
