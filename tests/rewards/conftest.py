"""Fixtures of the reward tests."""

from __future__ import annotations

from typing import Any

import pytest

from tests.conftest import build_tiny_tokenizer


@pytest.fixture(scope="session")
def tiny_tokenizer_once() -> Any:
    """One tokenizer for all examples of a property test."""
    return build_tiny_tokenizer()
