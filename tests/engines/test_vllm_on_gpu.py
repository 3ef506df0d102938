"""What the vLLM engine does on a GPU only, with a stand-in for vLLM: which settings it gets, and in which order it is
woken, shut down and memory given back. The real thing is `test_cuda.py`'s."""

from __future__ import annotations

import os
import sys
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from cib_rl.engines import vllm as module
from cib_rl.engines.pump import PumpedEngine
from cib_rl.engines.vllm import VLLMEngine
from cib_rl.recipe import EngineSection

CONFIG = SimpleNamespace(
    dtype=torch.bfloat16, num_key_value_heads=1, num_attention_heads=1, head_dim=8, hidden_size=8, num_hidden_layers=1
)


@pytest.mark.parametrize(
    ("dtype", "on_gpu", "precision"),
    [("float32", True, "ieee"), ("bfloat16", True, None), (None, True, None), ("float32", False, None)],
)
def test_only_engines_in_fp32_on_a_gpu_forbid_tf32(
    dtype: Any, on_gpu: bool, precision: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "environ", {})
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(LLM=lambda **options: options))
    options = module._build("m", CONFIG, EngineSection(name="vllm", dtype=dtype, sleep=True), 64, 0, on_gpu)
    assert os.environ.get("TRITON_F32_DEFAULT") == precision
    assert options["dtype"] == (dtype or "bfloat16")
    assert options.get("enable_sleep_mode") is (True if on_gpu else None)


@pytest.fixture
def asleep(monkeypatch: pytest.MonkeyPatch) -> tuple[VLLMEngine, list[str]]:
    """A sleeping engine over a stand-in, and what happens to it, in order."""
    events: list[str] = []
    engine = VLLMEngine.__new__(VLLMEngine)
    PumpedEngine.__init__(engine, max_num_seqs=1, max_model_len=8, vocab_size=8, deterministic=False)
    engine._llm = SimpleNamespace(wake_up=lambda: events.append("wake"))
    engine._engine = SimpleNamespace(engine_core=SimpleNamespace(shutdown=lambda: events.append("shutdown")))
    engine._asleep = engine._sleeps = engine._on_gpu = True
    engine._had_process_group = False
    monkeypatch.setattr(module, "_process_group_kept", lambda enabled: nullcontext())
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: events.append("give torch's memory back"))
    return engine, events


def test_torch_gives_its_memory_back_before_the_engine_takes_its_own(asleep: tuple[VLLMEngine, list[str]]) -> None:
    engine, events = asleep
    engine.wake()
    engine.wake()
    assert events == ["give torch's memory back", "wake"]


def test_a_sleeping_engine_is_woken_to_be_closed(asleep: tuple[VLLMEngine, list[str]]) -> None:
    engine, events = asleep
    engine.close()
    engine.close()
    assert events == ["give torch's memory back", "wake", "shutdown", "give torch's memory back"]


def test_an_engine_that_finds_no_room_to_wake_is_closed_all_the_same(
    asleep: tuple[VLLMEngine, list[str]], caplog: pytest.LogCaptureFixture
) -> None:
    engine, events = asleep

    def wake_up() -> None:
        raise RuntimeError("out of memory")

    engine._llm.wake_up = wake_up
    engine.close()
    assert "shutdown" in events and "out of memory" in caplog.text
