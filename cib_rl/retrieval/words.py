"""How texts become words: bm25s's own tokenizer, with the settings of the index."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from cib_rl.errors import UserError
from cib_rl.recipe import Section


class IndexSettings(Section):
    """What an index is built with; stored in it, because queries must be cut into words in the same way."""

    method: Literal["lucene", "robertson", "atire"] = Field("lucene", description="variant of the BM25 formula")
    k1: float = Field(1.5, ge=0, description="saturation of a word's count")
    b: float = Field(0.75, ge=0, le=1, description="correction for length")
    stopwords: str = Field("en", description="words left out: a language of bm25s (en, de, fr, …) or none")
    stemmer: str = Field("none", description="none, or a Snowball language such as english (needs PyStemmer)")
    token_pattern: str = Field(r"(?u)\b\w\w+\b", description="regular expression of a word")


class Words:
    """Cuts texts into words.

    Raises UserError for stop words or a stemmer that do not exist.
    """

    def __init__(self, settings: IndexSettings) -> None:
        self._keys: dict[str, Any] = {
            "token_pattern": settings.token_pattern,
            "stopwords": None if settings.stopwords == "none" else settings.stopwords,
            "stemmer": _stemmer(settings.stemmer),
        }
        try:
            self([""])
        except ValueError as error:
            raise UserError(f"stopwords {settings.stopwords!r}: {error}") from error

    def __call__(self, texts: list[str]) -> list[list[str]]:
        """The words of each text."""
        from bm25s import tokenize

        words: list[list[str]] = tokenize(texts, return_ids=False, show_progress=False, **self._keys)
        return words


def _stemmer(language: str) -> Any:
    if language == "none":
        return None
    try:
        from Stemmer import Stemmer
    except ImportError as error:
        raise UserError(f"stemmer {language!r} needs PyStemmer: pip install PyStemmer, or take stemmer none") from error
    try:
        return Stemmer(language)
    except KeyError as error:
        raise UserError(f"stemmer {language!r}: PyStemmer has no such language") from error
