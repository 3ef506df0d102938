"""A decode loop with threads of its own number leaves the number of everybody else alone."""

import asyncio
import threading

import pytest
import torch
from transformers import AutoTokenizer

from cib_rl.engines.base import Sampling
from cib_rl.engines.threads import limit_own_threads
from cib_rl.engines.transformers import TransformersEngine


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def _in_a_thread(function):
    found = []
    thread = threading.Thread(target=lambda: found.append(function()))
    thread.start()
    thread.join()
    return found[0]


def test_the_number_is_that_of_the_calling_thread_alone(two_threads):
    if not _in_a_thread(lambda: limit_own_threads(1)):
        pytest.skip("this build of torch has another OpenMP")
    assert _in_a_thread(lambda: (limit_own_threads(1), torch.get_num_threads())) == (True, 1)
    assert torch.get_num_threads() == 2 and _in_a_thread(torch.get_num_threads) == 2


def test_an_engine_decodes_with_its_own_number(two_threads, tiny_model_dir, monkeypatch):
    seen = []
    engine = TransformersEngine(tiny_model_dir, AutoTokenizer.from_pretrained(tiny_model_dir), threads=1)
    forward = engine.model.forward
    monkeypatch.setattr(
        engine.model, "forward", lambda *a, **k: (seen.append(torch.get_num_threads()), forward(*a, **k))[1]
    )
    engine.set_active_episodes(1)
    asyncio.run(engine.generate([4, 5, 6], Sampling(max_tokens=3, seed=1)))
    engine.close()
    assert set(seen) == {1} and torch.get_num_threads() == 2
