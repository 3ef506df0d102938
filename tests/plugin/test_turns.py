"""Rewards per turn: at each turn's last policy token."""

import pytest

from cib_rl.plugin import PluginError, turn_rewards
from cib_rl.trajectory import Segment, StopReason, Trajectory, Turn


def _episode(*turns):
    """`turns`: lists of (policy tokens, environment tokens) per segment."""
    t = Trajectory({}, 0)
    for number, parts in enumerate(turns):
        segment = Segment([1])
        t.segments.append(segment)
        for policy, environment in parts:
            start = len(segment)
            segment.append_policy([5] * policy, [-1.0] * policy)
            t.turns.append(Turn(number, start, len(segment), StopReason.EOS))
            segment.append_environment([9] * environment)
    return t


def test_each_reward_stands_at_its_turns_last_policy_token():
    assert turn_rewards(_episode([(2, 3), (1, 0)]), [0.5, 2.0]).values == [0, 0.5, 2]
    assert turn_rewards(_episode([(1, 2), (2, 0)], [(2, 1)]), [1.0, 2.0, 3.0]).values == [1, 0, 2, 0, 3]


def test_an_empty_turn_pays_the_last_token_before_it():
    assert turn_rewards(_episode([(2, 1), (0, 0)]), [0.5, 0.25]).values == [0, 0.75]
    assert turn_rewards(_episode([(0, 1), (1, 0)]), [0.0, 1.0]).values == [1]
    with pytest.raises(PluginError, match="has not sampled a token"):
        turn_rewards(_episode([(0, 1), (1, 0)]), [1.0, 1.0])


def test_as_many_rewards_as_turns():
    with pytest.raises(PluginError, match="1 turn rewards for 2 turns"):
        turn_rewards(_episode([(2, 1), (1, 0)]), [1.0])
