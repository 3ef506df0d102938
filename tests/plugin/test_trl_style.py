"""Reward functions written for TRL work unchanged."""

from __future__ import annotations

import pytest

from cib_rl.plugin import PluginError


class WordTokenizer:
    """Decodes id n to `wn`; id 5 is special."""

    def decode(self, ids, skip_special_tokens=False):
        return " ".join(f"w{i}" for i in ids if not (skip_special_tokens and i == 5))


SPY = """
def spy(prompts, completions, completion_ids, level, log_metric, log_extra, trainer_state, bonus=0.0, **kwargs):
    log_extra("seen", completions)
    log_metric("count", len(prompts))
    assert kwargs["answer"] == ["1"] * len(prompts) and "prompt" not in kwargs
    return [len(ids) + lv + bonus if lv is not None else None for ids, lv in zip(completion_ids, level)]
"""


def test_a_function_gets_what_trl_would_give_it(suite, plugin, trajectory):
    plugin(SPY)
    one = suite({"name": "mine.py:spy", "kind": "shaping", "bonus": 0.5}, tokenizer=WordTokenizer())
    chat = [{"role": "user", "content": "hi"}]
    scores = one.score([trajectory(0, level=2, environment=2), trajectory(1, level=None, prompt=chat), trajectory(2)])
    assert scores.values["spy"][0] == 5.5
    assert scores.errors == [] and [t != t for t in scores.values["spy"]] == [False, True, True]
    text = "w6 w6"  # policy tokens only, without the special one
    assert scores.extras["seen"] == [text, [{"role": "assistant", "content": text}], text]
    assert scores.metrics == {"count": 3.0}


def test_without_a_tokenizer_the_policys_text_is_the_completion(suite, plugin, trajectory):
    plugin("def size(completions): return [float(len(c)) for c in completions]\n")
    assert suite({"name": "mine.py:size", "kind": "shaping"}).score([trajectory(text="12345")]).total.tolist() == [5.0]


def test_what_was_logged_belongs_to_one_call_of_score(suite, plugin, trajectory):
    plugin(SPY)
    one = suite({"name": "mine.py:spy", "kind": "shaping"})
    one.score([trajectory(0, level=1), trajectory(1, level=1)])
    assert one.score([trajectory(0, level=1)]).metrics == {"count": 1.0}


def test_an_async_function_is_awaited(suite, plugin, trajectory):
    plugin("async def f(completions, **kwargs): return [1.0] * len(completions)\n")
    assert suite({"name": "mine.py:f", "kind": "outcome"}).score([trajectory()]).correct.tolist() == [True]


def test_a_missing_column_is_named_with_the_way_to_map_it(suite, plugin, trajectory):
    plugin("def f(completions, solution): return [1.0] * len(completions)\n")
    with pytest.raises(PluginError, match=r"'f' needs 'solution', but the task rows have only id, answer.*columns"):
        suite({"name": "mine.py:f", "kind": "outcome"}).score([trajectory()])


def test_columns_are_looked_for_in_all_rows_and_a_window_without_one_is_given_none(suite, plugin, trajectory):
    plugin("def f(completions, solution): return [float(s is not None) for s in solution]\n")
    one = suite({"name": "mine.py:f", "kind": "outcome"})
    rows = [{"prompt": "p", "answer": "1"}, {"prompt": "p", "answer": "1", "solution": "1"}]
    with pytest.raises(PluginError, match="'f' needs 'solution', but the task rows have only answer"):
        one.check_rows(rows[:1])
    one.check_rows(rows)
    assert one.score([trajectory(0), trajectory(1)]).total.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("parameters", ["**kwargs", "solution=None", "solution"])
def test_what_has_a_default_or_a_keyword_of_the_recipe_needs_no_column(suite, plugin, parameters):
    plugin(f"def f(completions, {parameters}): return [1.0] * len(completions)\n")
    given = {"solution": "7"} if parameters == "solution" else {}
    suite({"name": "mine.py:f", "kind": "outcome", **given}).check_rows([{"prompt": "p", "answer": "1"}])


def test_an_unknown_keyword_is_refused_where_the_function_takes_no_others(suite, plugin):
    plugin("def f(completions, scale=1.0): return [scale] * len(completions)\n")
    with pytest.raises(PluginError, match=r"no keyword 'skale'; its signature is f\(completions, scale=1.0\)"):
        suite({"name": "mine.py:f", "kind": "outcome", "skale": 2.0})


@pytest.mark.trl
def test_the_real_trl_rewards_work(suite, trajectory):
    one = suite(
        {"name": "trl.rewards:accuracy_reward", "kind": "outcome"},
        {"name": "trl.rewards:think_format_reward", "kind": "shaping", "weight": 0.5},
    )
    chat = [{"role": "user", "content": "One third?"}]
    texts = [r"<think>hm</think> \boxed{\frac{1}{3}}", r"\boxed{\frac{1}{2}}", r"<think>hm</think> \boxed{0.5}"]
    made = [trajectory(g, text=text, prompt=chat, solution=r"\frac{1}{3}") for g, text in enumerate(texts)]
    scores = one.score(made)
    assert scores.outcome.tolist() == [1.0, 0.0, 0.0]
    assert scores.shaping.tolist() == [0.5, 0.0, 0.5]
    assert scores.correct.tolist() == [True, False, False]
    assert scores.extras["gold_parsed"][0].startswith("[1/3")


LOGS = """
def {name}(prompts, log_metric, log_extra, **kwargs):
    log_metric("m", {value})
    log_metric("m", {value})
    log_extra("seen", [{value}] * len(prompts))
    log_extra("{name} alone", ["x"] * len(prompts))
    return [0.0] * len(prompts)
"""


def test_what_two_functions_log_under_one_name_is_kept_of_both(suite, plugin, trajectory):
    plugin(LOGS.format(name="f", value=1.0) + LOGS.format(name="g", value=4.0))
    rows = [trajectory(0), trajectory(1)]
    scores = suite(*({"name": f"mine.py:{name}", "kind": "outcome"} for name in "fg")).score(rows)
    assert scores.metrics == {"m": 2.5}
    assert scores.extras == {"seen": [[1.0, 4.0]] * 2, "f alone": ["x"] * 2, "g alone": ["x"] * 2}
    assert rows[1].extras == {"seen": [1.0, 4.0], "f alone": "x", "g alone": "x"}


def test_a_call_that_is_made_again_does_not_log_twice(suite, plugin, trajectory):
    plugin(
        "def f(completion_ids, log_extra, **kwargs):\n    log_extra('n', [len(ids) for ids in completion_ids])\n"
        "    return [1.0] * (1 if len(completion_ids) > 1 else len(completion_ids))\n"
    )
    rows = [trajectory(0, tokens=2), trajectory(1, tokens=3)]
    assert suite({"name": "mine.py:f", "kind": "outcome"}).score(rows).extras == {"n": [2, 3]}


@pytest.mark.parametrize("call", ["def __call__(self, prompts, completions, **kwargs)", "def __call__(self, **kwargs)"])
@pytest.mark.parametrize("prefix", ["", "async "])
def test_a_class_called_as_trl_calls_works(suite, plugin, trajectory, call, prefix):
    plugin(
        f"class Long:\n    def __init__(self, *, least: int): self.least = least\n    {prefix}{call}:\n"
        "        seen = kwargs['completions'] if 'completions' in kwargs else completions\n"
        "        return [float(len(c) >= self.least) for c in seen]\n"
    )
    one = suite({"name": "mine.py:Long", "kind": "outcome", "least": 4})
    assert one.score([trajectory(0, text="1234"), trajectory(1, text="123")]).outcome.tolist() == [1.0, 0.0]
    assert one.rewards[0].is_async == bool(prefix)


def test_outside_of_training_the_trainers_state_is_that_of_step_0(suite, plugin, trajectory):
    plugin("def f(prompts, trainer_state, **kwargs): return [trainer_state.global_step + 0.5] * len(prompts)\n")
    assert suite({"name": "mine.py:f", "kind": "outcome"}).score([trajectory()]).outcome.tolist() == [0.5]
