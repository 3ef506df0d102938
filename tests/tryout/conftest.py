"""Samples that the tests of trials share."""

from __future__ import annotations

from pathlib import Path

import pytest

from cib_rl.samples.load import Samples, load_samples
from tests.samples.files import word_rows, write_lines

REWARDS = Path(__file__).with_name("rewards_to_try.py")


@pytest.fixture(scope="session")
def words_file(tmp_path_factory) -> Path:
    """48 completions of 12 word problems (see `word_rows`)."""
    return write_lines(tmp_path_factory.mktemp("samples") / "words.jsonl.gz", word_rows())


@pytest.fixture(scope="session")
def words(words_file) -> Samples:
    """The same, loaded. Shared: do not change."""
    return load_samples(words_file)
