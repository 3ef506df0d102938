"""Tables and plots of docs/results.md from the arms' evaluation results.

python docs/make_results.py START=RUN/evaluations/step-000000 "plain GRPO=RUN/…" "CIB=RUN/…" --out docs/img
"""

from __future__ import annotations

import argparse
from pathlib import Path

from cib_rl.evals.report import compare
from cib_rl.evals.result import EvalResult
from cib_rl.evals.result_io import load_result
from cib_rl.plots import plot_arms


def number(value: float | None, scale: float = 1, digits: int = 1) -> str:
    return "–" if value is None else f"{value * scale:.{digits}f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("arms", nargs="+", metavar="NAME=RESULT", help="the first is what the others are compared with")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    arms: dict[str, EvalResult] = {}
    for argument in arguments.arms:
        name, _, folder = argument.partition("=")
        arms[name] = load_result(Path(folder))
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
