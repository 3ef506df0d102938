"""Rewards as plugins: `from cib_rl.plugin import reward, RewardSuite, ...`.

The contract is in `contract.py`; finding rewards in `registry.py`; calling and summing them in `suite.py`.
"""

from cib_rl.plugin.columns import column_of, number_in
from cib_rl.plugin.contract import (
    Failed,
    Kind,
    PluginError,
    RewardContext,
    RewardError,
    RewardFailure,
    RewardInfo,
    Scores,
    TokenRewards,
    reward,
)
from cib_rl.plugin.groups import by_group, success
from cib_rl.plugin.registry import RewardDescription, describe_rewards, find_reward
from cib_rl.plugin.suite import RewardSuite
from cib_rl.plugin.turns import turn_rewards

__all__ = [
    "Failed",
    "Kind",
    "PluginError",
    "RewardContext",
    "RewardDescription",
    "RewardError",
    "RewardFailure",
    "RewardInfo",
    "RewardSuite",
    "Scores",
    "TokenRewards",
    "by_group",
    "column_of",
    "describe_rewards",
    "find_reward",
    "number_in",
    "reward",
    "success",
    "turn_rewards",
]
