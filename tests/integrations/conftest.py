"""verl for the tests: its published signatures, and verl itself where it can be imported."""

from __future__ import annotations

import importlib
import inspect
import sys

import numpy as np
import pytest
import torch

from tests.integrations import verl_standin


@pytest.fixture(params=["published", "installed"])
def verl(request, monkeypatch):
    """The module `verl`: the stand-in with the published signatures, or the real one."""
    if request.param == "installed":
        pytest.importorskip("verl")
        importlib.import_module("verl.workers.reward_manager")
        return importlib.import_module("verl")
    for name, module in verl_standin.modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    return importlib.import_module("verl")


@pytest.fixture
def reward_loop(verl):
    """verl's base class of managers that score one completion at a time; skips verl before 0.7.1."""
    base = pytest.importorskip("verl.experimental.reward_loop.reward_manager.base").RewardManagerBase
    if "compute_score" not in inspect.signature(base.__init__).parameters:
        pytest.skip("this verl's reward loop is older than 0.7.1")
    return base


@pytest.fixture
def real_verl():
    """verl itself; the test is skipped where there is none."""
    return pytest.importorskip("verl")


@pytest.fixture
def batch(verl, tiny_tokenizer):
    """Builds a DataProto as verl's trainer has it: prompts padded on the left, responses on the right."""

    def make(completions, *, uids, golds, masks=None, prompts=None, extra=None, turns=None):
        prompts = prompts or ["q"] * len(completions)
        encoded = [tiny_tokenizer.encode(prompt) for prompt in prompts]
        ids = [tiny_tokenizer.encode(c) if isinstance(c, str) else c for c in completions]
        P, R = max(map(len, encoded)) + 1, max(map(len, ids)) + 2
        tensors = {
            "prompts": torch.tensor([[0] * (P - len(e)) + e for e in encoded]),
            "responses": torch.tensor([i + [0] * (R - len(i)) for i in ids]),
            "attention_mask": torch.tensor(
                [
                    [0] * (P - len(e)) + [1] * len(e) + [1] * len(i) + [0] * (R - len(i))
                    for e, i in zip(encoded, ids, strict=True)
                ]
            ),
        }
        if masks is not None:
            tensors["response_mask"] = torch.tensor([m + [0] * (R - len(m)) for m in masks])
        columns = {
            "uid": uids,
            "data_source": ["tests"] * len(ids),
            "reward_model": [{"ground_truth": gold, "style": "rule"} for gold in golds],
            "extra_info": [{"index": f"x{i}"} | (extra or {}) for i in range(len(ids))],
            "raw_prompt": [[{"role": "user", "content": prompt}] for prompt in prompts],
        }
        if turns is not None:
            columns["__num_turns__"] = turns
        return verl.DataProto.from_dict(tensors, {name: _objects(column) for name, column in columns.items()})

    return make


def _objects(column):
    made = np.empty(len(column), dtype=object)
    made[:] = column
    return made
