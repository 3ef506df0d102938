"""The environment `search` of a recipe, with its retriever."""

from __future__ import annotations

from pathlib import Path

from transformers import PreTrainedTokenizerBase

from cib_rl.environments.search import Search
from cib_rl.environments.search_keys import SearchKeys, read_keys
from cib_rl.errors import UserError
from cib_rl.recipe import EnvironmentSection
from cib_rl.retrieval.base import Retriever
from cib_rl.retrieval.factory import BUILT_IN, make_retriever


def make_search(section: EnvironmentSection, tokenizer: PreTrainedTokenizerBase, base_dir: Path) -> Search:
    """The environment `search` of a recipe. Raises UserError for wrong keys and retrievers."""
    retriever, keys = retriever_of(section, base_dir)
    return Search(section, tokenizer, retriever, keys)


def retriever_of(section: EnvironmentSection, base_dir: Path) -> tuple[Retriever, SearchKeys]:
    """The retriever that a section of environment `search` names, and the section's keys. Raises UserError."""
    keys = read_keys(section.kwargs)
    if not isinstance(keys.retriever.get("name"), str):
        raise UserError(f"environment.retriever.name is missing: {', '.join(BUILT_IN)}, or a class of your own")
    rest = {key: value for key, value in keys.retriever.items() if key != "name"}
    retriever = make_retriever(keys.retriever["name"], rest, base_dir)
    if keys.retriever["name"] == "remote":  # the client tries again itself, and has its own limit
        own = {"retries": 0, "query_timeout": retriever.settings.timeout}  # type: ignore[attr-defined]
        keys = keys.model_copy(update={key: v for key, v in own.items() if key not in keys.model_fields_set})
    return retriever, keys
