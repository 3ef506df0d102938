"""The uniform and the Laplace prior, finding priors by name, and the rate."""

from math import log

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cib_rl.plugin import PluginError, RewardContext
from cib_rl.priors import PriorRequest, make_prior, rate_nats, requests_from
from cib_rl.trajectory import Segment, Trajectory
from tests.conftest import build_tiny_tokenizer

MASKS = st.lists(st.integers(0, 1), max_size=40)


def make(**spec):
    return make_prior(spec, RewardContext(tokenizer=build_tiny_tokenizer()))


def requests(masks, **values):
    return [PriorRequest((9,) * len(mask), tuple(mask), values) for mask in masks]


@given(st.lists(MASKS, min_size=1, max_size=4))
def test_uniform_is_the_linear_length_penalty(masks):
    """Prop. 4.1: T·log|V| with |V| the tokenizer's size, exactly; environment tokens are free."""
    for mask, cost in zip(masks, make(name="uniform").surprisal(requests(masks)), strict=True):
        assert cost.tolist() == [log(57)] * sum(mask)


@given(MASKS, st.one_of(st.integers(0, 60), st.floats(0, 60)))
def test_laplace_is_lcpo_exact_up_to_the_target(mask, target):
    """Prop. 4.2: the sum is |n - target| - target; the second term is the same for every completion of a prompt."""
    (cost,) = make(name="laplace", target=target).surprisal(requests([mask]))
    assert len(cost) == sum(mask)
    assert cost.sum() + target == pytest.approx(abs(sum(mask) - target))


def test_laplace_steps_are_one_down_to_the_target_and_one_up_beyond():
    (cost,) = make(name="laplace", target=2).surprisal(requests([[1, 1, 0, 1, 1]]))
    assert cost.tolist() == [-1.0, -1.0, 1.0, 1.0]
    (cost,) = make(name="laplace", target="task.budget").surprisal(requests([[1, 1, 1]], budget=1.5))
    assert cost.tolist() == [-1.0, 0.0, 1.0]


def test_laplace_differences_within_a_group_are_those_of_lcpo_exact():
    found = make(name="laplace", target=7).surprisal(requests([[1] * n for n in (3, 7, 12)]))
    rewards = np.array([-c.sum() for c in found])
    assert (rewards - rewards.mean()).tolist() == pytest.approx([-4 + 3, 0 + 3, -5 + 3])


def test_the_target_comes_from_the_task_row():
    prior = make(name="laplace", target="task.target_tokens")
    segment = Segment([1], [9, 9, 9], [0.0] * 3, [1] * 3)
    t = Trajectory({"id": "q7", "target_tokens": 1}, 0, segments=[segment])
    assert prior.surprisal(requests_from([t], prior.columns))[0].tolist() == [-1, 1, 1]
    mistakes = [({"id": "q7"}, "'q7' has no such column"), ({"id": "q8", "target_tokens": "1"}, "'q8' holds '1'")]
    for task, message in mistakes:
        with pytest.raises(PluginError, match=message):
            requests_from([Trajectory(task, 0, segments=[segment])], prior.columns)


@pytest.mark.parametrize("target", [-1, "budget", "task.", float("nan")])
def test_a_target_that_is_no_length_is_refused(target):
    with pytest.raises(PluginError, match="prior laplace: target"):
        make(name="laplace", target=target)


def test_unknown_names_and_keys_are_clear_errors():
    with pytest.raises(PluginError, match="known: language_model, uniform, laplace"):
        make(name="unifrom")
    with pytest.raises(PluginError, match="known: language_model"):
        make(target=3)
    with pytest.raises(PluginError, match=r"^prior 'laplace' has no keyword 'taget'.*did you mean 'target'"):
        make(name="laplace", taget=3)
    with pytest.raises(PluginError, match="no subclass of"):
        make(name="collections:Counter")


def test_a_new_prior_is_one_class(tmp_path):
    (tmp_path / "mine.py").write_text(
        "import numpy as np\n"
        "from cib_rl.priors import Prior\n"
        "class Constant(Prior):\n"
        "    def __init__(self, *, nats: float) -> None:\n"
        "        self.nats = nats\n"
        "    def surprisal(self, requests):\n"
        "        return [np.full(r.num_tokens, self.nats) for r in requests]\n"
    )
    context = RewardContext(tokenizer=build_tiny_tokenizer(), base_dir=tmp_path)
    prior = make_prior({"name": "mine.py:Constant", "nats": "2.5"}, context)
    assert prior.surprisal(requests([[1, 0, 1]]))[0].tolist() == [2.5, 2.5]


def test_rate_by_hand():
    """Two prompts, each with one certain answer: I(X;Z) = log 2, H(Z|X) = 0."""
    assert rate_nats([log(2), log(2)], [0.0, 0.0]) == pytest.approx(log(2))  # the best prior: the bound is tight
    assert rate_nats([log(4), log(4)], [0.0, 0.0]) == pytest.approx(log(4))  # any other is above
    assert rate_nats([3.0, 5.0], [1.0, 0.5]) == pytest.approx(4 - 0.75)
    assert rate_nats([3.0, 5.0], [float("nan"), 0.5]) == pytest.approx(4.5)
    assert np.isnan(rate_nats([], []))
