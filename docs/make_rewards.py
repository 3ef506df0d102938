"""Writes the catalogue of docs/rewards.md from the built-in rewards' own docstrings.

python docs/make_rewards.py          # rewrites what stands between the marks
python docs/make_rewards.py --check  # exit code 1 when it is out of date
"""

from __future__ import annotations

import sys
from inspect import cleandoc
from pathlib import Path

from cib_rl.plugin import describe_rewards
from cib_rl.priors.describe import describe_priors

PAGE = Path(__file__).with_name("rewards.md")
BEGIN, END = "<!-- catalogue: made by docs/make_rewards.py -->\n", "<!-- end of catalogue -->\n"


def catalogue() -> str:
    """One section per built-in reward and prior: kind, signature, docstring."""
    rewards = [reward for reward in describe_rewards() if reward.origin.startswith("cib_rl.")]
    return "\n".join(
        f"### {entry.name} ({entry.kind or 'prior of surprisal'})\n\n"
        f"```\n{entry.signature}\n```\n\n```text\n{cleandoc(entry.doc)}\n```\n"
        for entry in [*rewards, *describe_priors()]
    )


def page() -> str:
    """The page with the catalogue of today."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{catalogue()}\n{END}{after}"


if __name__ == "__main__":
    made = page()
    if "--check" in sys.argv:
        sys.exit(made != PAGE.read_text(encoding="utf-8"))
    PAGE.write_text(made, encoding="utf-8")
