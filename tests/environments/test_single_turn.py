"""One prompt, one completion: what reaches the engine and what comes back."""

import pytest

from cib_rl.engines.base import Generation, Sampling
from cib_rl.environments.base import encode_prompt
from cib_rl.environments.factory import make_environment
from cib_rl.errors import UserError
from cib_rl.recipe import EnvironmentSection
from cib_rl.rollout import Episode, Rollouts
from cib_rl.trajectory import StopReason
from tests.environments.scripted import ScriptedEngine

TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: <think>\n{% endif %}"
)


def _play(tokenizer, *answers, prompt="1+1=", limit=8, **section):
    environment = EnvironmentSection(max_completion_length=limit, **section)
    engine = ScriptedEngine(tokenizer, *answers)
    rollouts = Rollouts(make_environment(environment, tokenizer), engine, tokenizer, environment.answer)
    episodes = [Episode({"id": str(i), "prompt": prompt, "answer": "2"}, 5, i, seed=i) for i in range(len(answers))]
    return rollouts.run(episodes, Sampling(max_tokens=limit, temperature=0.7)), engine


def test_an_episode_is_its_prompt_and_what_the_engine_gave(tiny_tokenizer):
    (t,), engine = _play(tiny_tokenizer, "2<eos>", stop=["x"])
    assert t.segments[0].prompt_ids == tiny_tokenizer.encode("1+1=") == engine.requests[0][0]
    assert t.completion_ids == tiny_tokenizer.encode("2<eos>") and t.policy_mask == [1, 1] and t.logprobs == [-0.5] * 2
    assert (t.group, t.member, t.stop_reason, len(t.turns)) == (5, 0, StopReason.EOS, 1)
    sampling = engine.requests[0][1]
    assert (sampling.temperature, sampling.max_tokens, sampling.stop) == (0.7, 8, ("x",))


def test_the_turn_limit_counts_where_it_is_less(tiny_tokenizer):
    _, engine = _play(tiny_tokenizer, "2", max_turn_length=3)
    assert engine.requests[0][1].max_tokens == 3


@pytest.mark.parametrize("reason", list(StopReason))
def test_stop_reasons_pass_through(tiny_tokenizer, reason):
    (t,), _ = _play(tiny_tokenizer, Generation([9], [-1.0], reason))
    assert t.stop_reason is reason and t.turns[0].stop_reason is reason
    assert t.truncated == (reason.value in ("length", "context", "prompt_too_long", "max_turns"))
    assert t.failed == (reason.value in ("error", "cancelled", "timeout"))


def test_an_engine_error_is_noted_and_keeps_the_tokens(tiny_tokenizer):
    (t,), _ = _play(tiny_tokenizer, Generation([9, 8], [-1.0, -1.0], StopReason.ERROR, error="lost"))
    assert t.errors == ["engine: lost"] and t.completion_ids == [9, 8]


def test_without_a_template_the_prompt_is_encoded_as_it_is(tiny_tokenizer):
    section = EnvironmentSection(max_completion_length=4, suffix=" =?")
    assert encode_prompt("1+1", section, tiny_tokenizer) == tiny_tokenizer.encode("1+1 =?")
    with pytest.raises(UserError, match="list of messages, but the tokenizer has no chat template"):
        encode_prompt([{"role": "user", "content": "hi"}], section, tiny_tokenizer)
    with pytest.raises(UserError, match=r"environment\.system needs a chat template"):
        encode_prompt("hi", EnvironmentSection(max_completion_length=4, system="s"), tiny_tokenizer)
    with pytest.raises(UserError, match="`always`, but the tokenizer has no chat template"):
        encode_prompt("hi", EnvironmentSection(max_completion_length=4, chat_template="always"), tiny_tokenizer)


def test_with_a_template_system_and_suffix_have_their_places(tiny_tokenizer):
    tiny_tokenizer.chat_template = TEMPLATE
    section = EnvironmentSection(max_completion_length=4, suffix=" box it", system="be short")
    expected = "system: be short\nuser: 1+1 box it\nassistant: <think>\n"
    as_text = encode_prompt("1+1", section, tiny_tokenizer)
    as_messages = encode_prompt([{"role": "user", "content": "1+1"}], section, tiny_tokenizer)
    assert tiny_tokenizer.decode(as_text) == tiny_tokenizer.decode(as_messages) == expected
    off = EnvironmentSection(max_completion_length=4, chat_template="never")
    assert tiny_tokenizer.decode(encode_prompt("1+1", off, tiny_tokenizer)) == "1+1"


def test_the_suffix_goes_to_the_last_user_message_and_leaves_the_task_alone(tiny_tokenizer):
    tiny_tokenizer.chat_template = TEMPLATE
    messages = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]
    ids = encode_prompt(messages, EnvironmentSection(max_completion_length=4, suffix=" d"), tiny_tokenizer)
    assert tiny_tokenizer.decode(ids) == "user: a\nassistant: b\nuser: c d\nassistant: <think>\n"
    assert messages[2]["content"] == "c"
    with pytest.raises(UserError, match="no user message with a text"):
        encode_prompt(
            [{"role": "system", "content": "a"}],
            EnvironmentSection(max_completion_length=4, suffix="d"),
            tiny_tokenizer,
        )


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (
            {"name": "single_tern"},
            r"environment.name: unknown 'single_tern' \(did you mean 'single_turn'\?\); known: single_turn",
        ),
        ({"name": "no.such.module:Thing"}, "environment.name: no.such.module cannot be imported: ModuleNotFoundError"),
        (
            {"name": "tests.environments.scripted:Nothing"},
            "environment.name: tests.environments.scripted has no environment 'Nothing'",
        ),
        ({"max_turn_lenght": 3}, "unknown key `max_turn_lenght` of single_turn; known: .*max_turn_length"),
        ({"name": "tests.environments.scripted:TwoTurns", "documnet": "x"}, "unknown key documnet"),
        ({"name": "fractions:Fraction"}, "cannot be built: TypeError"),
        ({"name": "nowhere.py:Thing"}, "environment.name: no plugin file .*nowhere.py"),
    ],
)
def test_an_environment_that_cannot_be_made_is_a_clear_error(tiny_tokenizer, section, message):
    with pytest.raises(UserError, match=message):
        make_environment(EnvironmentSection(max_completion_length=4, **section), tiny_tokenizer)
