r"""A small stand-in for the parts of verl that the integration touches, with the signatures of verl 0.6.1 to 0.9.1.

verl cannot be installed beside the tested versions of transformers (0.9.1 wants transformers < 5.11), so by default the
tests run against this. Where verl can be imported they run against verl's own classes as well, and a few more run:

    python -m venv runs/verl
    echo "$PWD/.venv/lib/python3.11/site-packages" > runs/verl/lib/python3.11/site-packages/beside.pth
    runs/verl/bin/pip install --no-deps verl==0.9.1 tensordict==0.10.0 pyvers hydra-core omegaconf \
        antlr4-python3-runtime==4.9.3 codetiming ray torchdata orjson
    PYTHONPATH=. runs/verl/bin/python -m pytest tests/integrations
"""

from __future__ import annotations

import types
from abc import ABC, abstractmethod

import torch


class TensorDict(dict):
    """Tensors by name; like tensordict's it has `keys()` and refuses `in`."""

    def __contains__(self, key):
        raise NotImplementedError("TensorDict does not support membership checks with the `in` keyword")


class DataProto:
    """verl.protocol.DataProto: tensors (B, ...), arrays of B objects, and what holds for the whole batch."""

    def __init__(self, batch=None, non_tensor_batch=None, meta_info=None):
        self.batch, self.non_tensor_batch = batch, dict(non_tensor_batch or {})
        self.meta_info = dict(meta_info or {})

    @classmethod
    def from_dict(cls, tensors=None, non_tensors=None, meta_info=None):
        return cls(TensorDict(tensors), non_tensors, meta_info)

    def __len__(self):
        return len(next(iter(self.batch.values())))

    def __getitem__(self, rows):
        assert isinstance(rows, slice), "single rows are DataProtoItems, which we do not use"
        batch = TensorDict({name: tensor[rows] for name, tensor in self.batch.items()})
        return type(self)(batch, {name: column[rows] for name, column in self.non_tensor_batch.items()}, self.meta_info)


class AbstractRewardManager(ABC):
    """verl.workers.reward_manager.abstract.AbstractRewardManager"""

    @abstractmethod
    def __init__(self, tokenizer, num_examine, compute_score, reward_fn_key="data_source", **kwargs): ...

    @abstractmethod
    def __call__(self, data, return_dict=False): ...


class RewardManagerBase(ABC):
    """verl.experimental.reward_loop.reward_manager.base.RewardManagerBase"""

    _class_initialized = False

    def __init__(self, config, tokenizer, compute_score):
        self.config, self.tokenizer, self.compute_score = config, tokenizer, compute_score
        self.init_class(config, tokenizer)

    @classmethod
    def init_class(cls, config, tokenizer):
        cls._class_initialized = True

    @abstractmethod
    async def run_single(self, data): ...


def _estimator(divide):
    """Group-relative advantages (B, R) of outcome rewards: GRPO's (divided by the deviation) and RLOO's."""

    def estimate(token_level_rewards, response_mask, index, config=None, **kwargs):
        scores = token_level_rewards.sum(-1)
        advantages = torch.zeros_like(scores)
        for uid in set(index):
            members = [i for i, other in enumerate(index) if other == uid]
            centred = scores[members] - scores[members].mean()
            n = len(members)
            advantages[members] = centred / (scores[members].std() + 1e-6) if divide else centred * n / (n - 1)
        advantages = advantages[:, None] * response_mask
        return advantages, advantages

    return estimate


def advantages():
    """The names of verl.trainer.ppo.core_algos and verl.trainer.ppo.ray_trainer that are touched."""
    registry = {"grpo": _estimator(True), "rloo": _estimator(False)}
    core = types.SimpleNamespace(ADV_ESTIMATOR_REGISTRY=registry)

    def register_adv_est(name):
        def decorator(fn):
            if core.ADV_ESTIMATOR_REGISTRY.get(name, fn) != fn:
                raise ValueError(f"Adv estimator {name} has already been registered")
            core.ADV_ESTIMATOR_REGISTRY[name] = fn
            return fn

        return decorator

    def get_adv_estimator_fn(name):
        if name not in core.ADV_ESTIMATOR_REGISTRY:
            raise ValueError(f"Unknown advantage estimator: {name}")
        return core.ADV_ESTIMATOR_REGISTRY[name]

    def compute_advantage(
        data, adv_estimator, gamma=1.0, lam=1.0, num_repeat=1, norm_adv_by_std_in_grpo=True, config=None
    ):
        given = {name: data.batch[name] for name in ("token_level_rewards", "response_mask")} | {"config": config}
        if "uid" in data.non_tensor_batch:
            given["index"] = data.non_tensor_batch["uid"]
        data.batch["advantages"], data.batch["returns"] = core.get_adv_estimator_fn(adv_estimator)(**given)
        return data

    core.register_adv_est, core.get_adv_estimator_fn = register_adv_est, get_adv_estimator_fn
    return core, types.SimpleNamespace(compute_advantage=compute_advantage)


def modules():
    """Module name -> module, for `sys.modules`."""
    registry = {}
    core, trainer = advantages()

    def register(name):
        def decorator(cls):
            if registry.get(name, cls) != cls:
                raise ValueError(f"Reward manager {name} has already been registered: {registry[name]} vs {cls}")
            registry[name] = cls
            return cls

        return decorator

    def get_reward_manager_cls(name):
        if name not in registry:
            raise ValueError(f"Unknown reward manager: {name}")
        return registry[name]

    contents = {
        "verl": {"DataProto": DataProto},
        "verl.protocol": {"DataProto": DataProto},
        "verl.workers": {},
        "verl.workers.reward_manager": {"register": register, "get_reward_manager_cls": get_reward_manager_cls},
        "verl.workers.reward_manager.abstract": {"AbstractRewardManager": AbstractRewardManager},
        "verl.experimental": {},
        "verl.experimental.reward_loop": {},
        "verl.experimental.reward_loop.reward_manager": {},
        "verl.experimental.reward_loop.reward_manager.base": {"RewardManagerBase": RewardManagerBase},
    }
    made = {name: types.ModuleType(name) for name in contents}
    for name, names in contents.items():
        vars(made[name]).update(names)
    packages = {name: types.ModuleType(name) for name in ("verl.trainer", "verl.trainer.ppo")}
    return made | packages | {"verl.trainer.ppo.core_algos": core, "verl.trainer.ppo.ray_trainer": trainer}
