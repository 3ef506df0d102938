"""What the tiny agent's warm start learns from: truthful, wasteful, rarely parallel; and what passes for parallel."""

from __future__ import annotations

import asyncio
import random
import re
from itertools import islice
from pathlib import Path

import pytest

from cib_rl.environments.search_keys import read_keys
from cib_rl.environments.search_protocol import make_protocol
from cib_rl.environments.tool_calls import ToolProtocol
from cib_rl.fiction.demonstrations import Habits
from cib_rl.fiction.questions import questions
from cib_rl.fiction.rows import demonstrations, in_calls, in_tags
from cib_rl.fiction.world import make_world
from cib_rl.grading.queries import DistinctQueries
from cib_rl.recipe_io import load_recipe
from cib_rl.retrieval.factory import make_retriever
from cib_rl.trainers.sft_generators import GENERATORS
from cib_rl.trainers.sft_settings import SFTSettings
from cib_rl.trajectory import StopReason, Turn

WARMSTART = load_recipe("search/warmstart", schema=SFTSettings).models["policy"]


def _rows(count: int, habits: Habits = Habits(), seed: int = 0) -> list[tuple[str, str]]:  # noqa: B008
    keys = read_keys({"retriever": {}, **WARMSTART.section().kwargs})
    protocol = make_protocol(keys.preset, keys.protocol)
    return [(d.question, in_tags(d, protocol)) for d in islice(demonstrations(keys.k, habits, seed), count)]


def test_every_demonstration_reads_its_answer_from_what_it_found() -> None:
    for question, text in _rows(300):
        blocks = re.findall(r"<information>(.*?)</information>", text, re.DOTALL)
        answer = re.fullmatch(r".*<answer> (.*)</answer>", text, re.DOTALL)
        assert answer is not None and len(blocks) == text.count("<search>") >= 1
        assert answer[1] in "".join(blocks), (question, text)
        # Nothing is said of a document before it was there.
        for value in re.findall(r": (1[5-9]\d\d)\.", text.split("<information>")[0]):
            pytest.fail(f"{value} was known before the first search: {question}")


def test_habits_are_the_shares_they_say() -> None:
    rows = _rows(1500, Habits(parallel=0.2, paraphrased=0.1, checks=0.5))
    comparisons = [text for question, text in rows if " or " in question]
    together = sum(bool(re.search(r"the \w+ of [^.]* and the \w+ of", text)) for text in comparisons)
    checked = sum("Let me check" in text for _, text in rows)
    assert together / len(comparisons) == pytest.approx(0.2, abs=0.04)
    assert checked / len(rows) == pytest.approx(0.5, abs=0.05)
    plain = "".join(text for _, text in _rows(200, Habits(parallel=0, paraphrased=0, checks=0)))
    assert "##" not in plain and "again" not in plain


def test_by_calls_an_episode_says_what_it_says_in_tags() -> None:
    """The same thoughts, queries, documents and answer; several queries of a search are several calls of a message."""
    keys = read_keys({"retriever": {}, **WARMSTART.section().kwargs})
    protocol, calls = make_protocol(keys.preset, keys.protocol), ToolProtocol(document=keys.protocol["document"])
    several = 0
    for shown in islice(demonstrations(2, Habits(parallel=0.5), 0), 60):
        question, *messages = in_calls(shown, calls)
        assert question == {"role": "user", "content": shown.question}
        text = ""
        for message in messages:
            text += "" if message["role"] == "tool" else message["content"]
            if queries := [call["function"]["arguments"]["query"] for call in message.get("tool_calls", [])]:
                text += f"<search> {' ## '.join(queries)}</search>\n<information>"
                several += len(queries) > 1
            text += message["content"] if message["role"] == "tool" else ""
        closed = re.sub(r"(<information>.*?)(?=<think>)", r"\1</information>\n", text, flags=re.DOTALL)
        assert closed == in_tags(shown, protocol)
    assert several > 5


def test_the_same_seed_gives_the_same_rows_and_their_worlds_are_not_the_tasks() -> None:
    """Names are few, so that some questions look like those of the tasks; what is true of them is not."""
    rows = _rows(800)  # of two worlds
    assert rows == _rows(800) != _rows(800, seed=1)
    answers = {q.text: q.answer for split in ("train", "heldout") for q in questions(make_world(0), split, 2000)}  # type: ignore[arg-type]
    alike = [(answers[question], text) for question, text in rows if question in answers and " or " not in question]
    assert len(alike) > 50
    assert sum(text.endswith(f"<answer> {answer}</answer>") for answer, text in alike) < 0.2 * len(alike)


def test_the_shipped_policys_tokenizer_is_the_recipes() -> None:
    from transformers import AutoTokenizer

    from cib_rl.models import resolve_model

    shipped = AutoTokenizer.from_pretrained(resolve_model("shipped:search/policy", Path()))
    made = GENERATORS["fiction"].tokenizer(WARMSTART)
    assert shipped.get_vocab() == made.get_vocab()
    for question, text in _rows(50):
        assert shipped.decode(shipped.encode(question + text)) == question + text
        assert "<search>" in shipped.tokenize(text)


def test_only_queries_for_both_parts_of_a_question_pass_for_a_decomposition(tmp_path) -> None:
    """The keys of the shipped recipe, over the real index: wordings of one query and queries at random do not pass."""
    (section,) = [r for r in load_recipe("search/tiny").rewards if r.name == "parallel_search"]
    keys = {key: section.kwargs[key] for key in ("max_word_overlap", "max_document_overlap", "anchored")}
    distinct = DistinctQueries(**keys)
    retriever, rng = make_retriever("bm25", {"corpus": "fiction"}, tmp_path), random.Random(0)
    titles = [row["title"] for row in make_world(0).documents()]
    passed = dict.fromkeys(("both", "wordings", "at random", "nonsense"), 0)
    asked = [q for q in questions(make_world(0), "train", 200) if q.type == "comparison"]
    for question in asked:
        one, other = (fact.title for fact in question.facts)
        tries = {
            "both": [f"{one} born", f"{other} year"],
            "wordings": [one, f"{one} again"],
            "at random": [one, rng.choice([title for title in titles if title not in question.text])],
            "nonsense": [one, "the thing of it"],
        }
        for name, queries in tries.items():
            found = asyncio.run(retriever.search(queries, 2))
            documents = [[{"id": d.id} for d in some] for some in found]
            turn = Turn(0, 0, 0, StopReason.STOP_STRING, searched=True, queries=queries, documents=documents)
            passed[name] += distinct([([turn], question.text)])[0][0] > 1
    assert passed["both"] == len(asked) > 80
    assert passed["wordings"] == passed["nonsense"] == 0
    assert passed["at random"] <= 0.06 * len(asked)  # "The Silent Crown" shares a word with some questions
