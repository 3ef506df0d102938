"""Which key of `parallel_search` tells two wordings of one query from two queries, on HotpotQA's comparison questions.

    python -m bench.near_queries DATA

DATA holds `qa/hotpotqa_distractor_500.jsonl` and `corpora/hotpotqa_passages.jsonl.gz`. For each comparison question,
whose two titles say what is compared, and four attributes with four wordings each: one pair of queries in two wordings
for the first title (a paraphrase, which should count as one query), one in the same wording for both titles and one in
two wordings (which should count as two). Documents: the first three of BM25 over the passages.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import tempfile
from pathlib import Path
from typing import Any

from cib_rl.grading.queries import DistinctQueries
from cib_rl.retrieval.build import build_index
from cib_rl.retrieval.factory import open_index
from cib_rl.retrieval.words import IndexSettings
from cib_rl.trajectory import StopReason, Turn

WORDINGS = [
    ["When was {} born?", "{} date of birth", "birth year of {}", "In which year was {} born"],
    ["nationality of {}", "What nationality is {}?", "{} country of origin", "Which country does {} come from"],
    ["genre of {}", "What kind of music does {} play", "{} musical style", "style of {}"],
    ["Where is {} located", "location of {}", "{} which city and country", "In what place can {} be found"],
]
KEYS: list[dict[str, Any]] = [
    *({"max_word_overlap": limit} for limit in (0.4, 0.6, 0.8)),
    *({"max_document_overlap": limit} for limit in (0.5, 0.7, 1.0)),
    *({"max_similarity": limit} for limit in (0.7, 0.75, 0.8, 0.85)),
    {"max_similarity": 0.75, "max_document_overlap": 0.7},
]


def pairs(data: Path) -> dict[str, list[list[str]]]:
    """Kind of pair to pairs of queries."""
    rng = random.Random(0)
    found: dict[str, list[list[str]]] = {
        "paraphrase": [],
        "two titles, one wording": [],
        "two titles, two wordings": [],
    }
    for line in (data / "qa" / "hotpotqa_distractor_500.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if row["type"] != "comparison":
            continue
        one, other = dict.fromkeys(row["supporting_titles"])
        for wordings in WORDINGS:
            first, second = rng.sample(wordings, 2)
            found["paraphrase"].append([first.format(one), second.format(one)])
            found["two titles, one wording"].append([first.format(one), first.format(other)])
            found["two titles, two wordings"].append([first.format(one), second.format(other)])
    return found


def turns(queries: list[list[str]], index: Path) -> list[Turn]:
    """A search for each pair, with the documents it brings."""
    retriever = open_index(index, {})

    async def searched() -> list[Turn]:
        found = await retriever.search([query for pair in queries for query in pair], 3)
        await retriever.close()
        ids = iter([[{"id": document.id} for document in some] for some in found])
        return [
            Turn(0, 0, 0, StopReason.STOP_STRING, searched=True, queries=pair, documents=[next(ids), next(ids)])
            for pair in queries
        ]

    return asyncio.run(searched())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with `qa/` and `corpora/`")
    data = parser.parse_args().data
    with tempfile.TemporaryDirectory() as folder:
        build_index(data / "corpora" / "hotpotqa_passages.jsonl.gz", Path(folder) / "index", IndexSettings())
        searches = {kind: turns(queries, Path(folder) / "index") for kind, queries in pairs(data).items()}
    print(f"{len(next(iter(searches.values()))):,} pairs of each kind; shares that count as two queries")
    print("| |", " | ".join(searches), "|\n|---|" + "---:|" * len(searches))
    for keys in KEYS:
        distinct = DistinctQueries(**keys)
        shares = [sum(c[0] > 1 for c in distinct([([t], "") for t in some])) / len(some) for some in searches.values()]
        name = ", ".join(f"`{key}: {limit:g}`" for key, limit in keys.items())
        print(f"| {name} |", " | ".join(f"{share:.1%}" for share in shares), "|", flush=True)


if __name__ == "__main__":
    main()
