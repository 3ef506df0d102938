"""Rewards as plugins: `from cib_rl.plugin import reward, RewardSuite, ...`.

The contract is in `contract.py`; finding rewards in `registry.py`; calling and summing them in `suite.py`.
"""

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
from cib_rl.plugin.registry import RewardDescription, describe_rewards, find_reward
from cib_rl.plugin.suite import RewardSuite

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
    "describe_rewards",
    "find_reward",
    "reward",
]
