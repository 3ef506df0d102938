"""InForage: coverage by the union of what was found, the discount, the released code's form, rewards per turn."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cib_rl.errors import UserError
from cib_rl.plugin import PluginError, RewardContext, RewardSuite
from cib_rl.recipe import RewardSection
from tests.rewards.searching import OUTCOME, episode, shaping

NAME = {"name": "inforage"}
GOLD = {"supporting_ids": ["1", "2", "3", "4"]}


def _totals(trajectories, **keys):
    return shaping(NAME | keys, trajectories).total.tolist()


def test_the_union_counts_and_steps_beyond_two_cost():
    rows = [
        episode([("a", ["1", "2"])], **GOLD),  # 2 turns: 1 + 0.2·½
        episode([("a", ["1"])], [("b", ["1", "2", "9"])], **GOLD),  # 3 turns: (1 + 0.2·½)·0.95
        episode([("a", ["1"]), ("b", ["2", "3"])], score=0, **GOLD),  # wrong: 0.2·¾
        episode(**GOLD),  # from memory
        episode([("a", ["1"])], [("b", ["2"])], [("c", ["3"])], [("d", ["4"])], **GOLD),  # 5 turns: 1.2·0.95³
    ]
    assert _totals(rows) == pytest.approx([1.1, 1.1 * 0.95, 0.15, 1.0, 1.2 * 0.95**3])
    assert [t.diagnostics["evidence_recall"] for t in rows] == [0.5, 0.5, 0.75, 0, 1]


def test_the_released_codes_form():
    """Best single turn; no discount up to three turns, 0.95^(T − 2) from four on, 0.95^(T − 1) without an answer."""
    a, b, c = [("a", ["1"])], [("b", ["2", "3"])], [("c", ["4"])]
    rows = [
        episode(a, b, **GOLD),
        episode(a, b, c, **GOLD),
        episode(a, b, c, answer=None, score=0, **GOLD),
        episode(a, b, c, a, b, c, answer=None, score=0, **GOLD),
    ]
    assert _totals(rows, form="code") == pytest.approx([1.1, 1.1 * 0.95**2, 0.1 * 0.95**2, 0.1 * 0.95**5])


def test_titles_can_be_the_evidence_and_rows_without_any_get_nothing():
    rows = [episode([("a", ["x"])], titles=["X", "Y"]), episode([("a", ["x"])])]
    scores = shaping(NAME | {"evidence": "titles", "by": "title"}, rows)
    assert scores.total.tolist() == pytest.approx([1.1, 1.0]) and np.isnan(scores.values["inforage"][1])


def test_texts_are_found_in_what_was_shown_and_nowhere_else():
    """Gold answers as evidence: found in blocks, normalised, by whole words; the policy's own text brings nothing."""
    rows = [
        episode(
            [("a", ["1"])], [("b", ["2"])], shown=["on the River Esk.", "in BORLAND, they say"], gold=["esk", "Borland"]
        ),
        episode([("a", ["1"])], shown=["risky"], gold=["Esk"]),
        episode(shown=[], gold=["a"]),  # "a" is what the policy thought
        episode([("a", ["1"])], answer=None, shown=["Esk"], gold="Esk"),  # nothing comes after the block
    ]
    assert _totals(rows, evidence="gold", by="text") == pytest.approx([1.2 * 0.95, 1.0, 1.0, 1.2])
    assert [t.diagnostics["evidence_recall"] for t in rows] == [1, 0, 0, 1]


def test_what_is_named_twice_is_one_piece_and_ids_may_be_numbers():
    rows = [
        episode([("a", ["1", "1"])], [("b", ["1", "2"])], supporting_ids=["1", "2", "2", "1", ""]),
        episode([("a", ["7"])], supporting_ids=[7, 8]),
        episode([("a", ["1"])], supporting_ids=[""]),
    ]
    scores = shaping(NAME | {"t_min": 3}, rows)
    assert scores.total.tolist() == pytest.approx([1.2, 1.1, 1.0]) and np.isnan(scores.values["inforage"][2])
    text = episode([("a", ["1"])], shown="on the Esk", gold=["Esk", "the esk.", "Borland"])
    assert _totals([text], evidence="gold", by="text") == pytest.approx([1.1])


def test_evidence_belongs_to_the_episode_wherever_it_stands_in_the_batch():
    rows = [episode([("a", [name])], **{"supporting_ids": [name]}) for name in "123"] + [episode(**GOLD)]
    rows += [episode([("a", ["1"])], supporting_ids=["2"])]
    expected = [1.2, 1.2, 1.2, 1.0, 1.0]
    for order in ([0, 1, 2, 3, 4], [3, 4, 0, 2, 1], [4, 3, 2, 1, 0]):
        for form in ("paper", "code"):
            assert _totals([rows[i] for i in order], form=form) == pytest.approx([expected[i] for i in order])


def test_a_query_that_is_repeated_in_a_header_brings_no_evidence():
    shown = "Results 1 for: Esk Doc 1(Title: T) a river Results 2 for: Borland Doc 1(Title: T) a town"
    guess = episode([("Esk", ["1"]), ("Borland", ["2"])], shown=shown, gold=["Esk"])
    honest = episode(
        [("the river", ["1"]), ("Borland", ["2"])], shown=shown.replace("a river", "the Esk"), gold=["Esk"]
    )
    alone = episode([("Esk", ["1"])], shown="Doc 1(Title: T) the Esk", gold=["Esk"])  # one query has no header
    assert _totals([guess, honest, alone], evidence="gold", by="text") == pytest.approx([1.0, 1.2, 1.2])


def test_urls_can_be_the_evidence():
    row = episode([("a", ["1", "2"])], urls=["u1", "u3"])
    row.turns[0].documents[0][0]["url"] = "u1"
    assert _totals([row], evidence="urls", by="url") == pytest.approx([1.1])


@given(
    st.lists(st.lists(st.sampled_from("123456"), max_size=4), max_size=5), st.booleans(), st.integers(0, 3),
    st.sampled_from(["paper", "code"]),
)  # fmt: skip
def test_rewards_per_turn_sum_to_the_episodes_and_stand_where_evidence_came(found, right, t_min, form):
    row = episode(*[[("q", ids)] for ids in found], score=float(right), **GOLD)
    keys = {"t_min": t_min, "form": form}
    whole = shaping(NAME | keys, [row])
    turns = shaping(NAME | keys | {"per_turn": True}, [row])
    assert turns.total == pytest.approx(whole.total)
    paid = turns.token_rewards[0]
    ends = np.cumsum([turn.end - turn.start for turn in row.turns]) - 1
    assert np.flatnonzero(np.delete(paid, ends)).size == 0
    seen = set()
    for end, ids in zip(ends, found, strict=False):
        new = (set(ids) & {"1", "2", "3", "4"}) - seen
        seen |= new
        assert paid[end] == pytest.approx(0.2 * len(new) / 4)


def test_wrong_columns_and_outcomes_are_named():
    def suite(**keys):
        section = RewardSection(name="cib_rl.rewards.inforage:inforage", **keys)
        return RewardSuite([RewardSection(name=OUTCOME), section], RewardContext())

    with pytest.raises(UserError, match="no task row has evidence in the column 'supporting_ids'"):
        suite().check_rows([{"id": "1"}])
    good = {"id": "0", "supporting_ids": ["1"]}
    for wrong in (5, {"title": ["A"]}, [["A", 0]], [None], [1.0], [True]):
        with pytest.raises(UserError, match="row '1': supporting_ids must be its id, or a list of them; it holds "):
            suite().check_rows([good, {"id": "1", "supporting_ids": wrong}])
    with pytest.raises(PluginError, match="no outcome reward labelled 'qa_f1'"):
        suite(outcome="qa_f1").score([episode([("a", ["1"])], **GOLD)])
