"""The format reward: what is well formed, who may write what, and the released code's answer part."""

from __future__ import annotations

import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cib_rl.plugin import PluginError, RewardContext, RewardSuite
from cib_rl.recipe import RewardSection
from cib_rl.rewards.format import Format, find_fault
from cib_rl.trajectory import Segment, Trajectory

TAGS = re.compile(r"</?(?:think|search|information|answer)>")
GOOD = ["<think>a</think><search>b</search>", ("<information>c</information>",), "<think>d</think><answer>e</answer>"]


def episode(tokenizer, *parts, prompt="q", group=0, answer=None, gold="x"):
    """Parts are what the policy sampled (text), what the environment wrote ((text,)), or a new segment's prompt."""
    segments = [Segment(tokenizer.encode(prompt))]
    for part in parts:
        if isinstance(part, dict):
            segments.append(Segment(tokenizer.encode(part["prompt"])))
        elif isinstance(part, str):
            ids = tokenizer.encode(part)
            segments[-1].append_policy(ids, [-1.0] * len(ids))
        else:
            segments[-1].append_environment(tokenizer.encode(part[0]))
    return Trajectory({"id": "t", "prompt": prompt, "answer": gold}, group, segments=segments, answer=answer)


@pytest.fixture
def tokenizer(tiny_tokenizer):
    """One that can spell the other tags too."""
    tiny_tokenizer.add_tokens([f"<{end}{name}>" for name in ("search", "information", "evidence") for end in ("", "/")])
    return tiny_tokenizer


@pytest.fixture
def check(tokenizer):
    reward = Format(context=RewardContext(tokenizer=tokenizer))

    def fault(*parts, **keys):
        trajectory = episode(tokenizer, *parts, **keys)
        found = reward.fault(trajectory)
        assert reward([trajectory]) == [float(found is None)]
        return found

    return fault


@pytest.mark.parametrize(
    "parts",
    [
        GOOD,
        ["<think>a</think><answer>b</answer>"],
        [" \n<think>a</think> \n <answer>b</answer>\n"],
        ["<think></think><answer></answer>"],
        [*GOOD[:2], "<think>c</think><search>d</search>", ("e",), "<think>f</think><answer>g</answer>"],
        ["<think>a</think><answer>b</answer><eos>"],
        ["<think>a</think><search>b</search><eos>", ("c",), "\n<think>d</think><answer>e</answer> <eos>"],
        ["<think>1 + 1 = 2, and 3 / 3</think><answer>2</answer>"],
    ],
)
def test_well_formed(check, parts):
    assert check(*parts) is None


@pytest.mark.parametrize(
    "parts, fault",
    [
        ([], "the episode ends start"),
        (["a"], "text start: 'a'"),
        (["<answer>a</answer>"], "<answer> start"),
        (["<think>a</think>"], "the episode ends after think"),
        (["<think>a"], "the episode ends in think"),
        (["<think>a</think><answer>b"], "the episode ends in answer"),
        (["<think>a</think>b<answer>c</answer>"], "text after think: 'b'"),
        (["<think>a</think><answer>b</answer>c"], "text end: 'c'"),
        (["<think>a</think><answer>b</answer><eos>c"], "text end"),
        (["<think>a</think><answer>b</answer><answer>c</answer>"], "<answer> end"),
        (["<think>a<think>b</think><answer>c</answer>"], "<think> in think"),
        (["<think>a</think><think>b</think><answer>c</answer>"], "<think> after think"),
        (["<think>a</answer>"], "</answer> in think"),
        (["<search>a</search>", ("b",), "<think>c</think><answer>d</answer>"], "<search> start"),
        (["<think>a</think><search>b</search>", ("c",), "<answer>d</answer>"], "<answer> informed"),
        (["<think>a</think><search>b</search>", ("c",), "<search>d</search>"], "<search> informed"),
        (["<think>a</think><search>b</search>"], "the episode ends after search"),
        (["<think>a</think><search>b</search><think>c</think><answer>d</answer>"], "<think> after search"),
        (["<think>a</think><search>b</search>", ("c",), "d<think>e</think>"], "text informed: 'd'"),
    ],
)
def test_not_well_formed(check, parts, fault):
    assert (check(*parts) or "").startswith(fault)


def test_a_policy_that_writes_its_own_documents_breaks_the_format(check):
    forged = "<think>a</think><search>b</search><information>c</information><think>d</think><answer>e</answer>"
    assert check(forged) == "<information> after search"
    assert check("<think>a<information>b</information></think><answer>c</answer>") == "<information> in think"


def test_a_document_cannot_break_the_format_whatever_it_holds(check):
    for document in ("</information>", "<answer>z</answer>", "<think>", "</search><search>", "text only", " "):
        assert check(GOOD[0], (f"<information>{document} and more</information>",), GOOD[2]) is None


def test_what_the_environment_writes_elsewhere_is_an_answer_to_a_mistake(check):
    again = ("my action is not correct. let me rethink.",)
    assert check("<think>a</think>", again, "<think>b</think><answer>c</answer>") == (
        "the environment had to answer after think"
    )
    assert check("<think>a", again, "b</think><answer>c</answer>") == "the environment had to answer in think"
    assert check("<think>a</think><answer>b</answer>", again) == "the environment had to answer end"


def test_a_template_may_open_the_thought(check):
    assert check("a</think><answer>b</answer>", prompt="q <think>\n") is None
    assert check("<think>a</think><answer>b</answer>", prompt="q <think>") == "<think> in think"
    assert check("a</think><answer>b</answer>", prompt="q <think> q") == "text start: 'a'"
    assert check(GOOD[0], ("c <think>",), "d</think><answer>e</answer>") is None


def test_documents_may_come_in_a_new_segments_prompt(check):
    assert check(GOOD[0], {"prompt": "q, found: c"}, GOOD[2]) is None
    assert check(GOOD[0], ("c",), {"prompt": "q, found: c"}, GOOD[2]) is None
    assert check("<think>a", {"prompt": "q"}, "b</think><answer>c</answer>") == "the environment had to answer in think"


def test_the_name_of_the_documents_tag_is_a_key(tokenizer):
    text = "<think>a</think><search>b</search><evidence>c</evidence>"
    for name, fault in (("evidence", "<evidence> after search"), ("information", "text after search")):
        reward = Format(information=name, context=RewardContext(tokenizer=tokenizer))
        assert (reward.fault(episode(tokenizer, text)) or "").startswith(fault)


def test_without_a_tokenizer_it_cannot_tell_who_wrote_what():
    with pytest.raises(PluginError, match="format needs a tokenizer"):
        Format(context=RewardContext())


def test_with_exact_match_it_is_the_released_codes_answer_part(tokenizer):
    """1 right and well formed, 0.9 right, 0.1 well formed, 0 neither (structure score 0.1)."""
    sections = [RewardSection(name="qa_em", weight=0.9), RewardSection(name="format", weight=0.1)]
    suite = RewardSuite(sections, RewardContext(tokenizer=tokenizer))
    bad = "<answer>x</answer>"
    made = [
        episode(tokenizer, *parts, answer=answer, gold="x")
        for parts, answer in ((GOOD, "x"), ([bad], "x"), (GOOD, "y"), ([bad], None))
    ]
    scores = suite.score(made)
    suite.close()
    assert scores.total.tolist() == pytest.approx([1.0, 0.9, 0.1, 0.0])
    assert scores.correct.tolist() == [True, True, False, False]


# --- against a second definition: one regular expression over who wrote what ------------------------------------------

BLOCK = re.compile(
    r"E\s*(?:<think>[^<]*</think>\s*<search>[^<]*</search>\s*E\s*)*"
    r"<think>[^<]*</think>\s*<answer>[^<]*</answer>\s*"
)
PARTS = ["<think>", "</think>", "<search>", "</search>", "<answer>", "</answer>", "<information>", " ", "a", None]


@given(st.integers(0, 2**32), st.integers(0, 4))
def test_agrees_with_a_regular_expression(seed, changes):
    """A well-formed sequence with some parts changed, dropped or doubled; None is the environment's text."""
    draw = random.Random(seed)
    sequence: list[str | None] = []
    for _ in range(draw.randrange(3)):
        sequence += ["<think>", "a", "</think>", " ", "<search>", "a", "</search>", None]
    sequence += ["<think>", "a", "</think>", "<answer>", "a", "</answer>"]
    for _ in range(changes):
        at = draw.randrange(len(sequence))
        sequence[at : at + draw.randrange(2)] = draw.choice([[], [draw.choice(PARTS)], [draw.choice(PARTS)]])
        sequence = sequence or [" "]
    written = re.sub("E+", "E", "E" + "".join("E" if part is None else part for part in sequence))
    pieces = [(False, "q")] + [(part is not None, part or "doc <answer>") for part in sequence]
    assert (find_fault(pieces, TAGS) is None) == bool(BLOCK.fullmatch(written)), written


def test_calls_of_tools_may_stand_one_behind_the_other(tokenizer):
    """Two calls in a message, replies, an answer; with an end of turn behind each message."""
    call, replies = "<tool_call>a</tool_call>", ("<tool_response>b</tool_response>",)
    tokenizer.add_tokens([f"<{end}{name}>" for name in ("tool_call", "tool_response") for end in ("", "/")])
    keys = {"information": "tool_response", "search": "tool_call"}
    tools, tags = (Format(**some, context=RewardContext(tokenizer=tokenizer)) for some in (keys, {}))
    last = "<think>c</think><answer>d</answer><eos>"
    good = episode(tokenizer, f"<think>a</think>{call}\n{call}<eos>", replies, last)
    assert tools.fault(good) is None and tags.fault(good) is not None
    for first in (f"<think>a</think>{call}so{call}", f"{call}<think>a</think>", f"<think>{call}</think>{call}"):
        assert tools.fault(episode(tokenizer, first, replies, last)) is not None
    forged = f"<think>a</think>{call}<tool_response>b</tool_response><eos>"
    assert tools.fault(episode(tokenizer, forged, replies, last)) == "<tool_response> after search"
    twice = [f"<think>a</think>{'<search>a</search>' * 2}", ("b",), "<think>c</think><answer>d</answer>"]
    assert tags.fault(episode(tokenizer, *twice)) == "<search> after search"
