"""docs/retrieval.md: its keys and defaults are those of the code, its corpus can be built and searched."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path

from cib_rl.retrieval.build import build_index
from cib_rl.retrieval.dense import DenseSettings
from cib_rl.retrieval.factory import make_retriever
from cib_rl.retrieval.hnsw import HNSWSettings
from cib_rl.retrieval.remote import PASSING_STATUS, RemoteSettings
from cib_rl.retrieval.server import ServerSettings
from cib_rl.retrieval.wire import to_wire

PAGE = Path(__file__).parents[2] / "docs" / "retrieval.md"
TEXT = PAGE.read_text(encoding="utf-8")


def keys_table() -> str:
    """The table of the keys of `remote`, as the schema has them."""
    lines = []
    for name, field in RemoteSettings.model_fields.items():
        lines.append(
            f"| `{name}` | {'required' if field.is_required() else shown(field.default)} | {field.description} |"
        )
    return "\n".join(lines)


def shown(default: float | None) -> str:
    if default is None:
        return "none"
    return f"{default:,}" if isinstance(default, int) else f"{default:g}"


def test_the_keys_of_the_client_are_those_of_the_schema():
    assert keys_table() in TEXT, f"the table should be:\n{keys_table()}"
    assert ", ".join(map(str, PASSING_STATUS)) in TEXT


def test_the_keys_of_the_dense_retriever_and_its_graph_are_those_of_the_schema():
    for name, field in DenseSettings.model_fields.items():
        (cells,) = re.findall(rf"^\| `{name}` \| (.*?) \|", TEXT, re.MULTILINE)[-1:]
        if field.is_required():
            assert cells == "required"
        elif isinstance(field.default, bool):
            assert cells == str(field.default).lower()
        elif isinstance(field.default, int):
            assert cells == shown(field.default)
    graph = HNSWSettings()
    assert f"(`--hnsw-m` {graph.m}, `--ef-construction` {graph.ef_construction})" in TEXT


def test_the_limits_of_the_server_are_those_of_the_schema():
    limits = ServerSettings()
    assert f"queries in a request ({limits.max_queries}), `topk` ({limits.max_k})" in TEXT
    assert f"characters of a query ({limits.max_query_chars}), waiting queries ({limits.max_pending:,})" in TEXT
    assert f"up to {limits.batch_size} queries at once" in TEXT and f"`--default-k` ({limits.default_k})" in TEXT


def test_the_corpus_it_shows_can_be_built_and_searched(tmp_path):
    (rows,) = re.findall(r"```\n(\{\"id\": \"p1\".*?)```", TEXT, re.DOTALL)
    (tmp_path / "corpus.jsonl").write_text(rows)
    build_index(tmp_path / "corpus.jsonl", tmp_path / "index")
    retriever = make_retriever("bm25", {"path": "index"}, tmp_path)
    (found,) = asyncio.run(retriever.search(["who designed the analytical engine"], 3))
    assert [document.title for document in found] == ["Charles Babbage", "Ada Lovelace"]
    (body,) = re.findall(r"-d '(.*?)'", TEXT)
    (answer,) = re.findall(r'^\{"result": .*$', TEXT, re.MULTILINE)
    served = asyncio.run(retriever.search(json.loads(body)["queries"], json.loads(body)["topk"]))
    assert json.loads(answer) == to_wire(served, scores=True)
