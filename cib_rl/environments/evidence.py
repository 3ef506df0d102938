"""The evidence of a task, and what of it each turn's search brought back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from cib_rl.errors import UserError
from cib_rl.grading.qa import cover_match, normalise
from cib_rl.spans import decode
from cib_rl.trajectory import Trajectory, Turn

By = Literal["id", "title", "url", "text"]


@dataclass(frozen=True)
class Evidence:
    """Where the evidence is named and how a document is recognised as a piece of it.

    Attributes:
        column: column of the task rows: a list of what `by` names, or a single one. The same twice is one piece.
        by: what of a document is compared with it: id, title, url; or `text`: a text counts as found when it stands in
            what the policy was shown (both normalised as answers are, whole words), but not where one of several
            queries says it itself: a header may repeat that.
        tokenizer: reads what was shown; needed for `text`.
    """

    column: str
    by: By
    tokenizer: Any = None

    def wanted(self, task: Mapping[str, Any]) -> set[str]:
        """The pieces of a task's evidence; empty where it names none.

        Raises UserError, naming the row, for what is neither a text nor a list of texts or whole numbers.
        """
        evidence = task.get(self.column)
        items = [evidence] if isinstance(evidence, str) else [] if evidence is None else evidence
        if not isinstance(items, list | tuple) or not all(isinstance(i, str) or type(i) is int for i in items):
            raise UserError(
                f"row {task.get('id')!r}: {self.column} must be its {self.by}, or a list of them; it holds {evidence!r}"
            )
        pieces = {normalise(str(item)) if self.by == "text" else str(item) for item in items}
        return pieces - {""}

    def found(self, trajectory: Trajectory) -> list[set[str]]:
        """For each turn what of the evidence its search brought."""
        wanted = self.wanted(trajectory.task)
        return [self._of_turn(wanted, trajectory, turn) for turn in trajectory.turns]

    def recall(self, trajectory: Trajectory) -> float | None:
        """Share of the evidence that the searches brought, all together; None where the task names none."""
        wanted = self.wanted(trajectory.task)
        return len(set[str]().union(*self.found(trajectory))) / len(wanted) if wanted else None

    def _of_turn(self, wanted: set[str], trajectory: Trajectory, turn: Turn) -> set[str]:
        if self.by != "text":
            return wanted & {str(document.get(self.by)) for some in turn.documents for document in some}
        if not turn.searched or not wanted:
            return set()
        segment = trajectory.segments[turn.segment]
        rest = segment.policy_mask[turn.end :]
        shown = segment.completion_ids[turn.end : turn.end + (rest.index(1) if 1 in rest else len(rest))]
        text = decode(self.tokenizer, shown)
        said = turn.queries if len(turn.queries) > 1 else []
        return {item for item in wanted if _holds(text, item) and not any(_holds(query, item) for query in said)}


def _holds(text: str, item: str) -> bool:
    return cover_match(golds=[item], prediction=text)
