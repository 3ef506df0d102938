"""InForage: pay for evidence that was found, discounted by the steps it took."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt

from cib_rl.environments.evidence import By, Evidence
from cib_rl.plugin import PluginError, RewardContext, TokenRewards, reward, turn_rewards
from cib_rl.trajectory import Trajectory

Share = Annotated[float, Field(gt=0, le=1)]


@reward("inforage", kind="shaping")
class InForage:
    """(S + w·C)·β^max(0, T − T_min) − S, so that with the outcome S the total is InForage's (arXiv 2505.09316).

    C is the share of the task's evidence that the searches of the episode brought back, all together (the paper's
    cumulative coverage, whose maximum over time is its last value); T counts turns, the answer's among them. What the
    paper says of the discount is not known to us in full: β = 0.95 and w = 1/5 are the released code's; T_min = 2 with
    this exponent is a third party's reading.

    `form: code` is the released code: C is that of the best single search, and the discount is 1 up to three turns and
    β^(T − 2) from four on, β^(T − 1) from three turns on for an episode without an answer. (That code also paired gains
    with the wrong questions where not all episodes of a batch searched; here they belong to the trajectory.)

    S is what the outcome reward named by `outcome` gave (exact match or F1, with the weight 1). Wrong answers: S is 0,
    and what is left is w·C, discounted: at most w, so a wrong answer does not outrank one with S = 1 that took up to
    T_min turns.

    A task without evidence gets no reward. Attaches the diagnostic `evidence_recall`.

    Args:
        outcome: label of the outcome reward.
        evidence: column of the task rows: a list of what `by` names, or a single one.
        by: what of a document is compared with it: id, title, url; or `text`: a text counts as found when it stands in
            what the policy was shown (both normalised as answers are, whole words), so that where a data set names no
            documents the gold answers can be the evidence (`evidence: answer, by: text`). Each text is a piece of its
            own: of an answer that is given in two spellings a document with one of them has half. What one of several
            queries says itself is not found by their search, since its header may repeat it.
        weight_of_gain: w.
        beta, t_min: β and T_min.
        form: `paper` or `code`.
        per_turn: token rewards instead of one number: w times each search's new coverage at its turn's last token, what
            is left of the sum at the last turn's. For PPO, or `token_rewards: reward_to_go`.
    """

    def __init__(
        self,
        *,
        outcome: str = "qa_em",
        evidence: str = "supporting_ids",
        by: By = "id",
        weight_of_gain: NonNegativeFloat = 0.2,
        beta: Share = 0.95,
        t_min: NonNegativeInt = 2,
        form: Literal["paper", "code"] = "paper",
        per_turn: bool = False,
        context: RewardContext,
    ) -> None:
        if by == "text" and context.tokenizer is None:
            raise PluginError("inforage: by: text needs a tokenizer, to read what was shown")
        self.outcome, self.evidence = outcome, Evidence(evidence, by, context.tokenizer)
        self.weight_of_gain, self.beta, self.t_min = weight_of_gain, beta, t_min
        self.form, self.per_turn = form, per_turn

    def check_rows(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Raises UserError where no row has evidence, or some have something that is none."""
        if not any([self.evidence.wanted(row) for row in rows]):  # a list: every row is looked at
            raise PluginError(f"inforage: no task row has evidence in the column {self.evidence.column!r}")

    def __call__(self, trajectories: list[Trajectory]) -> list[float | TokenRewards | None]:
        return [self._reward(t) for t in trajectories]

    def _reward(self, trajectory: Trajectory) -> float | TokenRewards | None:
        wanted = self.evidence.wanted(trajectory.task)
        if not wanted:
            return None
        if self.outcome not in trajectory.rewards:
            raise PluginError(
                f"inforage: the recipe has no outcome reward labelled {self.outcome!r}; name it in `outcome`"
            )
        found = self.evidence.found(trajectory)
        new = _new_shares(found, len(wanted))
        covered = max((len(some) / len(wanted) for some in found), default=0.0) if self.form == "code" else sum(new)
        trajectory.diagnostics["evidence_recall"] = sum(new)
        score = float(trajectory.rewards[self.outcome] or 0.0)
        value = (score + self.weight_of_gain * covered) * self._discount(trajectory) - score
        if not self.per_turn or not trajectory.turns:
            return value
        gains = [self.weight_of_gain * share for share in new]
        gains[-1] += value - sum(gains)
        return turn_rewards(trajectory, gains)

    def _discount(self, trajectory: Trajectory) -> float:
        turns = len(trajectory.turns)
        if self.form == "paper":
            return float(self.beta ** max(0, turns - self.t_min))
        if trajectory.answer is None:
            return float(self.beta ** (turns - 1)) if turns > 2 else 1.0
        return float(self.beta ** (turns - 2)) if turns > 3 else 1.0


def _new_shares(found: Sequence[set[str]], wanted: int) -> list[float]:
    """For each turn the share of the evidence that no earlier one had brought."""
    seen: set[str] = set()
    shares = []
    for some in found:
        shares.append(len(some - seen) / wanted)
        seen |= some
    return shares
