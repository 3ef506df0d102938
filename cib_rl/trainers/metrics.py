"""What a window tells: one flat dict of numbers, the same on every process."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from cib_rl.priors.rate import rate_nats
from cib_rl.trainers.search_metrics import search_metrics, search_row
from cib_rl.trainers.window import Window

# Gathers one list from every process and joins them in rank order.
GatherLists = Callable[[list[Any]], list[Any]]


def _mean(values: Sequence[float]) -> float:
    """Mean of the finite values; NaN when there is none."""
    array = np.asarray(values, dtype=np.float64)
    array = array[np.isfinite(array)]
    return float(array.mean()) if len(array) else float("nan")


def window_metrics(window: Window, gather: GatherLists = lambda rows: rows) -> dict[str, float]:
    """Accuracy, tokens, rewards and stop reasons over all processes' completions, and the counts of groups.

    `entropy_nats` estimates H(Z|X) per completion as −Σ_t log π(z_t) over the policy's tokens (its expectation under
    the sampled distribution), in nats. `rate_nats` is E[−log Q(Z)] − H(Z|X), the upper bound on I(X;Z) of eq. 11
    (arXiv 2603.08462), where a reward left the track `surprisal`; with the uniform or Laplace prior it is that prior's
    bound. Shares are of completions. `diagnostics/NAME` is the mean over the completions that a reward attached NAME
    to, `logged/NAME` over the calls in which a reward logged NAME. `weight/LABEL` is a reward's weight at this step,
    `applies/LABEL` the share of the valid completions that it counts for (it gave a number, and its gate is open),
    `errors/LABEL` the share of the completions it was given on which it failed, `seconds/reward/LABEL` its time (of
    the slowest process). `search/…`: see `search_metrics`.
    """
    rows = gather(_rows(window))
    valid = [row for row in rows if row["valid"]]
    right = [row for row in valid if row["correct"]]
    metrics = {
        "accuracy": _mean([row["correct"] for row in valid]),
        "tokens/mean": _mean([row["tokens"] for row in valid]),
        "tokens/median": float(np.median([row["tokens"] for row in valid])) if valid else float("nan"),
        "tokens/max": float(max((row["tokens"] for row in rows), default=0)),
        "tokens/right": _mean([row["tokens"] for row in right]),
        "turns/mean": _mean([row["turns"] for row in valid]),
        "truncated_share": _mean([row["truncated"] for row in rows]),
        "error_share": _mean([not row["valid"] for row in rows]),
        "reward/total": _mean([row["total"] for row in valid]),
        "reward/outcome": _mean([row["outcome"] for row in valid]),
        "reward/shaping": _mean([row["shaping"] for row in valid]),
        "entropy_nats": _mean([row["entropy"] for row in valid]),
        "entropy_nats_per_token": _ratio(valid, "entropy"),
    }
    for label in window.scores.values:
        metrics[f"reward/{label}"] = _mean([row["values"][label] for row in valid])
        metrics[f"applies/{label}"] = _mean([row["counted"][label] for row in valid])
    for name in sorted({name for row in valid for name in row["diagnostics"]}):
        metrics[f"diagnostics/{name}"] = _mean([row["diagnostics"].get(name, np.nan) for row in valid])
    metrics |= search_metrics([row["search"] for row in rows])
    metrics |= {f"weight/{label}": weight for label, weight in window.scores.weights.items()}
    calls = gather([{"attempted": p.attempted, "failures": p.failures} for p in window.played])
    for label in window.scores.values:
        attempted = sum(call["attempted"].get(label, 0) for call in calls)
        metrics[f"errors/{label}"] = sum(call["failures"].get(label, 0) for call in calls) / max(attempted, 1)
    logged = gather([p.metrics for p in window.played])
    for name in sorted({name for one in logged for name in one}):
        metrics[f"logged/{name}"] = _mean([one.get(name, np.nan) for one in logged])
    if any(np.isfinite(row["surprisal"]) for row in valid):
        scored = [row for row in valid if np.isfinite(row["surprisal"])]
        metrics["surprisal/completion"] = _mean([row["surprisal"] for row in scored])
        metrics["surprisal/token"] = _ratio(scored, "surprisal")
        metrics["rate_nats"] = rate_nats([row["surprisal"] for row in scored], [row["entropy"] for row in scored])
    reasons = Counter(row["stop"] for row in rows)
    metrics |= {f"stop/{reason}": count / len(rows) for reason, count in sorted(reasons.items())}
    for name in sorted(window.counts):
        metrics[f"groups/{name}"] = float(sum(gather([window.counts[name]])))
    seconds = dict(window.seconds)
    for label in window.scores.values:
        seconds[f"reward/{label}"] = sum(p.seconds.get(label, 0.0) for p in window.played)
    metrics |= {f"seconds/{name}": max(gather([value])) for name, value in sorted(seconds.items())}
    return metrics


def _ratio(rows: list[dict[str, Any]], name: str) -> float:
    """Σ value / Σ tokens: nats per token, each token weighing the same."""
    pairs = [(row[name], row["tokens"]) for row in rows if np.isfinite(row[name])]
    tokens = sum(count for _, count in pairs)
    return float(sum(value for value, _ in pairs) / tokens) if tokens else float("nan")


def _rows(window: Window) -> list[dict[str, Any]]:
    scores = window.scores
    rows = []
    for i, t in enumerate(window.trajectories):
        mask = np.asarray(t.policy_mask, dtype=bool)
        logprobs = np.asarray(t.logprobs, dtype=np.float64)[mask] if len(mask) else np.zeros(0)
        surprisal = np.asarray(t.tracks["surprisal"])[mask].sum() if "surprisal" in t.tracks else np.nan
        rows.append(
            {
                "valid": bool(scores.valid[i]),
                "correct": bool(scores.correct[i]),
                "tokens": t.num_tokens,
                "turns": len(t.turns),
                "truncated": t.truncated,
                "stop": t.stop_reason.value if t.stop_reason else "none",
                "total": scores.total[i],
                "outcome": scores.outcome[i],
                "shaping": scores.shaping[i],
                "diagnostics": dict(t.diagnostics),
                "search": search_row(t),
                "values": {label: values[i] for label, values in scores.values.items()},
                "counted": {label: bool(counted[i]) for label, counted in scores.counted.items()},
                "entropy": -float(logprobs.sum()) if not np.isnan(logprobs).any() else np.nan,
                "surprisal": float(surprisal),
            }
        )
    return rows
