"""HICRA in real trainings: off it changes nothing; on it marks the policy's tokens only; what it measures is true."""

import random

import numpy as np
import pytest
import torch

from cib_rl.engines.base import Generation
from cib_rl.engines.weights import policy_tensors
from cib_rl.grams.measure import entropy_nats
from cib_rl.run_folder import RunFolder
from cib_rl.trainers import run
from cib_rl.trainers.grpo import GRPOTrainer
from cib_rl.trajectory import StopReason
from cib_rl.trajectory_io import read_trajectories
from tests.conftest import build_tiny_tokenizer
from tests.environments import scripted
from tests.trainers.support import EOS, HERE, RandomEngine, tiny_recipe

pytestmark = [pytest.mark.trl]

GROUP = {"name": "group", "scale": "outcome_std", "floor": 0.2}
TO_GO = GROUP | {"token_rewards": "reward_to_go"}
LETTERS = {"name": "hicra", "grams": list("abcdefghijklmnopqrstuvwxyz")}
TWO_TURNS = {"name": scripted.NAME, "max_completion_length": 30, "max_turn_length": 14}


class WordEngine(RandomEngine):
    """Says `wait`, `so` and `no` at random, by the request's seed alone."""

    async def generate(self, prompt_ids, sampling):
        rng = random.Random(sampling.seed)
        text = "".join(rng.choice(["wait ", "so ", "no "]) for _ in range(4))
        ids = [*build_tiny_tokenizer().encode(text)[: rng.randint(2, sampling.max_tokens - 1)], EOS]
        return Generation(ids, [-rng.uniform(2.0, 6.0) for _ in ids], StopReason.EOS, weights_version=0)


def trained(folder, model, *credit, engine=None, **changes):
    """(weights, the first window's trajectories, lines of metrics) of a training of two steps."""
    folder.mkdir()
    recipe = tiny_recipe(model, folder, credit=list(credit), **changes)
    with pytest.MonkeyPatch.context() as patch:
        if engine is not None:
            patch.setattr(run, "make_engine", lambda *_: engine)
        with run.prepare(recipe) as trainer:
            trainer.train()
            weights = {n: t.detach().clone() for n, t in policy_tensors(trainer.model)}
            made = RunFolder(trainer.run_folder.path)
    return weights, read_trajectories(made.trajectories / "step-000000-rank0.parquet"), made.read_metrics()


def same(weights, other):
    return all(torch.equal(weights[name], other[name]) for name in weights)


@pytest.mark.parametrize("rewards", ["sum", "to go"])
def test_alpha_zero_trains_to_the_same_weights_to_the_last_bit(tmp_path, tiny_model_dir, rewards):
    """Two steps on the real engine, whose second window follows from the first update."""
    base = GROUP if rewards == "sum" else TO_GO
    token = {"name": f"{HERE}:every_token", "weight": 0.3}
    changes = {"rewards": [{"name": f"{HERE}:even_length"}, token], "deterministic": True, "sampling.group_size": 4}
    plain, _, _ = trained(tmp_path / "plain", tiny_model_dir, base, **changes)
    off, rows, lines = trained(tmp_path / "off", tiny_model_dir, base, LETTERS | {"alpha": 0.0}, **changes)
    kept, _, _ = trained(
        tmp_path / "kept", tiny_model_dir, base, LETTERS | {"alpha": 0.0, "mean_preserving": True}, **changes
    )
    on, _, _ = trained(tmp_path / "on", tiny_model_dir, base, LETTERS, **changes)
    assert same(plain, off) and same(plain, kept) and not same(plain, on)
    assert sum(sum(t.tracks["planning"]) for t in rows) > 0 and lines[0]["planning/share"] > 0


@pytest.mark.parametrize("fresh_segment", [False, True])
def test_over_several_turns_what_the_environment_wrote_is_neither_marked_nor_credited(
    tmp_path, tiny_model_dir, fresh_segment
):
    """Token rewards, so that advantages differ from token to token; the document is full of grams."""
    changes = {
        "environment": TWO_TURNS | {"document": "wait, wait, so wait ", "fresh_segment": fresh_segment},
        "rewards": [{"name": f"{HERE}:even_length"}, {"name": f"{HERE}:every_token", "weight": 0.3}],
    }
    hicra = {"name": "hicra", "grams": ["wait"], "measure_entropy": True}
    _, rows, lines = trained(tmp_path / "run", tiny_model_dir, TO_GO, hicra, engine=WordEngine(), **changes)
    _, plain, _ = trained(tmp_path / "plain", tiny_model_dir, TO_GO, engine=WordEngine(), **changes)
    tokenizer, marked, sampled = build_tiny_tokenizer(), 0, 0
    for t, base in zip(rows, plain, strict=True):
        assert len(t.segments) == 1 + fresh_segment
        planning, policy = np.array(t.tracks["planning"], dtype=bool), np.array(t.policy_mask, dtype=bool)
        assert not planning[~policy].any()
        words = tokenizer.decode([i for i, p in zip(t.completion_ids, planning, strict=True) if p])
        assert set(words) <= set("wait")
        a, b = np.array(t.tracks["advantage"]), np.array(base.tracks["advantage"])
        np.testing.assert_allclose(a, b + 0.2 * np.abs(b) * planning, rtol=1e-6)
        assert not a[~policy].any()
        marked, sampled = marked + planning.sum(), sampled + policy.sum()
        assert len(t.tracks["entropy"]) == len(policy)
    assert 0 < marked < sampled
    assert lines[0]["planning/share"] == pytest.approx(marked / sampled)


def entropies_by_hand(model_dir, t):
    """Of softmax(logits), at each completion token of each segment."""
    from transformers import AutoModelForCausalLM

    model, found = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32), []
    for segment in t.segments:
        with torch.no_grad():
            logits = model(torch.tensor([segment.context_ids])).logits[0].double()
        logp = logits.log_softmax(-1)[len(segment.prompt_ids) - 1 : -1]
        found += (-(logp.exp() * logp).sum(-1)).tolist()
    return np.array(found)


@pytest.mark.parametrize("fresh_segment", [False, True])
def test_high_entropy_tokens_are_those_of_the_policys_own_entropy(tmp_path, tiny_model_dir, fresh_segment):
    _, rows, lines = trained(
        tmp_path / "run", tiny_model_dir, GROUP, {"name": "hicra", "tokens": "high_entropy", "share": 0.3},
        engine=WordEngine(), environment=TWO_TURNS | {"document": "wait ", "fresh_segment": fresh_segment},
        **{"trainer.token_budget": 60},
    )  # fmt: skip
    for t in rows:
        by_hand, policy = entropies_by_hand(tiny_model_dir, t), np.array(t.policy_mask, dtype=bool)
        np.testing.assert_allclose(t.tracks["entropy"], by_hand, atol=2e-5)
        chosen = np.array(t.tracks["high_entropy"], dtype=bool)
        assert chosen.sum() == int(0.3 * policy.sum()) and not chosen[~policy].any()
        assert by_hand[chosen].min() >= by_hand[policy & ~chosen].max() - 2e-5
    assert "planning/share" not in lines[0]


def test_the_pass_for_entropies_is_the_one_for_old_log_probabilities(tmp_path, tiny_model_dir, monkeypatch):
    """With several updates per window and a check in each, one pass serves all, and trains to the same weights."""
    passes, plain = [], GRPOTrainer._logps_and_entropies

    def counting(trainer, *arguments, **keywords):
        passes.append(keywords)
        return plain(trainer, *arguments, **keywords)

    monkeypatch.setattr(GRPOTrainer, "_logps_and_entropies", counting)
    changes = {"trainer.num_iterations": 2, "engine.check_every": 1, "deterministic": True}
    with_it, rows, _ = trained(
        tmp_path / "with", tiny_model_dir, GROUP, LETTERS | {"measure_entropy": True, "alpha": 0.0}, **changes
    )
    assert passes == [{"compute_entropy": True}]
    without, _, _ = trained(tmp_path / "without", tiny_model_dir, GROUP, LETTERS | {"alpha": 0.0}, **changes)
    assert len(passes) == 2 and same(with_it, without)
    assert all(len(t.tracks["entropy"]) == t.num_tokens for t in rows)


def test_what_is_logged_is_what_the_saved_trajectories_say(tmp_path, tiny_model_dir):
    hicra = {"name": "hicra", "grams": ["wait", "no"], "measure_entropy": True, "follow_ngram": 1, "follow_window": 1}
    _, rows, lines = trained(tmp_path / "run", tiny_model_dir, GROUP, hicra, engine=WordEngine())
    tokenizer, grams, after = build_tiny_tokenizer(), {}, {}
    for t in rows:
        words = tokenizer.decode(t.completion_ids, skip_special_tokens=True).split()
        for word, following in zip(words, [*words[1:], None], strict=True):
            if word in ("wait", "no"):
                grams[word] = grams.get(word, 0) + 1
                following = following or "eos"  # special tokens are text, too
                after[word, following] = after.get((word, following), 0) + 1
    planning, logprobs, entropies = (
        np.concatenate([np.array(values(t)) for t in rows])
        for values in (lambda t: t.tracks["planning"], lambda t: t.logprobs, lambda t: t.tracks["entropy"])
    )
    line, planning = lines[0], planning.astype(bool)
    assert line["planning/occurrences"] == sum(grams.values())
    assert line["planning/semantic_entropy_nats"] == pytest.approx(entropy_nats(grams))
    assert line["planning/conditional_entropy_nats"] == pytest.approx(entropy_nats(after) - entropy_nats(grams))
    for name, kept in (("planning", planning), ("execution", ~planning)):
        assert line[f"{name}/perplexity"] == pytest.approx(np.exp(-logprobs[kept].mean()))
        assert line[f"{name}/entropy_nats"] == pytest.approx(entropies[kept].mean())


def test_under_ppo_it_reshapes_what_gae_gave(tmp_path, tiny_model_dir):
    """Advantages that differ from token to token; the critic learns the returns of GAE, which HICRA leaves alone."""
    changes = {"engine": WordEngine(), "trainer.name": "ppo"}
    gae = {"name": "gae", "lam": 0.9}
    _, plain, _ = trained(tmp_path / "plain", tiny_model_dir, gae, **changes)
    hicra = {"name": "hicra", "grams": ["wait"], "measure_entropy": True}
    _, rows, lines = trained(tmp_path / "run", tiny_model_dir, gae, hicra, **changes)
    marked = 0
    for t, base in zip(rows, plain, strict=True):
        planning, before = np.array(t.tracks["planning"]), np.array(base.tracks["advantage"])
        np.testing.assert_allclose(t.tracks["advantage"], before + 0.2 * np.abs(before) * planning, rtol=1e-6)
        np.testing.assert_array_equal(t.tracks["return"], base.tracks["return"])
        marked += planning.sum()
    assert marked > 0 and lines[0]["planning/entropy_nats"] > 0
