"""Fixtures all tests share: tiny random models, and a count of the tests that ran on real components."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# Before torch or transformers are imported: one thread per test process, and nothing is fetched by name.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

# Time limits per example have no place on a shared machine; the same examples on every run.
settings.register_profile("project", deadline=None, max_examples=40, derandomize=True)
settings.load_profile("project")

REAL_COMPONENTS = ("vllm", "trl", "deepspeed", "server")

TINY_TAGS = ["<think>", "</think>", "<answer>", "</answer>"]
TINY_TOKENS = ["<pad>", "<eos>", "<bos>", "<unk>", *TINY_TAGS, *"abcdefghijklmnopqrstuvwxyz0123456789 +-*/=().,:?\n"]


# ---------------------------------------------------------------- counting tests of real components


class RealComponents:
    """Counts the outcomes of tests marked with a real component; prints one line; may fail the run.

    With `--require-real=vllm,trl` a skipped test of one of these components, or none at all, makes the run fail.
    """

    def __init__(self, required: list[str]) -> None:
        self.required = required
        self.outcomes: dict[str, Counter[str]] = {name: Counter() for name in REAL_COMPONENTS}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        # One count per test: its call, or the phase before it when that ended the test.
        if report.when == "call" or (report.when == "setup" and report.outcome != "passed"):
            for name in REAL_COMPONENTS:
                if name in report.keywords:
                    self.outcomes[name][report.outcome] += 1

    def problems(self) -> list[str]:
        """What `--require-real` objects to."""
        found = []
        for name in self.required:
            counts = self.outcomes[name]
            if counts["skipped"]:
                found.append(f"{counts['skipped']} {name} test(s) skipped")
            if not counts["passed"] + counts["failed"]:
                found.append(f"no {name} test ran")
        return found

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.problems() and session.exitstatus == pytest.ExitCode.OK and not session.config.option.collectonly:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        parts = [
            f"{name} {counts['passed'] + counts['failed']} ran ({counts['failed']} failed, {counts['skipped']} skipped)"
            for name, counts in self.outcomes.items()
        ]
        terminalreporter.section("real components")
        terminalreporter.write_line("tests of real components: " + "; ".join(parts))
        for problem in self.problems():
            terminalreporter.write_line(f"ERROR: {problem} (--require-real)", red=True)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--data-dir", default=None, help="folder with the optional real data (tests marked data)")
    parser.addoption("--require-real", default="", help="comma-separated components whose tests must all run")


def pytest_configure(config: pytest.Config) -> None:
    required = [name for name in config.getoption("--require-real").split(",") if name]
    unknown = set(required) - set(REAL_COMPONENTS)
    if unknown:
        raise pytest.UsageError(f"--require-real: unknown {sorted(unknown)}; known: {', '.join(REAL_COMPONENTS)}")
    config.pluginmanager.register(RealComponents(required), "real-components")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Quick modules first, modules with real engines last; tests marked `data` are skipped without `--data-dir`."""
    order = {"slow": 1, "trl": 2, "deepspeed": 3, "server": 3, "vllm": 4}
    weight: dict[Path, int] = {}
    for item in items:
        marks = [order.get(mark.name, 0) for mark in item.iter_markers()]
        weight[item.path] = max([weight.get(item.path, 0), *marks])
    items.sort(key=lambda item: weight[item.path])
    if config.getoption("--data-dir") is None:
        for item in items:
            if item.get_closest_marker("data"):
                item.add_marker(pytest.mark.skip(reason="needs --data-dir"))


@pytest.fixture(scope="session")
def data_dir(request: pytest.FixtureRequest) -> Path:
    """The folder given by `--data-dir`."""
    return Path(request.config.getoption("--data-dir"))


# ---------------------------------------------------------------- tiny models


def build_tiny_tokenizer() -> Any:
    """One token per character of lower-case text, digits and signs; four tags; eos, pad, bos, unk; no chat template."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.WordLevel({token: i for i, token in enumerate(TINY_TOKENS)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split("", behavior="isolated")
    backend.add_tokens([AddedToken(tag, normalized=False) for tag in TINY_TAGS])
    backend.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        eos_token="<eos>",
        bos_token="<bos>",
        unk_token="<unk>",
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def build_tiny_model(*, seed: int = 0, tied: bool = True, layers: int = 2, vocab_size: int = 64) -> Any:
    """A Qwen3 with random weights in fp32. A head has 32 channels because vLLM's CPU kernels take no fewer.

    The weights are larger than a fresh model's, so that its distributions are far from uniform and errors show.
    """
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(
        vocab_size=vocab_size,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        max_position_embeddings=512,
        initializer_range=0.2,
        tie_word_embeddings=tied,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=2,
        dtype="float32",
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Qwen3ForCausalLM(config)
    return model.eval()


@pytest.fixture
def tiny_tokenizer() -> Any:
    """A fresh `PreTrainedTokenizerFast` of 57 tokens (see `build_tiny_tokenizer`)."""
    return build_tiny_tokenizer()


@pytest.fixture
def make_tiny_model() -> Callable[..., Any]:
    """The function `build_tiny_model(seed=0, tied=True, layers=2, vocab_size=64)`."""
    return build_tiny_model


@pytest.fixture
def tiny_model() -> Any:
    """A fresh Qwen3 with hidden size 32, 2 layers, 64 tokens (57 used), tied head; the same weights every time."""
    return build_tiny_model()


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """`tiny_model` and `tiny_tokenizer`, saved in one folder. Shared: do not write into it."""
    folder = tmp_path_factory.mktemp("tiny") / "model"
    build_tiny_model().save_pretrained(folder)
    build_tiny_tokenizer().save_pretrained(folder)
    yield folder
