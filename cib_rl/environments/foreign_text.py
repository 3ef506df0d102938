"""Text that is not the policy's, made harmless before it is added to a context: documents are data."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from cib_rl.environments.folding import fold, replace_folded, visible
from cib_rl.spans import decode

_ROUNDS = 4
_MARK = "‹"
_BRACKETS = set("<>[]{}|｜")
_VALUE = re.compile(r"\{(?:title|text|query)\}")
_SPELLED = re.compile(r"\[/?[A-Z][A-Z_]*\]|<{1,2}/?[A-Za-z_]+>{1,2}")
WITHHELD = "(a text that could not be shown)"


class ForeignText:
    """Encodes foreign text so that nothing in it can pass for structure.

    Structure is: a tag of the given names, with whatever white space, slashes and capitals; the opening `<|` that chat
    templates begin their marks with; every special token of the tokenizer, and every other added one with a bracket in
    it; the marks that its chat template spells in letters (`[INST]`, `<<SYS>>`); the headers with a number of the given
    forms (`Doc 2(Title: `). What could pass for it has its first character replaced by ‹. Texts are compared folded
    (`fold`): full-width letters, character references and characters that are not seen do not help. Tokenizers can
    bring a tag back (full-width brackets under NFKC, bytes spelled as pieces), so the decoded text is looked at again,
    and what cannot be made harmless is withheld.

    Args:
        tags: names of tags.
        forms: what texts are shown in, with places for `{number}`, `{title}`, `{text}` and `{query}`.
        longest: characters of a text that are read; what is behind them is not shown.
        escape: what the place that a text is shown in does to it (a JSON string); applied before it is encoded.
    """

    def __init__(
        self,
        tokenizer: Any,
        tags: Sequence[str],
        forms: Sequence[str] = (),
        longest: int | None = None,
        escape: Callable[[str], str] = str,
    ) -> None:
        self.tokenizer, self.longest, self.escape = tokenizer, longest, escape
        marks = marks_of(tokenizer)
        self._ids = set(tokenizer.convert_tokens_to_ids(sorted(marks)))
        self._structure = re.compile("|".join([*_tags(tags), *_marks(marks | _spelled(tokenizer)), *_headers(forms)]))

    def fill(self, form: str, number: int = 1, **values: str) -> list[int]:
        """Token ids of a form with its values, which are foreign and made harmless; the form itself is ours."""
        values = {name: value[: self.longest] for name, value in values.items()}
        ours = self.encode_own(self.escape(filled(form, number=number, **dict.fromkeys(values, ""))))
        for _ in range(_ROUNDS):
            values = {name: self.broken(value) for name, value in values.items()}
            ids = self.encode_own(self.escape(filled(form, number=number, **values)))
            if not self.more(ids, ours):
                return ids
            values = {name: decode(self.tokenizer, self.encode_own(value)) for name, value in values.items()}
        return self.encode(decode(self.tokenizer, ids))  # it is made of several values together

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, all of it foreign."""
        for _ in range(_ROUNDS):
            ids = self.encode_own(self.broken(text))
            if not self.more(ids):
                return ids
            text = decode(self.tokenizer, ids)
        return [i for i in self.encode_own(WITHHELD) if i not in self._ids]

    def encode_own(self, text: str) -> list[int]:
        """Token ids of a text of the environment's, as it is."""
        return list(self.tokenizer.encode(text, add_special_tokens=False))

    def broken(self, text: str) -> str:
        """The text with the first character of all that could pass for structure replaced."""
        return replace_folded(visible(text), self._structure, _MARK)

    def more(self, ids: Sequence[int], *parts: Sequence[int]) -> bool:
        """Whether there is more structure in tokens, or in their text, than in the parts by themselves."""
        here, there = self._count(ids), [self._count(part) for part in parts]
        return any(n > sum(count[i] for count in there) for i, n in enumerate(here))

    def _count(self, ids: Sequence[int]) -> tuple[int, int]:
        text = fold(decode(self.tokenizer, ids))
        return len(self._structure.findall(text)), sum(i in self._ids for i in ids)


def filled(form: str, **values: Any) -> str:
    """Each `{name}` of a form by its value, once: braces in a document are text."""
    parts = form.split("{")
    text = parts[0]
    for part in parts[1:]:
        name, brace, rest = part.partition("}")
        text += f"{values[name]}{rest}" if brace and name in values else "{" + part
    return text


def marks_of(tokenizer: Any) -> set[str]:
    """The tokens that stand for structure. Others are added for their text: white space, letters, words."""
    added = {token.content: token.special for token in tokenizer.added_tokens_decoder.values()}
    marks = {token for token, special in added.items() if special or (len(token) > 1 and _BRACKETS & set(token))}
    marks |= set(tokenizer.all_special_tokens)
    marks.discard(tokenizer.unk_token)  # stands for characters the tokenizer does not know, and opens nothing
    return {token for token in marks if token.strip()}


def _spelled(tokenizer: Any) -> set[str]:
    """The words in brackets of the chat template, or of its variants: for some models they are no tokens."""
    template = getattr(tokenizer, "chat_template", None) or ""
    return set(_SPELLED.findall(template if isinstance(template, str) else " ".join(template.values())))


def _tags(names: Sequence[str]) -> list[str]:
    return [rf"<(?=[^\w<]*(?:{'|'.join(re.escape(fold(name)) for name in names)}))"] if names else []


def _marks(tokens: Iterable[str]) -> list[str]:
    known = [[re.escape(c) for c in fold(token)] for token in sorted(tokens) if fold(token).strip()]
    return [r"<(?=\s*\|)", *map(_first, known)]


def _headers(forms: Sequence[str]) -> list[str]:
    """What stands before the first value of each form, where that is words with a number."""
    found = []
    for form in forms:
        head, number, tail = _VALUE.split(form)[0].partition("{number}")
        if number and sum(c.isalpha() for c in head + tail) >= 3:
            before, after = ([re.escape(c) + r"\s*" for c in fold(part) if not c.isspace()] for part in (head, tail))
            found.append(_first([*before, r"\d+\s*", *after]))
    return found


def _first(parts: Sequence[str]) -> str:
    """A pattern of all parts that matches their first alone, so that no match hides another."""
    return f"{parts[0]}(?={''.join(parts[1:])})"
