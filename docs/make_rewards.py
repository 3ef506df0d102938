"""Writes the catalogue of docs/rewards.md from the built-in rewards' own docstrings.

python docs/make_rewards.py          # rewrites what stands between the marks
python docs/make_rewards.py --check  # exit code 1 when it is out of date
"""

from __future__ import annotations

import sys
from pathlib import Path

from cib_rl.plugin.catalogue import catalogue, entries

PAGE = Path(__file__).with_name("rewards.md")
BEGIN, END = "<!-- catalogue: made by docs/make_rewards.py -->\n", "<!-- end of catalogue -->\n"


def page() -> str:
    """The page with the catalogue of today."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    built_in = [entry for entry in entries() if entry.origin.startswith("cib_rl.")]
    return f"{before}{BEGIN}\n{catalogue(built_in)}\n{END}{after}"


if __name__ == "__main__":
    made = page()
    if "--check" in sys.argv:
        sys.exit(made != PAGE.read_text(encoding="utf-8"))
    PAGE.write_text(made, encoding="utf-8")
