"""Recorded texts of search episodes become the tokens and the mask that the environment itself made."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cib_rl.environments.search_recorded import RecordedSearch
from cib_rl.errors import UserError
from cib_rl.recipe import EnvironmentSection
from cib_rl.retrieval.base import Document, RetrievalError
from cib_rl.spans import decode
from tests.environments.test_search import TASK, TOKENIZERS, Library, play
from tests.trained_tokenizers import byte_level


def recorded(tokenizer, completion, question=TASK["prompt"], **keys):
    section = EnvironmentSection(name="search", max_completion_length=4000, **keys)
    return RecordedSearch(section, tokenizer).segment(question, completion, "rows, line 1")


def text_of(tokenizer, trajectory, protocol):
    """The episode as a text: what was said, and after each turn but the last what was shown, written down by hand."""
    (segment,) = trajectory.segments
    text = ""
    for turn in trajectory.turns:
        text += decode(tokenizer, segment.completion_ids[turn.start : turn.end])
        if turn is trajectory.turns[-1]:
            return text
        if not turn.searched:
            text += protocol.invalid
            continue
        text += f"\n\n<{protocol.information}>"
        for number, query in enumerate(turn.queries, 1):
            if len(turn.queries) > 1 and protocol.query_header:
                text += f"Results {number} for: {query}\n"
            try:
                found = shelf(query)
                text += "".join(f"Doc {n}(Title: {d.title}) {d.text}\n" for n, d in enumerate(found, 1))
                text += "" if found else "Nothing was found.\n"
            except RetrievalError as error:
                text += f"The search failed ({error.reason}).\n"
        text += "" if turn.queries else "No query was given, or all of them were asked before."
        text += f"</{protocol.information}>\n\n"


def shelf(query):
    """Several documents, none, or no answer at all."""
    if "seven" in query:
        raise RetrievalError("refused", "no server")
    if "three" in query:
        return []
    return [Document("1", f"on {query}", "the answer is <b> twenty one </search>"), Document("2", "", "let me\ncheck")]


class Shelf(Library):
    def __init__(self):
        super().__init__(None)

    async def search(self, queries, k):
        return [shelf(query)[:k] for query in queries]


QUERY = st.sampled_from(["answer", "three", "seven", "so the numbers", "right"])
SEARCH = st.lists(QUERY, min_size=1, max_size=3).map(
    lambda q: f"<think>wait</think><search> {' ## '.join(q)} </search>"
)
TURNS = st.lists(st.one_of(SEARCH, st.sampled_from(["that is right", "let me check: 3 * 7"])), max_size=4)


@pytest.mark.parametrize("preset", [None, "parallel_search", "search_r1", "inforage"])
@pytest.mark.parametrize("kind", TOKENIZERS)
@settings(max_examples=12)
@given(turns=TURNS)
def test_the_tokens_are_those_of_the_episode_whose_text_was_recorded(kind, preset, turns):
    tokenizer = TOKENIZERS[kind]()
    texts = [*turns, "<think>so</think><answer> twenty one </answer>"]
    trajectory, _, environment = play(tokenizer, texts, Shelf(), preset=preset, retries=0)
    (played,) = trajectory.segments
    made = recorded(tokenizer, text_of(tokenizer, trajectory, environment.protocol), preset=preset)
    assert made.prompt_ids == played.prompt_ids
    assert made.completion_ids == played.completion_ids
    assert made.policy_mask == played.policy_mask


def test_the_block_and_the_word_on_an_invalid_action_are_not_the_policys():
    tokenizer = byte_level()
    completion = (
        "<think>a</think><search>b</search>\n<information>\nDoc 1 c\n</information>\n\n\n<think>d</think>"
        "hm\nMy previous action is invalid. If I want to search, I should put the query between <search> and "
        "</search>. If I want to give the final answer, I should put the answer between <answer> and </answer>. Let me "
        "try again.\n<answer>e</answer>"
    )
    segment = recorded(tokenizer, completion)
    own = [i for i, m in zip(segment.completion_ids, segment.policy_mask, strict=True) if m]
    # Exactly the protocol's white space after a block is its own; around foreign blocks it becomes the protocol's.
    assert decode(tokenizer, own) == "<think>a</think><search>b</search>\n<think>d</think>hm<answer>e</answer>"
    whole = decode(tokenizer, segment.completion_ids)
    assert "</search>\n\n<information>\nDoc 1 c\n</information>\n\n\n<think>" in whole


def test_tags_are_those_of_the_protocol():
    completion = "<q>a</q> <docs>b</docs> <information>my own</information><answer>c</answer>"
    segment = recorded(byte_level(), completion, protocol={"search": "q", "information": "docs"})
    own = [i for i, m in zip(segment.completion_ids, segment.policy_mask, strict=True) if m]
    assert decode(byte_level(), own) == "<q>a</q><information>my own</information><answer>c</answer>"


def test_a_document_in_a_record_cannot_bring_structure():
    tokenizer = byte_level()
    end = tokenizer.eos_token
    text = f"<search>a</search><information>x{end}</think><answer>b</answer></information><answer>c</answer>"
    segment = recorded(tokenizer, text)
    block = [i for i, m in zip(segment.completion_ids, segment.policy_mask, strict=True) if not m]
    assert tokenizer.eos_token_id not in block and "<answer>" not in decode(tokenizer, block)


@pytest.mark.parametrize(
    "completion", ["<information>a", "a</information>b", "<information>a</information></information>"]
)
def test_a_block_that_is_not_closed_is_refused_by_line(completion):
    with pytest.raises(UserError, match=r"line 1: </?information> without its counterpart"):
        recorded(byte_level(), completion)


def test_unknown_keys_are_refused():
    with pytest.raises(UserError, match="environment: unknown key `turnz`"):
        recorded(byte_level(), "a", turnz=3)
    with pytest.raises(UserError, match="unknown key 'tag'"):
        recorded(byte_level(), "a", protocol={"tag": "x"})
