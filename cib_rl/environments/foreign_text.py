"""Text that is not the policy's, made harmless before it is added to a context: documents are data."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from cib_rl.spans import decode

_ROUNDS = 4
WITHHELD = "(a text that could not be shown)"


class ForeignText:
    """Encodes foreign text so that nothing in it can pass for structure.

    In what it returns there is no special or added token of the tokenizer, and the decoded text has no tag of the given
    names: an opening bracket before such a name becomes ‹, whatever white space, slashes and capitals are used; the
    texts of special tokens are broken in the same way, or by a space. Tokenizers that normalise can bring a tag back
    (full-width brackets under NFKC), so the decoded text is looked at again, and what cannot be made harmless is
    withheld.
    """

    def __init__(self, tokenizer: Any, tags: Sequence[str]) -> None:
        self.tokenizer = tokenizer
        names = "|".join(re.escape(name) for name in tags)
        self._tag = re.compile(rf"<(?=[\s/]*(?:{names}))", re.IGNORECASE)
        special = set(tokenizer.all_special_tokens) | set(tokenizer.get_added_vocab())
        special.discard(tokenizer.unk_token)  # stands for characters the tokenizer does not know, and opens nothing
        self._special = sorted((token for token in special if token.strip()), key=len, reverse=True)
        self._ids = set(tokenizer.convert_tokens_to_ids(list(special))) - {tokenizer.unk_token_id}

    def encode(self, text: str) -> list[int]:
        """Token ids of the text, harmless."""
        for _ in range(_ROUNDS):
            ids = list(self.tokenizer.encode(self._broken(text), add_special_tokens=False))
            text = decode(self.tokenizer, ids)
            if self._ids.isdisjoint(ids) and not self._forges(text):
                return ids
        return [i for i in self.tokenizer.encode(WITHHELD, add_special_tokens=False) if i not in self._ids]

    def _broken(self, text: str) -> str:
        text = self._tag.sub("‹", text)
        for token in self._special:
            if token in text:
                text = text.replace(token, token.replace("<", "‹") if "<" in token else f"{token[0]} {token[1:]}")
        return text

    def _forges(self, text: str) -> bool:
        return self._tag.search(text) is not None or any(token in text for token in self._special)
