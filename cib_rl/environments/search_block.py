"""What searches found, as tokens: pieces of harmless text that share the room there is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from cib_rl.environments.foreign_text import ForeignText
from cib_rl.retrieval.base import Document
from cib_rl.spans import decode

Found = list[Document] | str
"""The documents of a query, or why there are none."""


class Shown:
    """Writes the results of queries and cuts them to a budget.

    Args:
        document, query_header: forms (see `Protocol`).
        complete: whether a text may end as it does; one that is cut is cut further until it may.
    """

    def __init__(
        self,
        foreign: ForeignText,
        document: str,
        query_header: str,
        complete: Callable[[str], bool] | None = None,
    ) -> None:
        self.foreign, self.document, self.query_header, self.complete = foreign, document, query_header, complete
        self.tokenizer: Any = foreign.tokenizer

    def pieces(self, queries: Sequence[str], found: Sequence[Found]) -> list[list[int]]:
        """Token ids of each header, each document and each message, in order."""
        if not queries:
            return [self.say("No query was given, or all of them were asked before.")]
        pieces = []
        for number, (query, some) in enumerate(zip(queries, found, strict=True), start=1):
            if self.query_header and len(queries) > 1:
                pieces.append(self.foreign.fill(self.query_header, number, query=query))
            if isinstance(some, str):
                pieces.append(self.foreign.fill("The search failed ({text}).\n", text=some))
            elif not some:
                pieces.append(self.say("Nothing was found.\n"))
            else:
                pieces += [
                    self.foreign.fill(self.document, place, title=d.title, text=d.text)
                    for place, d in enumerate(some, start=1)
                ]
        return pieces

    def say(self, text: str) -> list[int]:
        """A sentence of the environment's."""
        return self.foreign.encode_own(self.foreign.escape(text))

    def fit(self, groups: Sequence[Sequence[list[int]]], room: int) -> list[list[int]]:
        """The pieces of each group as one list, at most `room` tokens in all: long pieces are cut."""
        shares = iter(_shares([len(piece) for pieces in groups for piece in pieces], room))
        return [self._joined([self._whole(piece, next(shares)) for piece in pieces]) for pieces in groups]

    def _joined(self, pieces: Sequence[list[int]]) -> list[int]:
        """Pieces one after the other. Where two of them make a tag together, all of it is made harmless anew."""
        ids = [token for piece in pieces for token in piece]
        if self.foreign.more(ids, *pieces):
            ids = self._whole(self.foreign.encode(decode(self.tokenizer, ids)), len(ids))
        return ids

    def _whole(self, ids: list[int], size: int) -> list[int]:
        """The first tokens, at most `size`, without a last character of which only some bytes are left."""
        if size >= len(ids):
            return ids
        whole, cut = decode(self.tokenizer, ids), ids[:size]
        while cut and not self._ends(decode(self.tokenizer, cut), whole):
            cut = cut[:-1]
        return cut

    def _ends(self, text: str, whole: str) -> bool:
        # All of it is decoded: a decoder that takes neighbouring bytes together (byte fallback) gives none of them back
        # where one character is cut at either end. A U+FFFD that stands in the whole is no broken character.
        if text.endswith("\ufffd") and not whole.startswith(text):
            return False
        return self.complete is None or self.complete(text)


def _shares(lengths: Sequence[int], room: int) -> list[int]:
    """How many tokens of each piece are shown: as equal as can be, none more than it has, `room` in all."""
    shares = [0] * len(lengths)
    waiting = sorted(range(len(lengths)), key=lambda i: lengths[i])
    while waiting:
        share = room // len(waiting)
        shares[waiting[0]] = min(lengths[waiting[0]], share)
        room -= shares[waiting.pop(0)]
    return shares
