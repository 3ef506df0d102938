"""What a reward for TRL does with the calls it gets: groups, tokens, errors. No trainer here (see `test_trl.py`)."""

from __future__ import annotations

import asyncio
import logging
import math
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cib_rl.errors import UserError
from cib_rl.integrations import as_trl, as_trl_suite
from cib_rl.integrations.episodes import make_trajectory
from cib_rl.integrations.trl_rows import group_numbers
from cib_rl.plugin import PluginError, RewardContext, RewardFailure, RewardSuite, describe_rewards
from cib_rl.recipe import RewardSection
from tests.integrations.support import DIGIT, HERE

UNIFORM = {"name": "uniform"}


@pytest.fixture
def call(tiny_tokenizer):
    """Calls a reward as TRL does, with completions given as texts; `ids` are theirs and an end of sequence."""

    def make(reward, texts, *, prompts=None, ids=True, **columns):
        prompts = prompts or ["q"] * len(texts)
        encoded = [[*tiny_tokenizer.encode(text), 1] for text in texts] if ids is True else ids
        completions = [
            [{"role": "assistant", "content": t}] if isinstance(p, list) else t
            for p, t in zip(prompts, texts, strict=True)
        ]
        return reward(prompts=prompts, completions=completions, completion_ids=encoded, trainer_state=None, **columns)

    return make


# ---------------------------------------------------------------- groups


@given(st.lists(st.integers(0, 2), min_size=1, max_size=6), st.integers(1, 4))
def test_groups_follow_the_layout_whatever_the_prompts_are(prompts, size):
    """Each row of the data set stands `size` times in a row; neighbours may have the same prompt."""
    repeated = [str(p) for p in prompts for _ in range(size)]
    for certain in (True, False):
        numbers = group_numbers(repeated, None, size, whole=True, certain=certain)
        assert numbers == [row for row in range(len(prompts)) for _ in range(size)]


def test_without_a_number_a_group_is_a_run_of_equal_prompts_and_ids():
    prompts = ["a", "a", "b", "b", "b", "a"]
    assert group_numbers(prompts, None, None, whole=True) == [0, 0, 1, 1, 1, 2]
    assert group_numbers(prompts, ["1", "2", "3", "3", "4", "4"], None, whole=True) == [0, 1, 2, 2, 3, 4]


def test_a_number_of_generations_that_does_not_fit_the_prompts_is_refused():
    with pytest.raises(PluginError, match="num_generations is 3, so completions 0 and 2 belong to one prompt"):
        group_numbers(["a", "a", "b", "b", "c", "c"], None, 3, whole=True, certain=False)


def test_the_number_given_by_argument_makes_the_groups_outside_of_a_trainer(tiny_tokenizer, call):
    """Four completions of one prompt that are two rows: lengths 2, 4 and 6, 8 (an end each) around means 3 and 7."""
    texts = ["a", "abc", "abcde", "abcdefg"]
    two = as_trl(f"{HERE}:shorter_than_mean", tokenizer=tiny_tokenizer, num_generations=2)
    assert call(two, texts) == [1.0, -1.0, 1.0, -1.0]
    one = as_trl(f"{HERE}:shorter_than_mean", tokenizer=tiny_tokenizer)
    assert call(one, texts) == [3.0, 1.0, -1.0, -3.0]


# ---------------------------------------------------------------- every built-in reward

BUILT_IN = [d for d in describe_rewards() if d.origin.startswith("cib_rl.rewards.")]
KEYS = {
    "surprisal": {"prior": UNIFORM},
    "l1_max": {"target": 9},
    "truncation": {"limit": 20},
    "cosine_length": {"limit": 20},
    "soft_overlong": {"limit": 20, "cache": 15},
}
OF_SEARCHES = {"inforage", "parallel_search"}  # they apply to rows of search tasks only


@pytest.mark.parametrize("described", BUILT_IN, ids=lambda d: d.name)
def test_every_built_in_reward_gives_trl_what_it_gives_in_our_suite(described, tiny_tokenizer, call):
    name = described.name
    section = {"name": name, **KEYS.get(name, {})}
    outcome = {"outcome": "qa_em"} if described.kind == "shaping" else {}
    gold = "yes" if name == "yes_no" else "4"
    texts = [f"2 and 2 <answer>{gold}</answer>", "it is <answer>5</answer>", f"<answer>{gold}</answer>", "no"]
    row = {"answer": gold, "numbers": [4], "target": 4}
    columns = {key: [value] * 4 for key, value in row.items()}
    got = call(as_trl(section, tokenizer=tiny_tokenizer, answer="tag", num_generations=2, **outcome), texts, **columns)
    made = [
        make_trajectory(
            {"id": "q", "prompt": "q", **row}, group=i // 2, member=i % 2, prompt_ids=tiny_tokenizer.encode("q"),
            completion_ids=[*tiny_tokenizer.encode(text), 1], policy_mask=None, end_ids={1}, tokenizer=tiny_tokenizer,
            answer="tag",
        )
        for i, text in enumerate(texts)
    ]  # fmt: skip
    sections = [RewardSection(name="qa_em")] if outcome else []
    suite = RewardSuite([*sections, RewardSection(**section)], RewardContext(tokenizer=tiny_tokenizer))
    own = suite.score(made).values[name]
    assert got == [None if math.isnan(value) else pytest.approx(value) for value in own]
    assert (got == [None] * 4) == (name in OF_SEARCHES)


# ---------------------------------------------------------------- tokens


def test_token_ids_are_used_as_they_are(tiny_tokenizer, call):
    """The ids spell `<think>` in seven tokens, which no encoder would give: it has one token for it."""
    spelled = [i for c in "think" for i in tiny_tokenizer.encode(c)]
    reward = as_trl("surprisal", prior=UNIFORM, tokenizer=tiny_tokenizer)
    nats = -call(reward, ["think"], ids=[[4, *spelled, 1]])[0]
    assert nats == pytest.approx(7 * reward.step.scorer.suite.rewards[0].target.prior.nats)


def test_text_is_encoded_only_where_there_are_no_ids(tiny_tokenizer, call):
    reward = as_trl("surprisal", prior=UNIFORM, tokenizer=tiny_tokenizer)
    nats = reward.step.scorer.suite.rewards[0].target.prior.nats
    message = [{"role": "user", "content": "q"}]
    tiny_tokenizer.chat_template = "{{ messages[0]['content'] }}"
    for prompts in (None, [message, message]):
        values = call(reward, ["abc", "<think>a"], prompts=prompts, ids=None)
        assert values == pytest.approx([-3 * nats, -2 * nats])


def test_what_others_wrote_is_never_the_policys(tiny_tokenizer, call):
    """The tool's digit is no answer and no cost; without a mask such a completion is refused."""
    tiny_tokenizer.chat_template = "{{ messages[0]['content'] }}"
    prompts = [[{"role": "user", "content": "q"}]]
    completions = [[{"role": "assistant", "content": "7"}, {"role": "tool", "content": "8"}]]
    given = dict(prompts=prompts, completions=completions, answer=["8"], id=["r5"])
    ids = [[*tiny_tokenizer.encode("78"), 1]]
    correct = as_trl("math_correct", tokenizer=tiny_tokenizer, answer=DIGIT)
    cost = as_trl("surprisal", prior=UNIFORM, tokenizer=tiny_tokenizer)
    with pytest.raises(PluginError, match=r"row 'r5': the completion holds a message of 'tool'.*policy_mask"):
        correct(completion_ids=ids, **given)
    assert correct(completion_ids=ids, policy_mask=[[1, 0, 1]], **given) == [0.0]
    assert correct(completion_ids=ids, policy_mask=[[1, 1, 1]], **given) == [1.0]
    nats = cost.step.scorer.suite.rewards[0].target.prior.nats
    assert cost(completion_ids=ids, policy_mask=[[1, 0, 1]], **given) == pytest.approx([-2 * nats])
    with pytest.raises(PluginError, match="row 'r5': policy_mask has 2 entries for 3 completion tokens"):
        cost(completion_ids=ids, policy_mask=[[1, 0]], **given)


def test_a_completion_of_no_tokens_is_scored(tiny_tokenizer, call):
    reward = as_trl("surprisal", prior=UNIFORM, tokenizer=tiny_tokenizer)
    assert call(reward, ["", "a"], ids=[[], [9]])[0] == 0.0
    assert call(as_trl(f"{HERE}:cut_off", tokenizer=tiny_tokenizer), ["", "a"], ids=[[], [9]]) == [0.0, 1.0]


# ---------------------------------------------------------------- plugins


TRL_STYLE = """
def spy(prompts, completions, level, log_metric, log_extra, trainer_state, **columns):
    log_metric("seen", float(len(prompts)))
    log_extra("half", [c[: len(c) // 2] for c in completions])
    return [lv if lv > 0 else None for lv in level]
async def spy_too(completions, **columns):
    return [float(len(c)) for c in completions]
"""


def test_a_function_of_trls_own_kind_logs_to_trl(tiny_tokenizer, call, tmp_path):
    (tmp_path / "mine.py").write_text(TRL_STYLE)
    reward = as_trl("mine.py:spy", kind="shaping", tokenizer=tiny_tokenizer, base_dir=tmp_path)
    metrics, extras = {}, {}
    values = call(
        reward, ["abcd", "ab"], level=[2.0, -1.0], log_metric=metrics.__setitem__, log_extra=extras.__setitem__
    )
    assert values == [2.0, None]
    assert (reward.__name__, metrics, extras) == ("spy", {"seen": 2.0}, {"half": ["ab", "a"]})
    awaited = as_trl("mine.py:spy_too", kind="shaping", tokenizer=tiny_tokenizer, base_dir=tmp_path)
    assert asyncio.run(call(awaited, ["abcd", "ab"])) == [4.0, 2.0]


def test_it_is_named_by_label_and_survives_pickling(tiny_tokenizer, call):
    reward = as_trl(
        {"name": "surprisal", "prior": UNIFORM}, label="price", normalize="length", tokenizer=tiny_tokenizer
    )
    again = pickle.loads(pickle.dumps(reward))
    assert again.__name__ == reward.__name__ == "price"
    assert call(again, ["abc"]) == call(reward, ["abc"])
    assert as_trl("surprisal", prior=UNIFORM, tokenizer=tiny_tokenizer).__name__ == "surprisal"


def test_rewards_of_a_suite_stay_together_when_pickled(tiny_tokenizer, call):
    suite = as_trl_suite(["math_correct", "kimi_length"], tokenizer=tiny_tokenizer, answer=DIGIT)
    again = pickle.loads(pickle.dumps(suite))
    assert [one.__name__ for one in again] == ["math_correct", "kimi_length"] and again[0].step is again[1].step
    for one, other in zip(suite, again, strict=True):
        assert call(one, ["7", "ab8"], answer=["7", "7"]) == call(other, ["7", "ab8"], answer=["7", "7"])


def test_a_suite_looks_again_at_every_step(tiny_tokenizer):
    """The values of a step are kept for its other functions, and for them only."""
    correct, kimi = as_trl_suite(["math_correct", "kimi_length"], tokenizer=tiny_tokenizer, answer=DIGIT)
    ids = [tiny_tokenizer.encode("7")]
    completions = ["7"]
    given = dict(prompts=["q"], completions=completions, completion_ids=ids)
    assert correct(answer=["7"], **given) == [1.0] and kimi(answer=["7"], **given) == [0.0]
    assert correct(answer=["8"], **given) == [0.0]
    assert correct(answer=["7"], **(given | {"completions": ["7"]})) == [1.0]
    # kimi_length has not been asked about these; the next step is another one all the same.
    two = dict(prompts=["q"] * 2, completions=["7", "a7"], completion_ids=[ids[0], [9, *ids[0]]], answer=["7"] * 2)
    assert kimi(**two) == [0.5, -0.5]


def test_a_tokenizer_is_taken_from_a_model_by_name(tiny_model_dir, call):
    reward = as_trl("surprisal", prior=UNIFORM, tokenizer=str(tiny_model_dir))
    relative = as_trl("surprisal", prior=UNIFORM, tokenizer=tiny_model_dir.name, base_dir=tiny_model_dir.parent)
    assert call(reward, ["abc"]) == call(relative, ["abc"])


def test_a_threshold_decides_what_a_success_is(tiny_tokenizer, call):
    arguments = dict(prior=UNIFORM, only_when_correct=True, tokenizer=tiny_tokenizer, outcome=f"{HERE}:share")
    values = {
        threshold: call(as_trl("surprisal", success={"threshold": threshold}, **arguments), ["abcd"], share=[0.4])[0]
        for threshold in (0.3, 0.5)
    }
    assert values[0.3] is not None and values[0.5] is None


# ---------------------------------------------------------------- errors


def test_a_reward_that_goes_on_failing_stops_the_run(tiny_tokenizer, call, caplog):
    """None and a warning at first; an error when all of the last `stop_after` completions failed."""
    reward = as_trl(f"{HERE}:picky", tokenizer=tiny_tokenizer, stop_after=4)
    with caplog.at_level(logging.WARNING, logger="cib_rl.integrations"):
        assert call(reward, ["a", "b"], id=["r1", "r3"]) == [None, 1.0]
        assert call(reward, ["a"], id=["r1"], prompts=["a row's prompt"]) == [None]
        assert "1 of 1 completions could not be scored: row 'r1'" in caplog.records[-1].getMessage()
    with pytest.raises(RewardFailure, match=r"'picky' failed on all 4 trajectories.*the judge is away.*last 2 calls"):
        call(reward, ["a"] * 3, id=["r1"] * 3)


def test_a_larger_share_of_failures_than_allowed_stops_the_run(tiny_tokenizer, call):
    """2 of 4 is half: allowed by the default share, more than a share of 0.4."""
    ids = ["r1", "r1", "r3", "r3"]
    assert call(as_trl(f"{HERE}:picky", tokenizer=tiny_tokenizer, stop_after=4), ["a"] * 4, id=ids)[2:] == [1.0, 1.0]
    strict = as_trl(f"{HERE}:picky", tokenizer=tiny_tokenizer, stop_after=4, max_error_share=0.4)
    with pytest.raises(RewardFailure, match=r"failed on 2 of 4 .*max_error_share of 0\.4"):
        call(strict, ["a"] * 4, id=ids)


def test_a_row_without_an_id_is_named_by_its_prompt(tiny_tokenizer, call, caplog):
    reward = as_trl(f"{HERE}:odd_ones_fail", tokenizer=tiny_tokenizer)
    with caplog.at_level(logging.WARNING, logger="cib_rl.integrations"):
        assert call(reward, ["a", "ab"], prompts=["how much is 1 + 1?", "x" * 99]) == [2.0, None]
    assert f"row '{'x' * 59}…' (completion 1)" in caplog.text and "how much" not in caplog.text


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("surprise", {}, r"no reward is named 'surprise' \(did you mean 'surprisal'"),
        ("surprisal", {"priro": 1}, r"no keyword 'priro' \(did you mean 'prior'\?\); its signature is surprisal\("),
        ("surprisal", {"prior": UNIFORM, "weight": 0.5}, r"'surprisal': weight is TRL's .*reward_weights"),
        ("surprisal", {"prior": UNIFORM, "tokenizer": None}, "give tokenizer="),
        ("surprisal", {"prior": UNIFORM, "only_when_correct": True}, "only_when_correct needs an outcome reward"),
        ("surprisal", {"prior": UNIFORM, "outcome": f"{HERE}:cut_off"}, "are of the kinds shaping and shaping"),
        ("math_correct", {"outcome": f"{HERE}:picky"}, "are of the kinds outcome and outcome"),
        ("math_correct", {"answer": "bocksed"}, "unknown style 'bocksed'"),
        ("math_correct", {"stop_after": 0}, "stop_after must be at least 1"),
        ("math_correct", {"success": {"treshold": 1}}, "success: treshold: Extra inputs"),
        ("math_correct", {"max_error_share": 2}, "reward 'math_correct': max_error_share: Input should be less"),
        ({"kind": "outcome"}, {}, "name: Field required"),
    ],
)
def test_mistakes_show_when_the_reward_is_made(name, changes, message, tiny_tokenizer):
    with pytest.raises(UserError, match=message):
        as_trl(name, **({"tokenizer": tiny_tokenizer} | changes))


def test_missing_columns_name_what_is_there(tiny_tokenizer, call):
    reward = as_trl("math_correct", tokenizer=tiny_tokenizer, columns={"answer": "solution"})
    with pytest.raises(PluginError, match="no column 'solution' for 'answer'; the rows have id, target"):
        call(reward, ["1"], id=["r1"], target=["1"])
    with pytest.raises(PluginError, match="column 'solution' has 1 entries for 2 completions"):
        call(reward, ["1", "2"], solution=["1"])


def test_a_reward_that_asks_for_successes_says_that_it_has_no_outcome(tiny_tokenizer, call):
    with pytest.raises(PluginError, match=r"needs an outcome reward.*outcome="):
        call(as_trl("kimi_length", tokenizer=tiny_tokenizer), ["a", "b"], id=["r1", "r1"])
