"""The blind language-model prior: hand-computed costs, its keys, and what it is never shown."""

from dataclasses import fields
from math import log

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cib_rl.errors import UserError
from cib_rl.plugin import RewardContext
from cib_rl.priors import PriorRequest, make_prior, requests_from
from cib_rl.priors.language_model import LanguageModelPrior
from cib_rl.trajectory import Segment, Trajectory


def request(ids, mask=None):
    return PriorRequest(tuple(ids), tuple(mask or [1] * len(ids)))


def costs(prior, *requests):
    return [c.tolist() for c in prior.surprisal(list(requests))]


@pytest.fixture
def prior(table_model, tiny_tokenizer, context):
    """P(a|bos) 1/8, P(b|a) 1/2, P(c|b) 1/4, P(a|eos) 1/16."""
    a, b, c = tiny_tokenizer.convert_tokens_to_ids(["a", "b", "c"])
    table_model.write(tiny_tokenizer.bos_token_id, {a: 1 / 8})
    table_model.write(tiny_tokenizer.eos_token_id, {a: 1 / 16})
    table_model.write(a, {b: 1 / 2})
    table_model.write(b, {c: 1 / 4})

    def make(**keys):
        made = LanguageModelPrior(model=table_model, tokenizer=tiny_tokenizer, context=context, **keys)
        table_model.seen.clear()  # what the constructor's self-check read
        return made

    return make


def test_costs_worked_out_by_hand(prior, tiny_tokenizer):
    ids = tiny_tokenizer.encode("abc")
    found = costs(prior(), request(ids), request([]), request(ids[:1]))
    assert found[0] == pytest.approx([log(8), log(2), log(4)])
    assert found[1] == []
    assert found[2] == pytest.approx([log(8)])


@pytest.mark.parametrize(
    ("rule", "first"), [("auto", log(8)), ("bos", log(8)), ("eos", log(16)), ("uniform", log(57)), ("skip", 0.0)]
)
def test_rules_for_the_first_token(prior, tiny_tokenizer, rule, first):
    assert len(tiny_tokenizer) == 57
    found = costs(prior(first_token=rule), request(tiny_tokenizer.encode("abc")), request([]))
    assert found == [pytest.approx([first, log(2), log(4)]), []]


def test_without_a_bos_the_configurations_or_else_eos_is_read_first(table_model, tiny_tokenizer, context):
    tiny_tokenizer.bos_token = None
    table_model.config.bos_token_id = None
    assert LanguageModelPrior(model=table_model, tokenizer=tiny_tokenizer, context=context).start_ids == [1]
    table_model.config.bos_token_id = 7
    assert LanguageModelPrior(model=table_model, tokenizer=tiny_tokenizer, context=context).start_ids == [7]
    table_model.config.bos_token_id = None
    with pytest.raises(UserError, match="first_token: bos"):
        LanguageModelPrior(model=table_model, tokenizer=tiny_tokenizer, first_token="bos", context=context)


def test_environment_tokens_are_context_or_hidden_and_never_scored(prior, tiny_tokenizer):
    a, b, c = tiny_tokenizer.encode("abc")
    mixed = request([a, b, c], [1, 0, 1])
    assert costs(prior(), mixed) == [pytest.approx([log(8), log(4)])]  # c after b
    other = (1 - 1 / 2) / 56  # P(c|a): the rest, shared by the other ids
    assert costs(prior(environment="hidden"), mixed) == [pytest.approx([log(8), -log(other)])]
    # Written by the environment first: the policy's first token has a context, unless that is hidden.
    assert costs(prior(first_token="skip"), request([a, b], [0, 1])) == [pytest.approx([log(2)])]
    assert costs(prior(first_token="skip", environment="hidden"), request([a, b], [0, 1])) == [[0.0]]


def test_the_prior_never_receives_the_prompt(prior, table_model, tiny_tokenizer):
    """No id of the prompt reaches the model, and no prompt changes a cost; several turns and segments included."""
    made = prior()

    def episode(prompts):
        trajectory = Trajectory({"id": 1, "prompt": "z", "answer": "z"}, 0)
        for prompt, (sampled, written) in zip(prompts, [("ab", "c"), ("bc", "")], strict=True):
            segment = Segment(tiny_tokenizer.encode(prompt))
            ids = tiny_tokenizer.encode(sampled)
            segment.append_policy(ids, [-0.5] * len(ids))
            segment.append_environment(tiny_tokenizer.encode(written))
            segment.append_policy(ids, [-0.5] * len(ids))
            trajectory.segments.append(segment)
        return trajectory

    first = made.surprisal(requests_from([episode(["xyz", "zzzz"])]))
    assert set(table_model.seen) == {tiny_tokenizer.bos_token_id, *tiny_tokenizer.encode("abc")}
    second = made.surprisal(requests_from([episode(["w" * 30, ""])]))
    np.testing.assert_array_equal(first, second)
    assert not set(table_model.seen) & set(tiny_tokenizer.encode("wxyz"))


def test_a_request_has_no_place_for_a_prompt():
    assert {f.name for f in fields(PriorRequest)} == {"ids", "policy_mask", "values"}


@settings(max_examples=15)
@given(st.data())
def test_equals_a_plain_forward_pass_of_a_real_model(data):
    """Several segments are one trace; environment tokens are context; any batch gives the same."""
    from tests.conftest import build_tiny_model, build_tiny_tokenizer

    tokenizer, model = build_tiny_tokenizer(), build_tiny_model()
    context = RewardContext(tokenizer=tokenizer, max_completion_length=64)
    prior = LanguageModelPrior(model=model, tokenizer=tokenizer, token_budget=40, context=context)
    trajectories = []
    for n in range(data.draw(st.integers(1, 4))):
        segments = []
        for _ in range(data.draw(st.integers(1, 2))):
            segment = Segment([5, 6])
            for sampled in data.draw(st.lists(st.booleans(), max_size=3)):
                ids = data.draw(st.lists(st.integers(4, 55), max_size=6))
                if sampled:
                    segment.append_policy(ids, [0.0] * len(ids))
                else:
                    segment.append_environment(ids)
            segments.append(segment)
        trajectories.append(Trajectory({}, n, segments=segments))
    for t, found in zip(trajectories, prior.surprisal(requests_from(trajectories)), strict=True):
        with torch.no_grad():
            ids = torch.tensor([[tokenizer.bos_token_id, *t.completion_ids]])
            logp = torch.log_softmax(model(input_ids=ids).logits[0, :-1].double(), -1)
        expected = -logp.gather(-1, ids[0, 1:, None]).squeeze(-1)[torch.tensor(t.policy_mask, dtype=torch.bool)]
        np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)


def test_a_folder_is_loaded_frozen_and_relative_to_the_recipe(tiny_model_dir, tiny_tokenizer):
    context = RewardContext(tokenizer=tiny_tokenizer, base_dir=tiny_model_dir.parent, max_completion_length=64)
    spec = {"name": "language_model", "model": tiny_model_dir.name, "dtype": "bfloat16"}
    prior = make_prior(spec, context)
    assert not any(p.requires_grad for p in prior.model.parameters()) and not prior.model.training
    assert next(prior.model.parameters()).dtype == torch.bfloat16
    exact = make_prior(spec | {"dtype": "float32"}, context)
    ids = tiny_tokenizer.encode("3*7=21")
    np.testing.assert_allclose(prior.surprisal([request(ids)]), exact.surprisal([request(ids)]), atol=0.3)


def test_mistakes_are_clear_errors(tiny_model_dir, tiny_tokenizer, context):
    with pytest.raises(UserError, match="prior: model: no folder"):
        make_prior({"name": "language_model", "model": "./nowhere"}, context)
    context.max_completion_length = 512
    with pytest.raises(UserError, match="reads at most 512"):
        make_prior({"name": "language_model", "model": str(tiny_model_dir)}, context)
    context.max_completion_length = 64
    prior = make_prior({"name": "language_model", "model": str(tiny_model_dir)}, context)
    with pytest.raises(ValueError, match="it reads at most 512"):
        prior.surprisal([request([5] * 512)])
