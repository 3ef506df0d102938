"""Tables and plots of docs/results.md from the arms' evaluation results.

python docs/make_results.py START=RUN/evaluations/step-000000 "plain GRPO=RUN/…" "CIB=RUN/…" --out docs/img

An arm with several training seeds is named several times. Then a table over seeds comes first, and the others are of
each arm's first seed.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import mean, stdev

from cib_rl.evals.report import compare
from cib_rl.evals.result import EvalResult
from cib_rl.evals.result_io import load_result
from cib_rl.evals.statistics import student_t_quantile
from cib_rl.plots import plot_arms, plot_seeds


def number(value: float | None, scale: float = 1, digits: int = 1) -> str:
    return "–" if value is None else f"{value * scale:.{digits}f}"


def over_seeds(seeds: dict[str, list[EvalResult]]) -> None:
    """Each arm's mean over its training seeds, with the smallest and largest; then the differences between arms."""
    columns = {"right %": ("accuracy", 100), "tokens, all": ("tokens/mean", 1), "tokens, right": ("tokens/right", 1),
               "truncated %": ("truncated_share", 100)}  # fmt: skip
    values = {
        name: {c: [(r.estimates()[key].value or 0.0) * scale for r in results] for c, (key, scale) in columns.items()}
        for name, results in seeds.items()
    }
    print("| arm | seeds | " + " | ".join(columns) + " |\n|---|---|" + "---|" * len(columns))
    for name, by_column in values.items():
        cells = [f"{mean(v):.1f} ({min(v):.1f} to {max(v):.1f})" for v in by_column.values()]
        print(f"| {name} | {len(seeds[name])} | " + " | ".join(cells) + " |")
    several = [name for name in seeds if len(seeds[name]) > 1]
    print("\n| difference, mean over seeds [95%, t] | " + " | ".join(columns) + " |\n|---|" + "---|" * len(columns))
    for i, a in enumerate(several):
        for b in several[i + 1 :]:
            if len(seeds[a]) == len(seeds[b]):
                cells = [interval([y - x for x, y in zip(values[a][c], values[b][c], strict=True)]) for c in columns]
                print(f"| {b} − {a} | " + " | ".join(cells) + " |")


def interval(differences: list[float]) -> str:
    """Mean of one difference per seed, and its t interval over seeds."""
    reach = student_t_quantile(0.975, len(differences) - 1) * stdev(differences) / len(differences) ** 0.5
    middle = mean(differences)
    return f"{middle:+.1f} [{middle - reach:+.1f}, {middle + reach:+.1f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("arms", nargs="+", metavar="NAME=RESULT", help="the first is what the others are compared with")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    seeds: dict[str, list[EvalResult]] = {}
    for argument in arguments.arms:
        name, _, folder = argument.partition("=")
        seeds.setdefault(name, []).append(load_result(Path(folder)))
    arms = {name: results[0] for name, results in seeds.items()}
    if any(len(results) > 1 for results in seeds.values()):
        over_seeds(seeds)
        points = {
            name: [
                (e["tokens/mean"].value or 0.0, e["accuracy"].value or 0.0) for e in (r.estimates() for r in results)
            ]
            for name, results in seeds.items()
        }
        print(f"\n{plot_seeds(points, arguments.out / 'seeds.png')}\n")
    base, *others = arms

    print("| arm | right % | tokens, all | tokens, right | truncated % |\n|---|---|---|---|---|")
    for name, result in arms.items():
        e = result.estimates()
        cells = [
            f"{number(e[key].value, scale)} [{number(e[key].low, scale)}, {number(e[key].high, scale)}]"
            for key, scale in (("accuracy", 100), ("tokens/mean", 1), ("tokens/right", 1), ("truncated_share", 100))
        ]
        print(f"| {name} | " + " | ".join(cells) + " |")

    pairs = [(base, name) for name in others] + [(a, b) for i, a in enumerate(others) for b in others[i + 1 :]]
    for before, after in pairs:
        comparison = compare(arms[before], arms[after], names=(before, after))
        print(f"\n**{before} → {after}**\n\n{comparison.to_markdown()}")

    kinds = sorted({k for r in arms.values() for s in r.samples for k in s.numbers if k.startswith("kind/")})
    print("\n| tokens per answer on | " + " | ".join(arms) + " |\n|---|" + "---|" * len(arms))
    for kind in kinds:
        means = [sum(s.numbers[kind] for s in r.graded) / len(r.graded) for r in arms.values()]
        print(f"| {kind.removeprefix('kind/')} | " + " | ".join(f"{m:.1f}" for m in means) + " |")

    arguments.out.mkdir(parents=True, exist_ok=True)
    print(plot_arms(arms, arguments.out / "arms.png"))
    print(plot_arms(arms, arguments.out / "arms-right.png", tokens="tokens/right"))


if __name__ == "__main__":
    main()
