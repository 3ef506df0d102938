"""How an agent searches and answers in tags: the forms of Search-R1, ParallelSearch and InForage."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any, Literal, TypeVar

from cib_rl.errors import UserError
from cib_rl.trajectory import StopReason

Form = TypeVar("Form")

_SEARCH_R1 = (
    "Answer the given question. You must conduct reasoning inside <think> and </think> first every time you get new "
    "information. After reasoning, if you find you lack some knowledge, you can call a search engine by <search> query "
    "</search> and it will return the top searched results between <information> and </information>. "
)
_FREELY = (
    "You can search as many times as your want. If you find no further external knowledge needed, you can directly "
    "provide the answer inside <answer> and </answer>, without detailed illustrations. For example, <answer> Beijing "
    "</answer>. Question: {question}\n"
)
_DECOMPOSE = (
    "If the original query is complex or involves multiple parts, you are encouraged to decompose it into smaller "
    "sub-questions, separated by ##. For example: <search> sub-question 1 ## sub-question 2 </search>. "
)
_INFORAGE = """You are an intelligent agent designed to solve complex queries or tasks by retrieving external \
knowledge and reasoning step by step.

Please follow these instructions carefully:

1. For each piece of information you receive:
   - Think step by step and explain your reasoning inside <think> and </think> tags.

2. If you need more information to proceed:
   - Issue a search by writing your subquery inside <search> and </search> tags.
   - Retrieved results will appear between <evidence> and </evidence> tags.
   - You can conduct multiple searches as needed.

3. When you have collected enough information:
   - Provide your final answer using the <answer> and </answer> tags.
   - Do not include explanations or reasoning in the answer block.
   - Keep your answer concise.

Now, solve the following task:

Task: {question}
"""
_INVALID = (
    "\nMy previous action is invalid. If I want to search, I should put the query between <search> and </search>. If I "
    "want to give the final answer, I should put the answer between <answer> and </answer>. Let me try again.\n"
)


@dataclass(frozen=True)
class Call:
    """One request of a turn, which gets one reply. `queries`: stripped; empty ones are kept, to be counted. `fault`:
    why it cannot be carried out, in words for the policy."""

    queries: list[str] = field(default_factory=list)
    fault: str | None = None


@dataclass(frozen=True)
class Action:
    """What a turn asks for: a search by one call or several, an end of the episode (`answer`: stripped, None where it
    is empty or there is none), or nothing that could be understood. `surplus`: calls that were left out, being too
    many. `reason`: why an episode ends, where the engine's reason says less (a stop string that is the end of a
    message)."""

    kind: Literal["search", "answer", "none"]
    calls: list[Call] = field(default_factory=list)
    answer: str | None = None
    surplus: int = 0
    reason: StopReason | None = None


@dataclass(frozen=True)
class Protocol:
    """Tags and texts of an episode.

    Attributes:
        template: the user's message; `{question}` stands for the task's prompt.
        question_mark: white space around the task's prompt is taken off, and a question mark added where it has none.
        search, information, answer, think: names of the tags.
        delimiter: splits one search into several queries; None: a search is one query.
        invalid: what is added after a turn that neither searches nor answers.
        document: one passage, of `{number}` (1, 2, … within its query), `{title}` and `{text}`.
        query_header: stands before the passages of each query when a search has several; of `{number}` and `{query}`.
        before, after: what surrounds the block of information.
    """

    template: str = _SEARCH_R1 + _DECOMPOSE + _FREELY
    question_mark: bool = False
    search: str = "search"
    information: str = "information"
    answer: str = "answer"
    think: str = "think"
    delimiter: str | None = "##"
    invalid: str = _INVALID
    document: str = "Doc {number}(Title: {title}) {text}\n"
    query_header: str = "Results {number} for: {query}\n"
    before: str = "\n\n"
    after: str = "\n\n"

    def asking(self, question: str) -> str:
        """The user's message with the question."""
        if self.question_mark:
            question = question.strip()
            question += "" if question.endswith("?") else "?"
        return self.template.replace("{question}", question)

    @property
    def tags(self) -> tuple[str, ...]:
        """The names of all tags."""
        return self.think, self.search, self.information, self.answer

    @property
    def own_tags(self) -> list[str]:
        """The names of further tags that the forms of the block show."""
        return tag_names(self.before, self.after, self.document, self.query_header)

    @property
    def stops(self) -> list[str]:
        """The strings that end a turn."""
        return [f"</{self.search}>", f"</{self.answer}>"]

    @cached_property
    def _action(self) -> re.Pattern[str]:
        names = "|".join(re.escape(name) for name in (self.search, self.answer))
        return re.compile(rf"<({names})>(.*?)</\1>", re.DOTALL)

    def read(self, text: str) -> Action:
        """The first complete search or answer in the policy's text of one turn."""
        match = self._action.search(text)
        if match is None:
            return Action("none")
        if match[1] == self.answer:
            return Action("answer", answer=match[2].strip() or None)
        parts = match[2].split(self.delimiter) if self.delimiter else [match[2]]
        return Action("search", [Call([" ".join(part.split()) for part in parts])])


PRESETS: dict[str, Protocol] = {
    # Search-R1 (arXiv 2503.09516, Table 1 and the released code): one query per search. The mark is its data's.
    "search_r1": Protocol(template=_SEARCH_R1 + _FREELY, question_mark=True, delimiter=None),
    # ParallelSearch (arXiv 2508.09303, Table 1 and the released code): no header before a query's passages.
    "parallel_search": Protocol(question_mark=True, query_header=""),
    # InForage (arXiv 2505.09316, the released code): the block is called evidence.
    "inforage": Protocol(template=_INFORAGE, information="evidence", delimiter=None),
}


def make_protocol(preset: str | None, changes: Mapping[str, Any]) -> Protocol:
    """A preset, or the default, with `changes` to it. Raises UserError for those that make no sense."""
    if preset is not None and preset not in PRESETS:
        raise UserError(f"environment.preset: {preset!r} does not search in tags; known that do: {', '.join(PRESETS)}")
    protocol = changed(PRESETS[preset] if preset else Protocol(), changes)
    for name in protocol.tags:
        if not re.fullmatch(r"[^\s<>/]+", name):
            raise UserError(f"environment.protocol: {name!r} cannot be the name of a tag; give it without brackets")
    if len(set(protocol.tags)) < len(protocol.tags):
        raise UserError(f"environment.protocol: two tags have the same name: {', '.join(protocol.tags)}")
    return protocol


def changed(base: Form, changes: Mapping[str, Any]) -> Form:
    """A protocol with changes. Raises UserError for unknown ones, and where question or documents have no place.

    Null is no change, where it is no value: a recipe that extends one with other texts empties them so.
    """
    known = {field.name: field.type for field in fields(base)}  # type: ignore[arg-type]
    changes = {
        name: value for name, value in changes.items() if value is not None or "None" in str(known.get(name, ""))
    }
    if unknown := set(changes) - set(known):
        raise UserError(f"environment.protocol: unknown key {min(unknown)!r}; known: {', '.join(sorted(known))}")
    for key, value in changes.items():
        kind = bool if isinstance(getattr(base, key), bool) else str
        if value is not None and not isinstance(value, kind):
            raise UserError(f"environment.protocol.{key}: {value!r} is no {'text' if kind is str else 'true or false'}")
    protocol: Any = replace(base, **changes)  # type: ignore[type-var]
    if "{question}" not in protocol.template:
        raise UserError("environment.protocol.template: {question} does not occur in it: no task would be asked")
    if "{text}" not in protocol.document:
        raise UserError("environment.protocol.document: {text} does not occur in it: no document would be shown")
    return protocol


def tag_names(*texts: str) -> list[str]:
    """The names of all tags in texts of the environment's."""
    return re.findall(r"<\s*/?\s*(\w+)", " ".join(texts))
