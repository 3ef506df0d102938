"""Both engines on the same two models: `chain` (says what it is told to) and `random` (anything may happen).

vLLM takes 15 to 30 s to start for the first time in a process, then about a second: engines are shared by module.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cib_rl.engines.base import Engine
from cib_rl.engines.transformers import TransformersEngine
from cib_rl.recipe import EngineSection
from tests.conftest import build_tiny_model, build_tiny_tokenizer
from tests.engines.support import CONTEXT, build_chain_model

ENGINES = [
    pytest.param("transformers"),
    pytest.param("vllm", marks=[pytest.mark.vllm, pytest.mark.slow]),
]


@dataclass
class Pair:
    """An engine and the trainer's model."""

    engine: Engine
    model: Any


def build_engine(name: str, folder: Path, model: Any = None, *, max_num_seqs: int = 6, **options: Any) -> Engine:
    """`model` is shared by the transformers engine; without it, and for vLLM, the folder is loaded."""
    tokenizer = build_tiny_tokenizer()
    if name == "transformers":
        return TransformersEngine(
            folder if model is None else model, tokenizer, max_num_seqs=max_num_seqs, max_model_len=CONTEXT, **options
        )
    import numba  # noqa: F401  as a training does that searches with bm25s: vLLM must start beside it

    from cib_rl.engines.vllm import VLLMEngine

    section = EngineSection(name="vllm", max_num_seqs=max_num_seqs, max_model_len=CONTEXT)
    return VLLMEngine(folder, tokenizer, section, **options)


def saved(model: Any, folder: Path) -> Path:
    model.save_pretrained(folder)
    build_tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def make_pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Pair]]:
    """`make_pair(engine_name, model_kind)`, once per module and pair of names. Kinds: chain, tied, untied."""
    made: dict[tuple[str, str], Pair] = {}

    def make(name: str, kind: str) -> Pair:
        if (name, kind) not in made:
            for other in [key for key in made if key[0] == "vllm"]:  # one vLLM in a process at a time
                made.pop(other).engine.close()
            model = build_chain_model() if kind == "chain" else build_tiny_model(tied=kind == "tied")
            folder = saved(model, tmp_path_factory.mktemp(kind))
            made[name, kind] = Pair(build_engine(name, folder), model)
        return made[name, kind]

    yield make
    for pair in made.values():
        pair.engine.close()


@pytest.fixture(params=ENGINES)
def chain_engine(request: pytest.FixtureRequest, make_pair: Callable[..., Pair]) -> Engine:
    return make_pair(request.param, "chain").engine
