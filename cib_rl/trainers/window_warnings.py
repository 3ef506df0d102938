"""What a window shows that someone should look at, in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from cib_rl.trajectory import StopReason, Trajectory

_CONTEXT = "engine.max_model_len (search: and environment.max_context_length), or shorten what fills it"
_LIMITS = {  # what moves the limit that ended an episode
    StopReason.LENGTH: "environment.max_completion_length",
    StopReason.CONTEXT: _CONTEXT,
    StopReason.PROMPT_TOO_LONG: _CONTEXT,
    StopReason.MAX_TURNS: "the environment's limit of turns (search: environment.turns)",
}


def window_warnings(
    trajectories: Sequence[Trajectory], metrics: Mapping[str, float], labels: Sequence[str], idle: set[str]
) -> Iterator[str]:
    """Warnings about a process's completions and a window's metrics.

    Args:
        labels: of the rewards.
        idle: the rewards that were said to count for nothing; those said now are added.
    """
    yield from cut_off(trajectories)
    yield from _failed(trajectories)
    yield from nothing_found(metrics)
    for label in labels:
        if metrics[f"applies/{label}"] == 0 and label not in idle:
            idle.add(label)
            yield (
                f"reward {label!r} counted for none of this window's completions: it returned None for each, or "
                "only_when_correct left none (said once; the log has applies/LABEL)"
            )


def cut_off(trajectories: Sequence[Trajectory]) -> Iterator[str]:
    """Where more than half of the completions were ended by a limit: which one, and its key."""
    reasons = [t.stop_reason for t in trajectories if t.stop_reason is not None and t.truncated]
    if 2 * len(reasons) <= len(trajectories):
        return
    commonest = max(sorted(set(reasons)), key=reasons.count)
    yield (
        f"{len(reasons) / len(trajectories):.0%} of this window's completions were cut off by a limit, most by "
        f"`{commonest.value}`; raise {_LIMITS[commonest]}, or the reward will mostly be that of unfinished answers"
    )


def _failed(trajectories: Sequence[Trajectory]) -> Iterator[str]:
    failed = [_with_row(e, t) for t in trajectories if t.failed for e in t.errors[:1]]
    if failed:
        yield (
            f"{len(failed)} of {len(trajectories)} completions failed and are out of baseline and loss; the first: "
            f"{failed[0]}"
        )


def nothing_found(metrics: Mapping[str, float]) -> Iterator[str]:
    """Where more than half of the queries brought no document: no policy learns to search from that."""
    empty, failed = metrics.get("search/empty", 0.0), metrics.get("search/failed", 0.0)
    if empty + failed > 0.5:
        yield (
            f"of this window's queries {empty:.0%} found nothing and {failed:.0%} failed; is the retriever's corpus "
            "the one that the questions are about?"
        )


def _with_row(error: str, trajectory: Trajectory) -> str:
    row = repr(trajectory.task.get("id"))
    return error if row in error else f"{error} (row {row})"
