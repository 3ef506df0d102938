"""Searching by native tool calls: what is written is what the chat template writes, and what is wrong is told."""

from __future__ import annotations

import json

import pytest

from cib_rl.engines.base import Sampling
from cib_rl.environments.chat_tools import CallForm
from cib_rl.environments.tool_calls import read_calls
from cib_rl.errors import UserError
from cib_rl.retrieval.base import Document
from cib_rl.rollout import Episode, Rollouts
from cib_rl.spans import decode
from cib_rl.trajectory import StopReason
from tests.environments.chat_templates import HERMES, LLAMA3, QWEN3, QWEN25, TEMPLATES, tool_tokenizer, with_template
from tests.environments.test_search import Library, Script, environment
from tests.trained_tokenizers import byte_level

TAGGED = ["qwen2.5", "qwen3", "hermes"]


def written(kind, *calls):
    """A message with calls (tool, arguments) in the template's form."""
    key = "parameters" if kind == "llama3" else "arguments"
    objects = [f'{{"name": "{name}", "{key}": {json.dumps(arguments)}}}' for name, arguments in calls]
    text = objects[0] if kind == "llama3" else "\n".join(f"<tool_call>\n{o}\n</tool_call>" for o in objects)
    return text + end(kind)


def end(kind):
    return "<|eot_id|>" if kind == "llama3" else "<|im_end|>"


def search(kind, *queries):
    return written(kind, *(("search", {"query": query}) for query in queries))


def play(kind, texts, *, prompt="who was it", answer="tag", cut=None, library=None, **keys):
    tokenizer = kind if not isinstance(kind, str) else tool_tokenizer(kind)
    library = library or Library(lambda query: [Document("1", "T", f"about {query}", 1.0)])
    made = environment(tokenizer, library, preset="tool_calls", answer=answer, **keys)
    engine = Script(tokenizer, texts, cut)
    episode = Episode({"id": "0", "prompt": prompt, "answer": "x"}, 0, 0, seed=1)
    (trajectory,) = Rollouts(made, engine, tokenizer, answer).run([episode], Sampling(max_tokens=9000))
    return trajectory, engine, made


def replies(trajectory, tokenizer):
    """What the environment wrote, between the turns."""
    (segment,) = trajectory.segments
    ends = [*(turn.start for turn in trajectory.turns[1:]), len(segment)]
    texts = [decode(tokenizer, segment.completion_ids[t.end : e]) for t, e in zip(trajectory.turns, ends, strict=True)]
    return [text for text in texts if text]


@pytest.mark.parametrize("kind", TEMPLATES)
def test_the_whole_context_is_what_the_template_makes_of_the_conversation(kind):
    """Rendered here from the messages, all at once."""
    queries = ['Ada "the" 1st', "Bo"] if kind != "llama3" else ['Ada "the" 1st']
    documents = {q: [Document(str(i), f"T{i}", f"of {q}:\n\\ so 答 <b>") for i in range(2)] for q in queries}
    thought = "<think>\nso\n</think>\n\n" if kind == "qwen3" else ""
    text = thought + search(kind, *queries)
    t, engine, made = play(kind, [text, "<answer>x</answer>" + end(kind)], library=Library(documents.get))
    shown = ["".join(f"Doc {n}(Title: {d.title}) {d.text}\n" for n, d in enumerate(documents[q], 1)) for q in queries]
    calls = [{"type": "function", "function": {"name": "search", "arguments": {"query": query}}} for query in queries]
    messages = [
        {"role": "user", "content": made.protocol.template.replace("{question}", "who was it")},
        {"role": "assistant", "content": "", "reasoning_content": "so" if thought else "", "tool_calls": calls},
        *({"role": "tool", "content": content} for content in shown),
    ]
    tokenizer = made.tokenizer
    whole = tokenizer.apply_chat_template(
        messages, tools=[made.protocol.tool], tokenize=False, add_generation_prompt=True
    )
    assert decode(tokenizer, engine.requests[1]) == whole
    assert t.turns[0].queries == queries and t.answer == "x" and t.diagnostics["finished"] == 1
    assert t.policy_ids == [i for ids in engine.given for i in ids]
    assert engine.requests[1] == engine.requests[0] + t.completion_ids[: t.turns[1].start]


@pytest.mark.parametrize("kind", TAGGED)
def test_calls_of_one_message_go_out_together_and_are_replied_to_in_order(kind):
    library = Library(lambda query: [Document("1", "T", f"about {query}")], {"a": 0.05})
    t, _, made = play(kind, [search(kind, "a", "b", "c"), "<answer>y</answer>" + end(kind)], library=library)
    (reply,) = replies(t, made.tokenizer)
    assert library.most == 3 and reply.count("<tool_response>") == 3
    assert reply.index("about a") < reply.index("about b") < reply.index("about c")
    counts = {name: t.diagnostics[name] for name in ("searches", "queries", "decomposed", "invalid_actions")}
    assert counts == {"searches": 1, "queries": 3, "decomposed": 1, "invalid_actions": 0}
    assert [[d["id"] for d in some] for some in t.turns[0].documents] == [["1"]] * 3


def test_a_list_of_queries_is_the_parallel_form_where_a_message_has_one_call():
    texts = [written("llama3", ("search", {"query": ["a", "b"]})), "<answer>y</answer><|eot_id|>"]
    t, engine, made = play("llama3", texts, protocol={"queries": "list"})
    (reply,) = replies(t, made.tokenizer)
    assert t.turns[0].queries == ["a", "b"] and t.diagnostics["decomposed"] == 1
    assert r"Results 1 for: a\nDoc 1(Title: T) about a\nResults 2 for: b\nDoc 1" in reply
    assert '"type": "array"' in decode(made.tokenizer, engine.requests[0])
    t, _, made = play("llama3", [search("llama3", "a")], protocol={"queries": "list"})
    assert (
        t.diagnostics["invalid_actions"] == 1 and '\\"query\\" must be a list of texts' in replies(t, made.tokenizer)[0]
    )


FAULTS = {
    "<tool_call>{not json}</tool_call>": "not valid JSON",
    '<tool_call>{"name": "search", "arguments": {"query": "a"}': "not valid JSON",
    '<tool_call>{"name": "search", "arguments": {"query": "a"}}': "does not end in </tool_call>",
    '<tool_call>{"name": "browse", "arguments": {"query": "a"}}</tool_call>': "no such tool; there is search",
    '<tool_call>{"name": "search", "arguments": {"query": 7}}</tool_call>': '"query" must be a text',
    '<tool_call>{"name": "search", "arguments": {"query": ["a"]}}</tool_call>': '"query" must be a text',
    '<tool_call>{"name": "search", "arguments": {}}</tool_call>': '"query" must be a text',
    '<tool_call>{"name": "search", "arguments": "a"}</tool_call>': '"arguments" is an object',
    '<tool_call>{"name": "search"}</tool_call>': '"arguments" is an object',
    '<tool_call>["search"]</tool_call>': "A call is an object",
    '<tool_call>"<|im_end|>"</tool_call>': "A call is an object",
    "<tool_call></tool_call>": "not valid JSON",
    "<tool_call>": "not valid JSON",
    "<tool_call>" + "[" * 3000 + "</tool_call>": "not valid JSON",
    '<tool_call>{"name": "search", "arguments": {"query": ' + "7" * 5000 + "}}</tool_call>": "not valid JSON",
}


@pytest.mark.parametrize("text", FAULTS, ids=lambda text: text[:60])
def test_a_call_that_cannot_be_carried_out_is_told_why_and_counted(text):
    last = "<answer>y</answer><|im_end|>"
    t, _, made = play("qwen2.5", [text.replace("<|im_end|>", "<|im_start|>") + "<|im_end|>", last])
    (reply,) = replies(t, made.tokenizer)
    assert FAULTS[text] in reply and reply.count("<tool_response>") == 1 and reply.count("<|im_start|>") == 2
    assert t.diagnostics["invalid_actions"] == 1 and t.diagnostics["searches"] == 0 and not t.turns[0].searched
    assert made.retriever.asked == [] and t.answer == "y" and not t.errors


def test_bare_json_that_is_no_call_is_told_so():
    texts = ['{"name": "search", "parameters": {"query": "a"}} and so', '{"name": ', "<answer>y</answer><|eot_id|>"]
    t, _, made = play("llama3", [text + "<|eot_id|>" * ("answer" not in text) for text in texts])
    assert t.diagnostics["invalid_actions"] == 1 and made.retriever.asked == ["a"] and t.answer == "y"


def test_one_call_that_fails_does_not_keep_others_from_being_carried_out():
    text = "<tool_call>{}</tool_call>" + search("qwen2.5", "a").replace("<|im_end|>", "") + "<tool_call>no</tool_call>"
    t, _, made = play("qwen2.5", [text + "<|im_end|>", "<answer>y</answer><|im_end|>"])
    (reply,) = replies(t, made.tokenizer)
    assert reply.count("<tool_response>") == 3 and made.retriever.asked == ["a"]
    order = [reply.index(part) for part in ("A call is an object", "about a", "not valid JSON")]
    assert order == sorted(order) and t.diagnostics["invalid_actions"] == 2 and t.diagnostics["searches"] == 1


def test_calls_beyond_the_most_are_left_out_counted_and_told():
    t, _, made = play("hermes", [search("hermes", *"abcde"), "<answer>y</answer><|im_end|>"], max_queries=3)
    (reply,) = replies(t, made.tokenizer)
    assert made.retriever.asked == ["a", "b", "c"] and t.diagnostics["dropped_queries"] == 2
    assert reply.count("<tool_response>") == 3 and "the others were not carried out" in reply
    lists = written("hermes", ("search", {"query": ["a", "b"]}), ("search", {"query": ["b", "c", "d"]}))
    t, _, made = play("hermes", [lists, "<answer>y</answer><|im_end|>"], max_queries=3, protocol={"queries": "list"})
    assert made.retriever.asked == ["a", "b", "c"]  # of one message, however many calls it has
    assert t.diagnostics["dropped_queries"] == t.diagnostics["repeated_queries"] == 1
    two = search("llama3", "a").replace("<|eot_id|>", "") + search("llama3", "b")
    t, _, made = play("llama3", [two, "<answer>y</answer><|eot_id|>"])
    assert made.retriever.asked == ["a"] and "the others were not carried out" in replies(t, made.tokenizer)[0]


def test_queries_are_cleaned_repeated_ones_dropped_and_a_failure_told():
    def answer(query):
        from cib_rl.retrieval.base import RetrievalError

        return RetrievalError("status", "500") if query == "bad" else []

    call = '<tool_call>{"name": "search", "arguments": {"query": " a \\ud800\\u0000  b</tool_call>"}}</tool_call>'
    texts = [call + search("qwen2.5", "bad", "BAD", " "), "<answer>y</answer><|im_end|>"]
    t, _, made = play("qwen2.5", texts, library=Library(answer), retries=0)
    (reply,) = replies(t, made.tokenizer)
    assert t.turns[0].queries == ["a \ufffd b</tool_call>", "bad"] and reply.count("<tool_response>") == 4
    assert "Nothing was found." in reply and "The search failed (status)." in reply and reply.count("asked before") == 2
    counts = {name: t.diagnostics[name] for name in ("repeated_queries", "empty_queries", "failed_queries")}
    assert counts == {"repeated_queries": 1, "empty_queries": 1, "failed_queries": 1}


@pytest.mark.parametrize("kind", TEMPLATES)
def test_a_message_that_was_cut_off_is_ended_by_the_environment(kind):
    """Before it called: it is told so by a user's message. After it called: it is replied to."""
    tokenizer = tool_tokenizer(kind)
    whole = search(kind, "a").removesuffix(end(kind))
    size = len(tokenizer.encode(whole, add_special_tokens=False))
    t, _, made = play(kind, ["the numbers are " * 30, whole + " and more", "<answer>y</answer>" + end(kind)],
                      max_turn_length=size)  # fmt: skip
    told, replied = replies(t, tokenizer)[:2]
    assert told.startswith(end(kind)) and replied.startswith(end(kind)) and "about a" in replied
    rendered = tokenizer.apply_chat_template(
        [{"role": "user", "content": "q"}, {"role": "assistant", "content": "SAID"},
         {"role": "user", "content": made.protocol.invalid}],
        tools=[made.protocol.tool], tokenize=False, add_generation_prompt=True,
    )  # fmt: skip
    assert told == rendered.partition("SAID")[2]
    assert t.diagnostics["invalid_actions"] == 1 and t.turns[1].queries == ["a"]


def test_a_message_without_a_call_ends_the_episode_and_the_style_says_where_the_answer_is():
    for text, style, answer in [
        ("<think>a</think>It is <answer>Rome</answer>.<|im_end|>", "tag", "Rome"),
        ("It is Rome.<|im_end|>", "tag", None),
        ("It is\nRome<|im_end|>", "last_line", "Rome"),
        (r"It is \boxed{Rome}<|endoftext|>", "boxed", "Rome"),
        ("<think><answer>Oslo</answer></think>I give up.<|im_end|>", "tag", None),
        ("<answer> </answer><|im_end|>", "tag", None),
    ]:
        t, engine, _ = play("qwen2.5", [text], answer=style)
        assert t.answer == answer and t.diagnostics["finished"] == (answer is not None) and len(engine.requests) == 1
        assert t.stop_reason in (StopReason.STOP_STRING, StopReason.EOS)


def test_thoughts_call_nothing_and_calls_come_before_an_answer():
    call = search("qwen3", "a").removesuffix("<|im_end|>")
    t, _, made = play("qwen3", [f"<think>{call}</think><answer>y</answer><|im_end|>"])
    assert made.retriever.asked == [] and t.answer == "y"
    t, _, made = play("qwen3", [f"<answer>z</answer>{call}<|im_end|>", "<answer>y</answer><|im_end|>"])
    assert made.retriever.asked == ["a"] and t.answer == "y"
    t, _, _ = play("qwen3", [f"<answer>z</answer>{call}<|im_end|>", "I give up.<|im_end|>"])
    assert t.answer is None and t.diagnostics["finished"] == 0
    t, _, made = play("qwen3", [call + "<|im_end|>", search("qwen3", "b")], turns=1)
    assert made.retriever.asked == ["a"] and t.stop_reason is StopReason.MAX_TURNS


def test_prompts_are_texts_or_messages():
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "hello"}, {"role": "assistant", "content": "hi"},
        {"role": "user", "content": "who was it"},
    ]  # fmt: skip
    for prompt in ("who was it", messages):
        _, engine, made = play("qwen2.5", ["x<|im_end|>"], prompt=prompt, protocol={"template": "Q: {question}"})
        text = decode(made.tokenizer, engine.requests[0])
        assert text.endswith("<|im_start|>user\nQ: who was it<|im_end|>\n<|im_start|>assistant\n")
        assert '"name": "search"' in text and ("Be brief." in text) == (prompt is messages) and "Q: hello" not in text
    with pytest.raises(UserError, match="row '0': prompt has no message of the user's"):
        play("qwen2.5", ["x<|im_end|>"], prompt=messages[:1])


NO_TOOLS = (
    "{%- for m in messages %}{{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)
LAST = "{{- '<|im_end|>\\n' }}{%- elif m.role == 'tool' %}"
OBJECT = '{"name": "\' + c.function.name + \'", "arguments": \' }}'
UNFIT = {
    "shows no tools": (NO_TOOLS, "does not show the tools"),
    "drops the end of earlier messages": (
        QWEN25.replace(LAST, LAST.replace("'<|im_end|>\\n'", "'<|im_end|>\\n' if loop.last else '\\n'")),
        "would have to be changed",
    ),
    "ends a message in words": (QWEN25.replace(LAST, LAST.replace("<|im_end|>", "END")), "no special token to stop at"),
    "writes calls as XML": (
        HERMES.replace(OBJECT, "<search>' }}").replace("'}\\n</", "'\\n</"),
        "as a JSON object",
    ),
    "writes calls as a list": (
        HERMES.replace("<tool_call>\\n{", "<tool_call>[{").replace("'}\\n</", "'}]</"),
        "as a list",
    ),
    "shows no results": (HERMES.replace("<tool_response>\\n' + m.content", "'"), "result of every call"),
    "repeats ids": (HERMES.replace("<tool_response>\\n'", "' + m.tool_call_id + '\\n'"), "repeats the ids"),
    "changes results": (HERMES.replace("' + m.content }}", "' + m.content | upper }}"), "result of every call"),
    "escapes results": (HERMES.replace("' + m.content }}", "' + m.content | replace('\\n', ' ') }}"), "not known here"),
    "knows no tool messages": (
        HERMES.replace("{%- elif m.role == 'tool' %}", "{%- elif m.role == 'tool' %}{{ raise_exception('no tools') }}"),
        "does not take a conversation with tool calls: no tools",
    ),
}


@pytest.mark.parametrize("name", UNFIT)
def test_templates_that_do_not_fit_are_refused_with_the_reason(name):
    template, says = UNFIT[name]
    assert template not in TEMPLATES.values()
    with pytest.raises(UserError, match=f"another chat template: .*{says}"):
        play(with_template(template), ["x"])


@pytest.mark.parametrize("size", range(90, 102))
def test_a_result_in_escapes_is_cut_between_characters(size):
    """In ASCII an emoji is two escapes, one after the other."""
    template = LLAMA3.replace("m.content | tojson", "m.content | tojson(ensure_ascii=True)")
    ascii_only = with_template(template, tags=(), special=("<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"))
    library = Library(lambda query: [Document("1", "T", "😀" * 200)])
    t, _, _ = play(ascii_only, [search("llama3", "a")], library=library, max_observation_length=size)
    shown = decode(ascii_only, [i for i, m in zip(t.completion_ids, t.policy_mask, strict=True) if not m])
    text = json.loads(shown[shown.index('"') : shown.rindex('"') + 1])
    text.encode()
    assert text.startswith("Doc 1(Title: T)")


def test_what_cannot_work_is_refused():
    with pytest.raises(UserError, match="the tokenizer has none"):
        play(byte_level(), ["x"])
    with pytest.raises(UserError, match="unknown key 'information'; known: description, document"):
        play("qwen2.5", ["x"], protocol={"information": "x"})
    with pytest.raises(UserError, match=r"queries: 'two'; known: one, list"):
        play("qwen2.5", ["x"], protocol={"queries": "two"})
    with pytest.raises(UserError, match=r"\{question\} does not occur"):
        play("qwen2.5", ["x"], protocol={"template": "x"})


@pytest.mark.parametrize("template", [QWEN25, QWEN3, LLAMA3])
def test_the_thought_that_a_template_opens_is_part_of_what_is_added(template):
    """As in R1 and QwQ: the generation prompt ends in <think>."""
    opening = template.replace("assistant\\n' }}{%- endif %}", "assistant\\n<think>\\n' }}{%- endif %}")
    opening = opening.replace(
        "<|end_header_id|>\\n\\n' }}{%- endif %}", "<|end_header_id|>\\n\\n<think>\\n' }}{%- endif %}"
    )
    assert opening != template
    kind = "llama3" if template is LLAMA3 else "qwen2.5"
    special = ("<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>")
    tokenizer = with_template(opening, special=special) if kind == "llama3" else with_template(opening)
    t, engine, _ = play(tokenizer, ["so</think>" + search(kind, "a"), "so</think><answer>y</answer>" + end(kind)])
    assert (
        decode(tokenizer, engine.requests[1]).endswith("<think>\n") and t.turns[0].queries == ["a"] and t.answer == "y"
    )


def test_calls_are_read_in_time_linear_in_the_text():
    """Not timed: a text of many openings would take hours where each looked through the rest."""
    form = CallForm("<tool_call>", "</tool_call>", "arguments")
    assert len(list(read_calls("<tool_call>" * 20_000, form))) == 20_000
    assert next(read_calls("{" * 20_000, CallForm("", "", "parameters")))[1] is not None
