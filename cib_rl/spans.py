"""Where tokens are in the text, and which of them are reasoning.

Spans are half-open ranges of characters in *one* decode of all ids together, special tokens kept: never in a sum of
single decodes, which differs for tokenizers that strip or insert spaces.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Sequence
from functools import cache
from itertools import groupby, pairwise
from typing import Any
from weakref import WeakKeyDictionary

from tokenizers import decoders

from cib_rl.trajectory import Segment, Trajectory

Span = tuple[int, int]

THINK_OPEN, THINK_CLOSE = "<think>", "</think>"
_TAG = re.compile(f"{THINK_OPEN}|{THINK_CLOSE}")
_OPEN_AT_END = re.compile(rf"{THINK_OPEN}\s*\Z")
_TAIL_TOKENS = 32  # of the prompt: enough for a tag that is spelled in pieces and white space after it

# tokenizer -> (id -> what the id alone decodes to, or its bytes)
_texts: WeakKeyDictionary[Any, dict[int, str]] = WeakKeyDictionary()
_bytes: WeakKeyDictionary[Any, dict[int, bytes]] = WeakKeyDictionary()


def decode(tokenizer: Any, ids: Sequence[int]) -> str:
    """The one decode of ids: special tokens kept, spaces untouched."""
    return str(tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))


def token_spans(tokenizer: Any, ids: Sequence[int], text: str | None = None) -> list[Span]:
    """Each token's span of characters in `decode(tokenizer, ids)` (`text`, when the caller has it already).

    Spans start and end in rising order and cover the text. A token that holds only some bytes of a character gets
    that whole character, so neighbours may overlap there; a token without text gets an empty span at its place.
    Where a decoder lets several tokens give their characters only together, each of them gets all of these. Linear in
    the number of tokens.
    """
    if text is None:
        text = decode(tokenizer, ids)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if isinstance(getattr(backend, "decoder", None), decoders.ByteLevel):
        spans, found = _byte_level_spans(tokenizer, ids)
        if found == text:
            return spans
    pieces = _cached(_texts, tokenizer, ids, lambda i: decode(tokenizer, [i]))
    if "".join(pieces) == text:
        ends = [0]
        for piece in pieces:
            ends.append(ends[-1] + len(piece))
        return list(pairwise(ends))
    return _incremental_spans(tokenizer, ids, text)


def _cached(caches: WeakKeyDictionary[Any, dict[int, Any]], tokenizer: Any, ids: Sequence[int], make: Any) -> list[Any]:
    cache_ = caches.setdefault(tokenizer, {})
    for i in set(ids) - cache_.keys():
        cache_[i] = make(i)
    return [cache_[i] for i in ids]


@cache
def _byte_of_character() -> dict[str, int]:
    """Byte-level BPE writes each byte as one printable character; the 68 that are not printable start at U+0100."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in printable]
    return {chr(b): b for b in printable} | {chr(0x100 + n): b for n, b in enumerate(others)}


def _token_bytes(token: str | None) -> bytes:
    table = _byte_of_character()
    if token is None:
        return b""
    # An added token may hold characters outside the alphabet: it stands for its own text.
    return bytes(table[c] for c in token) if all(c in table for c in token) else token.encode()


def _byte_level_spans(tokenizer: Any, ids: Sequence[int]) -> tuple[list[Span], str]:
    """Spans by feeding each token's bytes to an incremental decoder; also the text this gives."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    spans, parts, at = [], [], 0
    for data in _cached(_bytes, tokenizer, ids, lambda i: _token_bytes(tokenizer.convert_ids_to_tokens(i))):
        part = decoder.decode(data)
        parts.append(part)
        unfinished = 1 if data and decoder.getstate()[0] else 0
        spans.append((at, at + len(part) + unfinished))
        at += len(part)
    parts.append(decoder.decode(b"", final=True))
    return spans, "".join(parts)


def _incremental_spans(tokenizer: Any, ids: Sequence[int], text: str) -> list[Span]:
    """For any decoder: decode a few tokens at a time behind the ones before, and accept what agrees with the text."""
    spans: list[Span] = []
    at = before = start = 0  # characters done; first token of the unit before; first token of this unit
    size = 1
    while start < len(ids):
        end = min(start + size, len(ids))
        old, new = decode(tokenizer, ids[before:start]), decode(tokenizer, ids[before:end])
        piece = new[len(old) :]
        fits = new.startswith(old) and text.startswith(piece, at)
        if fits or end == len(ids):
            stop = len(text) if end == len(ids) else at + len(piece)
            spans += [(at, stop)] * (end - start)
            at, before, start, size = stop, start, end, 1
        else:
            size += 1 + size // 4  # growing by a share keeps the whole linear
    return spans


def reasoning_spans(text: str, prompt_tail: str = "", environment: Sequence[Span] = ()) -> list[Span]:
    """The spans of a completion's text that are reasoning, tags included.

    * Reasoning runs from `<think>` to `</think>`, or to the end where it is never closed.
    * A template may put `<think>` at the end of the *prompt* (R1-Distill, Qwen3): reasoning then starts at 0. The same
      holds for a completion whose first tag is a closing one.
    * Without any tag everything is reasoning: else a policy would escape a cost on reasoning by leaving out the tags.

    Args:
        text: the completion.
        prompt_tail: the end of what stands before it.
        environment: rising spans of `text` that the environment wrote. Tags in them do not count, except a `<think>` at
            the end of one (a template that opens the next turn); they may lie inside a reasoning span.
    """
    tags = [(m.start(), m.end(), m.group()) for m in _TAG.finditer(text)]
    inside = [(a, b) for a, b in environment if a < b]
    opened_by_template = {_end_tag(text, a, b) for a, b in inside} - {None}
    tags = [t for t in tags if t[0] in opened_by_template or not any(a < t[1] and t[0] < b for a, b in inside)]
    start = 0 if _OPEN_AT_END.search(prompt_tail) or not tags or tags[0][2] == THINK_CLOSE else None
    spans = []
    for a, b, tag in tags:
        if tag == THINK_OPEN and start is None:
            start = a
        elif tag == THINK_CLOSE and start is not None:
            spans.append((start, b))
            start = None
    if start is not None:
        spans.append((start, len(text)))
    return spans


def _end_tag(text: str, start: int, end: int) -> int | None:
    match = _OPEN_AT_END.search(text[start:end])
    return start + match.start() if match else None


def reasoning_mask(trajectory: Trajectory, tokenizer: Any) -> list[int]:
    """1 for each policy token that lies in reasoning, at least in part. Shape (num_tokens,).

    Each segment is judged by itself, behind its own prompt.
    """
    mask: list[int] = []
    for segment in trajectory.segments:
        mask += _segment_mask(segment, tokenizer)
    return mask


def _segment_mask(segment: Segment, tokenizer: Any) -> list[int]:
    text = decode(tokenizer, segment.completion_ids)
    spans = token_spans(tokenizer, segment.completion_ids, text)
    tail = decode(tokenizer, segment.prompt_ids[-_TAIL_TOKENS:])
    reasoning = reasoning_spans(text, tail, run_spans(spans, segment.policy_mask, of=0))
    mask, k = [], 0
    for (start, end), sampled in zip(spans, segment.policy_mask, strict=True):
        while k < len(reasoning) and reasoning[k][1] <= start:
            k += 1
        inside = k < len(reasoning) and reasoning[k][0] < max(end, start + 1)
        if sampled:
            mask.append(int(inside))
    return mask


def run_spans(spans: Sequence[Span], policy_mask: Sequence[int], *, of: int) -> list[Span]:
    """The spans of the maximal runs of tokens whose mask is `of`."""
    found = []
    for value, run in groupby(zip(spans, policy_mask, strict=True), key=lambda pair: pair[1]):
        members = [span for span, _ in run]
        if value == of:
            found.append((members[0][0], members[-1][1]))
    return found
