"""cib-rl's methods in other trainers: rewards in TRL (`as_trl`, `as_trl_suite`) and verl (`as_verl_loop`,
`as_verl_manager`, `as_verl_score`); HICRA in TRL (`HicraMixin`) and verl (`register_verl_hicra`).

They build trajectories from what the other trainer hands out and score them with the same `RewardSuite` as a recipe's.
Importing this package imports neither TRL nor verl.
"""

from cib_rl.integrations.trl_hicra import HicraMixin
from cib_rl.integrations.trl_reward import as_trl, as_trl_suite
from cib_rl.integrations.verl_hicra import register_verl_hicra
from cib_rl.integrations.verl_loop import as_verl_loop
from cib_rl.integrations.verl_manager import as_verl_manager
from cib_rl.integrations.verl_score import as_verl_score

__all__ = [
    "HicraMixin",
    "as_trl",
    "as_trl_suite",
    "as_verl_loop",
    "as_verl_manager",
    "as_verl_score",
    "register_verl_hicra",
]
