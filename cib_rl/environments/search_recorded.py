"""Recorded texts of search episodes as the tokens that the environment would have made of them."""

from __future__ import annotations

import re
from collections.abc import Iterator

from transformers import PreTrainedTokenizerBase

from cib_rl.environments.base import encode_prompt
from cib_rl.environments.foreign_text import ForeignText
from cib_rl.environments.search_keys import read_keys
from cib_rl.environments.search_protocol import make_protocol
from cib_rl.errors import UserError
from cib_rl.recipe import EnvironmentSection
from cib_rl.trajectory import Segment

_NAN = float("nan")
_OWN_WORDS = (r"The search failed \(", r"Nothing was found\.")  # of `Search`, in the place of documents


class RecordedSearch:
    """Question and completion, in the tags of a protocol, as a segment: blocks of documents are the environment's.

    Policy text and blocks are encoded apart, and a block in the pieces in which `Search` encodes it: its opening, each
    header and document by itself, its closing. So the tokens are those of a rollout in which the policy sampled the
    tokenizer's own encoding of its words, unless a document was cut within a token. White space around a block becomes
    the protocol's; the text that answers an invalid action is the environment's too.
    """

    def __init__(self, section: EnvironmentSection, tokenizer: PreTrainedTokenizerBase) -> None:
        keys = read_keys({"retriever": {}, **section.kwargs})
        self.section, self.tokenizer = section, tokenizer
        p = self.protocol = make_protocol(keys.preset, keys.protocol)
        self.foreign = ForeignText(tokenizer, p.tags)
        self._block = re.compile(rf"<{re.escape(p.information)}>(.*?)</{re.escape(p.information)}>", re.DOTALL)
        self._tag = re.compile(rf"</?{re.escape(p.information)}>")
        self._pieces = Pieces(p.query_header, p.document)

    def segment(self, question: str, completion: str, where: str) -> Segment:
        """The episode, without an end of sequence. Raises UserError, with `where`, for a block that is not closed."""
        segment = Segment(encode_prompt(self.protocol.asking(question), self.section, self.tokenizer))
        for text, is_block in self._parts(completion):
            if is_block:
                segment.append_environment(self._encode_block(text))
                continue
            if stray := self._tag.search(text):
                raise UserError(f"{where}: {stray[0]} without its counterpart: what is not closed cannot be told apart")
            for number, own in enumerate(text.split(self.protocol.invalid) if self.protocol.invalid else [text]):
                if number:
                    segment.append_environment(self.foreign.encode_own(self.protocol.invalid))
                ids = self.foreign.encode_own(own)
                segment.append_policy(ids, [_NAN] * len(ids))
        return segment

    def ends_in_search(self, completion: str) -> bool:
        """Whether the last thing the policy did was to search: then no end of sequence follows."""
        own = "".join(text for text, is_block in self._parts(completion) if not is_block)
        return own.rstrip().endswith(f"</{self.protocol.search}>")

    def _parts(self, completion: str) -> Iterator[tuple[str, bool]]:
        """Policy text and what stands in blocks, in turn; the protocol's white space around blocks left out."""
        parts = self._block.split(completion)  # odd ones are what the group matched
        for index, text in enumerate(parts):
            if index % 2:
                yield text, True
                continue
            if index:
                after = self.protocol.after
                text = text[len(after) :] if after and text.startswith(after) else text.lstrip()
            if index + 1 < len(parts):
                before = self.protocol.before
                text = text[: -len(before)] if before and text.endswith(before) else text.rstrip()
            yield text, False

    def _encode_block(self, text: str) -> list[int]:
        p, own = self.protocol, self.foreign.encode_own
        inner = [token for piece in self._pieces.split(text) for token in self.foreign.encode(piece)]
        return [*own(f"{p.before}<{p.information}>"), *inner, *own(f"</{p.information}>{p.after}")]


class Pieces:
    """Takes what was shown apart into what the environment encodes by itself: headers, documents, sentences."""

    def __init__(self, *forms: str) -> None:
        leads = [lead for form in forms if (lead := _lead(form))]
        self._begin = re.compile(f"(?={'|'.join([*leads, *_OWN_WORDS])})")

    def split(self, text: str) -> list[str]:
        """Pieces that make the text together; none of it is lost."""
        return [piece for piece in self._begin.split(text) if piece]


def _lead(form: str) -> str:
    """A pattern for what a piece begins with: the form up to its first name that is no number."""
    literal = re.split(r"\{(?!number\})\w+\}", form, maxsplit=1)[0]
    return r"\d+".join(re.escape(part) for part in literal.split("{number}")) if literal.strip() else ""
