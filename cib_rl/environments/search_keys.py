"""What a recipe may say of the environment `search`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from cib_rl.environments.evidence import By
from cib_rl.recipe import EnvironmentSection
from cib_rl.recipe_problems import validated


class SearchKeys(BaseModel):
    """The recipe's keys of environment `search` beside those that every environment has. Unknown keys are errors."""

    model_config = ConfigDict(extra="forbid")
    retriever: dict[str, Any]
    preset: Literal["search_r1", "parallel_search", "inforage", "tool_calls"] | None = None
    k: int = Field(3, ge=1, description="documents per query")
    turns: int = Field(4, ge=1, description="turns that may search")
    final_answer: bool = Field(True, description="one more turn, in which a search is not carried out")
    max_queries: int = Field(8, ge=1, description="queries of one search that are carried out")
    max_observation_length: int = Field(500, ge=16, description="tokens of a block of documents, per query")
    max_block_length: int = Field(2000, ge=16, description="tokens of a block at most, however many queries")
    max_context_length: int | None = Field(
        None, ge=1, description="prompt and episode together; the engine's limit holds too"
    )
    eos_ends: bool = Field(False, description="an end of sequence without an action ends the episode")
    concurrency: int = Field(64, ge=1, description="searches under way at once, over all episodes")
    query_timeout: float = Field(20.0, gt=0, description="seconds for one try of a query; remote: its own timeout")
    retries: int = Field(2, ge=0, description="further tries of a query that failed; remote: 0, it has its own")
    backoff: float = Field(0.5, ge=0, description="seconds before the first of them; doubled each time")
    drop_failed: bool = Field(False, description="episodes in which a query failed leave the update")
    outage: float = Field(
        300.0, ge=0, description="seconds that a run waits for a retriever that failed most of a window's episodes"
    )
    evidence: str | None = Field("supporting_ids", description="column of the evidence, whose recall is logged")
    evidence_by: By = Field("id", description="what of a document is compared with it")
    protocol: dict[str, Any] = Field(default_factory=dict, description="tags and texts that differ from the preset's")


class _Section(SearchKeys, EnvironmentSection):
    """All keys of the section: a misspelt one may be meant to be one that every environment has."""


def read_keys(kwargs: Mapping[str, Any]) -> SearchKeys:
    """The keys of environment `search`. Raises UserError that names the wrong ones."""
    return validated(SearchKeys, dict(kwargs), "environment", known=_Section)
