"""What a row of a file says: its prompt, its completions, its gold answer, and which problem it belongs to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cib_rl.errors import UserError
from cib_rl.integrations.episodes import rename
from cib_rl.samples.golds import gold_key, other_golds, with_golds
from cib_rl.samples.read import Row

# The names under which files keep a field; of those that most rows have the first one is taken. `solution` is none of
# answer's: in some sets it is the gold answer, in others a worked solution, so it must be asked for.
NAMES: dict[str, tuple[str, ...]] = {
    "prompt": ("prompt", "problem", "question", "query", "input", "messages"),
    "completion": (
        "completion", "completions", "response", "responses", "output", "outputs", "generation", "generations",
        "samples", "trace", "traces", "messages",
    ),
    "answer": ("answer", "answers", "gold", "ground_truth", "reference"),
}  # fmt: skip
_CUT_OFF = ("length", "max_tokens", "context")


@dataclass(frozen=True)
class Completion:
    """One completion of a problem.

    Attributes:
        where: file and line.
        group: what all completions of one problem have in common; given: it stands in the row's own column.
        text: what the policy wrote.
        task: the row without its completions; `id`, `prompt` and `answer` are in it.
        truncated: the file says that a limit cut it off.
        label: the file's own word on whether it is right (column `correct`); None where it has none.
    """

    where: str
    group: str
    text: str
    task: dict[str, Any]
    truncated: bool
    label: bool | None
    given: bool = False


def read_completions(rows: Sequence[Row], columns: Mapping[str, str]) -> tuple[list[Completion], list[str]]:
    """The completions of the rows, and what was chosen, in words.

    A row holds one completion or a list of them. Where there is only a conversation (`messages`), the assistant's last
    message is the completion; what comes before it is the prompt, unless a column holds that. Completions belong
    together that have the same `group`, or, where there is no such column, the same prompt and the same gold answer.
    Rows without a gold answer are left out, unless no row has one.

    Args:
        columns: field (prompt, completion, answer, group, id, or any the rewards ask for) -> column; `a.b` is the key b
            of the column a.

    Raises:
        UserError: a field is missing, of the wrong type, or the rows of one group disagree; names the line.
    """
    named = _find_columns(rows, columns)
    completions = [completion for row in rows for completion in _of_row(row, named)]
    completions, left_out = with_golds(completions)
    _check_groups(completions)
    found = ", ".join(f"{field} = column {source!r}" for field, source in named.items() if field != source)
    return completions, [note for note in (found, left_out, other_golds(completions)) if note]


def _find_columns(rows: Sequence[Row], columns: Mapping[str, str]) -> dict[str, str]:
    """Field -> column: those given, and for the others the name that most rows have."""
    named = dict(columns)
    for field, names in NAMES.items():
        if field not in named:
            counts = {name: sum(name in row.values for row in rows) for name in names}
            best = max(names, key=lambda name: counts[name])  # of equals the first
            if counts[best]:
                named[field] = best
    first = rows[0]
    for field in ("prompt", "completion"):
        if field not in named:
            raise UserError(
                f"{first.where}: no column for the {field}; it has {', '.join(first.values)}. Name it: "
                f"--columns {field}=NAME"
            )
    if "answer" in named and not any(_holds(row, named["answer"]) for row in rows):
        raise UserError(f"{first.where}: no column {named['answer']!r}; it has {', '.join(first.values)}")
    return named


def _holds(row: Row, source: str) -> bool:
    """Whether the row has the column, or the key `a.b` in it."""
    try:
        rename(row.values, {"wanted": source})
    except UserError:
        return False
    return True


def _of_row(row: Row, named: Mapping[str, str]) -> list[Completion]:
    golden = "answer" in named and _holds(row, named["answer"])
    named = named if golden else {field: source for field, source in named.items() if field != "answer"}
    missing = [source for source in named.values() if source.partition(".")[0] not in row.values]
    if missing:
        raise UserError(f"{row.where}: no column {missing[0]!r}; it has {', '.join(row.values)}")
    try:
        values = rename(row.values, named)
    except UserError as error:
        raise UserError(f"{row.where}: {error}") from error
    completion, prompt = values.pop("completion"), values["prompt"]
    if (source := named["completion"]) != "completion":
        values.pop(source, None)
    if source == "messages":
        before, completion = _last_words(completion, row.where)
        prompt = before if named["prompt"] == "messages" else prompt
    texts = _texts(completion, row.where)
    if not isinstance(prompt, str | list) or not prompt:
        raise UserError(f"{row.where}: the prompt must be a text or a list of messages that is not empty")
    name = str(values["id"]) if values.get("id") is not None else row.where.rpartition(", ")[2]
    gold = values.get("answer") if golden else None
    given = values.get("group") is not None
    group = str(values["group"]) if given else repr((prompt, gold_key(gold)))
    cut = _spread(_cut_off(values), len(texts), row.where, "truncated")
    labels = _spread(values.pop("correct", None), len(texts), row.where, "correct")
    task = values | {"id": name, "prompt": prompt, "answer": gold}
    return [
        Completion(row.where, group, text, task, bool(truncated), None if label is None else bool(label), given)
        for text, truncated, label in zip(texts, cut, labels, strict=True)
    ]


def _texts(value: Any, where: str) -> list[str]:
    """The texts of one completion or of several; a conversation is its assistant's words."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and value:
        if all(isinstance(one, Mapping) for one in value):
            return ["".join(_own_words(message, where) for message in value)]
        return [text for one in value for text in _texts(one, where)]
    raise UserError(
        f"{where}: a completion must be a text, a list of messages, or a list of these that is not empty; it is "
        f"{'an empty list' if value == [] else type(value).__name__}"
    )


def _last_words(messages: Any, where: str) -> tuple[list[Any], str]:
    """The messages before the assistant's last one, and its text; what follows it (a closing remark) is left out."""
    rows = messages if isinstance(messages, list) else []
    last = max((i for i, m in enumerate(rows) if isinstance(m, Mapping) and m.get("role") == "assistant"), default=None)
    if last is None:
        raise UserError(f"{where}: messages: there is none of the assistant, so there is no completion")
    return rows[:last], _own_words(rows[last], where)


def _own_words(message: Mapping[str, Any], where: str) -> str:
    if message.get("role") != "assistant":
        raise UserError(
            f"{where}: a completion holds a message of {message.get('role')!r}, so it is not known which tokens are "
            "the policy's own; use the parquet files of a run, which say so"
        )
    return str(message.get("content") or "")


def _cut_off(values: Mapping[str, Any]) -> Any:
    if "truncated" in values:
        return values["truncated"]
    reason = next((values[name] for name in ("finish_reason", "stop_reason") if name in values), None)
    if isinstance(reason, list):
        return [one in _CUT_OFF for one in reason]
    return reason in _CUT_OFF


def _spread(value: Any, count: int, where: str, name: str) -> list[Any]:
    """One value per completion, from one for all or a list of them."""
    if not isinstance(value, list):
        return [value] * count
    if len(value) != count:
        raise UserError(f"{where}: {name} has {len(value)} entries for {count} completions")
    return value


def _check_groups(completions: Sequence[Completion]) -> None:
    """Completions of one group must agree on prompt and gold: wrong groups make every comparison in them wrong."""
    first: dict[str, Completion] = {}
    for completion in completions:
        task, other = completion.task, first.setdefault(completion.group, completion)
        same_gold = gold_key(task["answer"]) == gold_key(other.task["answer"])
        if task["prompt"] != other.task["prompt"] or not same_gold:
            raise UserError(
                f"{completion.where}: it has the same group as {other.where}, but another "
                f"{'prompt' if same_gold else 'answer'}; name the column that tells problems apart: "
                "--columns group=NAME"
            )
