"""An agent that searches: turns of text, searches of several queries at once, blocks of documents, an answer."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

from transformers import PreTrainedTokenizerBase

from cib_rl.environments.base import EpisodeEngine, record_generation
from cib_rl.environments.evidence import Evidence
from cib_rl.environments.folding import visible
from cib_rl.environments.search_block import Found
from cib_rl.environments.search_dialogue import Dialogue, Tags, interleaved
from cib_rl.environments.search_keys import SearchKeys
from cib_rl.environments.search_protocol import Action
from cib_rl.environments.tool_calls import ToolCalls
from cib_rl.errors import UserError
from cib_rl.event_loop import run_anywhere
from cib_rl.recipe import EnvironmentSection
from cib_rl.retrieval.base import Document, RetrievalError, Retriever
from cib_rl.trajectory import Segment, StopReason, Trajectory

logger = logging.getLogger(__name__)
_CHARACTERS = 32  # per token that a text has room for: more of a document is not even encoded
_COUNTED = (
    "searches", "queries", "decomposed", "empty_queries", "repeated_queries", "dropped_queries", "failed_queries",
    "empty_results", "invalid_actions", "finished",
)  # fmt: skip
_KEEPS_PLAYING = {StopReason.EOS, StopReason.STOP_STRING, StopReason.LENGTH}


class Search:
    """Turns of Search-R1 and ParallelSearch; see `SearchKeys` and `Protocol` for what can be set.

    A turn ends at `</search>` or `</answer>`. The queries of a search go out at the same time and their documents come
    back in the queries' order, in one block that the policy did not write: masked, and always closed, since documents
    are shortened to the room there is. A query that fails is said so in the block. The question never leaves the
    context: an episode whose context is full ends (stop reason `context`). Every episode runs on its own.

    Diagnostics of each trajectory: `searches`, `queries`, `empty_queries`, `repeated_queries`, `dropped_queries`,
    `failed_queries`, `empty_results`, `invalid_actions`, `decomposed` (searches of several queries),
    `environment_tokens`, `finished` (1 with an answer); and for tasks that name their evidence `evidence_recall`.

    The answer is that of the turn that ended the episode. Pieces of one in other turns, cut off or behind a search, are
    none: an episode that did not finish has no answer.
    """

    reads_answers = True

    def __init__(
        self, section: EnvironmentSection, tokenizer: PreTrainedTokenizerBase, retriever: Retriever, keys: SearchKeys
    ) -> None:
        self.section, self.tokenizer, self.retriever, self.keys = section, tokenizer, retriever, keys
        self.dialogue = make_dialogue(section, tokenizer, keys)
        self.protocol = self.dialogue.protocol
        self.evidence = Evidence(keys.evidence, keys.evidence_by, tokenizer) if keys.evidence else None
        self._slots: WeakKeyDictionary[Any, asyncio.Semaphore] = WeakKeyDictionary()

    def prompt(self, task: Mapping[str, Any]) -> list[int]:
        """Token ids of the prompt. Raises UserError for tasks that cannot be asked."""
        return self.dialogue.prompt(task)

    async def run(self, task: Mapping[str, Any], engine: EpisodeEngine) -> Trajectory:
        """One episode."""
        trajectory = Trajectory(task=task, group=0)
        segment = Segment(self.prompt(task))
        trajectory.segments.append(segment)
        counts: Counter[str] = Counter(dict.fromkeys(_COUNTED, 0))
        await self._play(trajectory, engine, counts)
        trajectory.diagnostics |= {name: float(value) for name, value in counts.items()}
        trajectory.diagnostics["environment_tokens"] = float(len(segment) - trajectory.num_tokens)
        if self.evidence is not None and (recall := self.evidence.recall(trajectory)) is not None:
            trajectory.diagnostics["evidence_recall"] = recall
        if self.keys.drop_failed and counts["failed_queries"]:
            trajectory.errors.append(f"retrieval: {counts['failed_queries']} queries failed")
        return trajectory

    async def _play(self, trajectory: Trajectory, engine: EpisodeEngine, counts: Counter[str]) -> None:
        """Turn after turn, until the stop reason is known."""
        (segment,) = trajectory.segments
        longest = min(filter(None, (self.keys.max_context_length, engine.max_model_len)), default=2**31)

        def left() -> int:
            """Tokens that the context has room for."""
            return longest - len(segment.prompt_ids) - len(segment)

        asked: set[str] = set()
        if left() < 1:
            trajectory.stop_reason = StopReason.PROMPT_TOO_LONG
            return
        for turn in range(self.keys.turns + self.keys.final_answer):
            most = min(left(), self.section.max_turn_length or engine.tokens_left)
            generation = await engine.generate(segment.context_ids, max_tokens=most, stop=self.dialogue.stops)
            record_generation(trajectory, generation)
            if generation.stop_reason not in _KEEPS_PLAYING:
                break
            action = self.dialogue.read(generation)
            if action.kind == "answer":
                trajectory.answer, counts["finished"] = action.answer, int(action.answer is not None)
                trajectory.stop_reason = action.reason or trajectory.stop_reason
                break
            if generation.stop_reason is StopReason.EOS and action.kind == "none" and self.keys.eos_ends:
                break
            if engine.tokens_left == 0:
                trajectory.stop_reason = StopReason.LENGTH
                break
            if turn + 1 == self.keys.turns + self.keys.final_answer:
                trajectory.stop_reason = StopReason.MAX_TURNS
                break
            if action.kind == "search":
                replies = await self._replies(trajectory, action, asked, counts)
                frame = self.dialogue.frame(generation, len(replies))
                observation = self._fitted(frame, replies, left(), len(trajectory.turns[-1].queries))
            else:
                counts["invalid_actions"] += 1
                observation = self.dialogue.invalid(generation)
                observation = observation if len(observation) < left() else None
            if observation is None:
                trajectory.stop_reason = StopReason.CONTEXT
                break
            segment.append_environment(observation)

    def check_rows(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Raises UserError for a row whose evidence cannot be read; warns where a column that was named is nowhere."""
        if self.evidence is None:
            return
        try:
            for row in rows:
                self.evidence.wanted(row)
        except UserError as error:
            raise UserError(f"{error}; environment.evidence names the column, null none") from None
        column = self.evidence.column
        if rows and "evidence" in self.keys.model_fields_set and all(row.get(column) is None for row in rows):
            logger.warning("environment.evidence: no row has a column %r; no recall is logged of them", column)

    def check(self) -> None:
        """Raises UserError when the retriever cannot answer, or not with `k` documents; asked before training."""

        async def checked() -> None:
            await self.retriever.check()
            try:
                await asyncio.wait_for(self.retriever.search(["test"], self.keys.k), self.keys.query_timeout)
            except (RetrievalError, TimeoutError) as error:
                why = str(error) or f"no answer within {self.keys.query_timeout:g} s"
                raise UserError(f"environment.retriever: a search for k = {self.keys.k} fails: {why}") from error

        run_anywhere(checked())

    def recovered(self) -> bool:
        """Wait for the retriever, `outage` seconds at most. Whether it answers."""
        until, pause = time.monotonic() + self.keys.outage, 0.25
        while (left := until - time.monotonic()) > 0:
            try:
                self.check()
                return True
            except UserError:
                time.sleep(min(pause, left))
                pause = min(2 * pause, 10.0)
        return False

    def close(self) -> None:
        """Release the retriever."""
        run_anywhere(self.retriever.close())

    # ---- searching --------------------------------------------------------------------------------------------------

    async def _replies(
        self, trajectory: Trajectory, action: Action, asked: set[str], counts: Counter[str]
    ) -> list[list[list[int]]]:
        """For each call of a turn the pieces of its reply; all queries of all calls are under way at once."""
        turn, chosen, room = trajectory.turns[-1], list[list[str]](), self.keys.max_queries
        for call in action.calls:
            chosen.append(self._chosen(call.queries, asked, counts, room))
            room -= len(chosen[-1])
        started = time.perf_counter()
        if any(call.fault is None for call in action.calls):
            turn.searched, turn.queries = True, [query for queries in chosen for query in queries]
            counts["searches"] += 1
        found = await _all_of([self._retrieve(query) for query in turn.queries])
        turn.search_latency = time.perf_counter() - started
        asked -= {query.casefold() for query, some in zip(turn.queries, found, strict=True) if isinstance(some, str)}
        turn.documents = [[] if isinstance(some, str) else [_noted(d) for d in some] for some in found]
        counts["queries"] += len(found)
        counts["decomposed"] += len(found) > 1
        counts["failed_queries"] += sum(isinstance(some, str) for some in found)
        counts["empty_results"] += sum(some == [] for some in found)
        counts["invalid_actions"] += sum(call.fault is not None for call in action.calls)
        counts["dropped_queries"] += action.surplus
        replies, rest = [], iter(found)
        for call, queries in zip(action.calls, chosen, strict=True):
            own = [next(rest) for _ in queries]
            replies.append(
                self.dialogue.shown.pieces(queries, own)
                if call.fault is None
                else [self.dialogue.shown.say(call.fault)]
            )
        if action.surplus:
            replies[-1].append(
                self.dialogue.shown.say("No more calls can be made at once: the others were not carried out.")
            )
        return replies

    def _fitted(
        self, frame: Sequence[list[int]], replies: Sequence[Sequence[list[int]]], left: int, queries: int
    ) -> list[int] | None:
        """The replies in their frame, cut to the budget; None where the context, with `left` tokens of room, has none
        for the frame."""
        around = sum(map(len, frame))
        most = min(self.keys.max_observation_length * max(1, queries), self.keys.max_block_length)
        room = min(max(0, most - around), left - around - 1)  # a token must be left to be sampled
        return interleaved(frame, self.dialogue.shown.fit(replies, room)) if room >= 0 else None

    def _chosen(self, parts: Sequence[str], asked: set[str], counts: Counter[str], room: int) -> list[str]:
        """The queries that are carried out: not empty, not asked before in this episode, at most `room`."""
        queries: list[str] = []
        for part in parts:
            known = part.casefold()
            if not part:
                counts["empty_queries"] += 1
            elif known in asked:
                counts["repeated_queries"] += 1
            elif len(queries) == room:
                counts["dropped_queries"] += 1
            else:
                asked.add(known)
                queries.append(part)
        return queries

    async def _retrieve(self, query: str) -> Found:
        """The documents of a query, or why there are none."""
        reason = ""
        for attempt in range(self.keys.retries + 1):
            if attempt:
                await asyncio.sleep(self.keys.backoff * 2 ** (attempt - 1))
            try:
                async with self._slot():
                    search = self.retriever.search([query], self.keys.k)
                    return list((await asyncio.wait_for(search, self.keys.query_timeout))[0])
            except TimeoutError:
                reason = f"no answer within {self.keys.query_timeout:g} s"
            except RetrievalError as error:
                reason = error.reason
                if reason == "circuit_open":
                    break
        return reason

    def _slot(self) -> asyncio.Semaphore:
        loop = asyncio.get_running_loop()  # every rollout has a loop of its own
        return self._slots.setdefault(loop, asyncio.Semaphore(self.keys.concurrency))


async def _all_of(searches: Sequence[Coroutine[Any, Any, Found]]) -> list[Found]:
    """What all of them found. Where one raises what no retriever should, it does so after the others have ended."""
    found: list[Found] = []
    for one in await asyncio.gather(*searches, return_exceptions=True):
        if isinstance(one, BaseException):
            raise one
        found.append(one)
    return found


def _noted(document: Document) -> dict[str, Any]:
    noted = {"id": visible(document.id), "title": visible(document.title), "score": document.score}
    return noted if document.url is None else noted | {"url": visible(document.url)}


def make_dialogue(section: EnvironmentSection, tokenizer: PreTrainedTokenizerBase, keys: SearchKeys) -> Dialogue:
    """How policy and environment speak: by tool calls or in tags. Raises UserError for what cannot work."""
    longest = _CHARACTERS * keys.max_block_length
    if keys.preset == "tool_calls":
        return ToolCalls(section, tokenizer, keys.protocol, longest, keys.max_queries)
    return Tags(section, tokenizer, keys.preset, keys.protocol, longest)
