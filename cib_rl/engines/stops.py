"""Finding stop strings in tokens as they come: a string may begin and end inside a token."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

_INCOMPLETE = "�"  # what a decoder writes for a character of which bytes are still missing


class StopWatch:
    """Watches one completion for stop strings. Special tokens count as text, so a stop string may be one of them."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stop: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        self._stop = stop
        self._ids: list[int] = []  # tokens that may still change how the next one reads
        self._read = 0  # the first so many of `_ids` are in `_tail` already
        self._tail = ""  # end of the text so far, one character shorter than the longest stop string
        self._keep = max(map(len, stop)) - 1

    def push(self, token: int) -> str | None:
        """Add a token. Returns the stop string that the text now contains (the one that begins first), or None."""
        self._ids.append(token)
        # How a token reads may depend on the one before it (a space at the start of a word, bytes of one character),
        # so the new text is the difference of two decodes that begin at the same place.
        before = self._decode(self._ids[: self._read])
        after = self._decode(self._ids)
        new = after[len(before) :]
        found = self._find(self._tail + new)
        if new.endswith(_INCOMPLETE) and len(self._ids) - self._read < 8:
            return found
        self._tail = (self._tail + new)[-self._keep :] if self._keep else ""
        self._ids = self._ids[self._read :]
        self._read = len(self._ids)
        return found

    def _find(self, text: str) -> str | None:
        found = [(at, i) for i, string in enumerate(self._stop) if (at := text.find(string)) >= 0]
        return self._stop[min(found)[1]] if found else None

    def _decode(self, ids: list[int]) -> str:
        if not ids:
            return ""
        text = self._tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return str(text)
