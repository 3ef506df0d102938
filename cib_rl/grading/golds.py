"""The gold answers of a task row, in the type a reward can use; anything else is a mistake in the data, and named."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cib_rl.grading.pool import RIGHT, Grade
from cib_rl.plugin.contract import PluginError


def text_gold(task: Mapping[str, Any], reward: str) -> str:
    """The one gold answer of a row, as text.

    Raises:
        PluginError: the row has none, or it is neither a text nor a number.
    """
    answer = _answer(task, reward)
    if not _is_text(answer):
        raise _wrong_type(task, reward, "a text or a number")
    return str(answer)


def text_golds(task: Mapping[str, Any], reward: str) -> list[str]:
    """All gold answers of a row: `answer` is one text or number, or a list of them; one match is enough.

    Raises:
        PluginError: the row has none, or not only texts and numbers.
    """
    answer = _answer(task, reward)
    golds = list(answer) if isinstance(answer, (list, tuple)) else [answer]
    if not golds or not all(_is_text(gold) for gold in golds):
        raise _wrong_type(task, reward, "a text, a number, or a list of them that is not empty")
    return [str(gold) for gold in golds]


def grade_each_gold(
    rows: Sequence[Mapping[str, Any]], reward: str, right: Callable[[list[str], str], bool]
) -> list[Grade]:
    """One grade per row: whether each of its gold answers, as a prediction, is `right` against all of them."""
    grades = []
    for row in rows:
        golds = text_golds(row, reward)
        failed = [gold for gold in golds if not right(golds, gold)]
        grades.append(Grade("wrong", f"the gold answer {failed[0][:80]!r} matches nothing") if failed else RIGHT)
    return grades


def _answer(task: Mapping[str, Any], reward: str) -> Any:
    if task.get("answer") is None:
        raise PluginError(
            f"{reward}: the row {task.get('id')!r} has no gold answer; it has {', '.join(task)}. Map its column with "
            "task.columns, e.g. {answer: NAME}"
        )
    return task["answer"]


def _is_text(value: Any) -> bool:
    return isinstance(value, (str, int, float))


def _wrong_type(task: Mapping[str, Any], reward: str, needed: str) -> PluginError:
    answer = task["answer"]
    shown = repr(answer)
    return PluginError(
        f"{reward}: the gold answer of row {task.get('id')!r} must be {needed}; it is a {type(answer).__name__}: "
        f"{shown if len(shown) <= 80 else shown[:77] + '...'}"
    )
