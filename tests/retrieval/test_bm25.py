"""BM25 over an index: exactly bm25s's own results, without blocking the event loop."""

from __future__ import annotations

import asyncio
import json
import tempfile
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cib_rl.errors import UserError
from cib_rl.fiction.world import make_world
from cib_rl.retrieval.base import RetrievalError, split_contents
from cib_rl.retrieval.factory import make_retriever
from cib_rl.retrieval.wire import from_wire, to_wire
from tests.retrieval.corpora import ROWS, index_of, opened, raw_bm25s

MAPS = Path("/proc/self/maps")
WORDS = st.sampled_from(["engine", "Ada", "the", "x", "sea", "sea-bed", "été", "of", "1842", "no such"])
TEXTS = st.lists(WORDS, min_size=1, max_size=12).map(" ".join)


def search(retriever, queries, k):
    return asyncio.run(retriever.search(queries, k))


def as_pairs(results):
    return [[(int(d.id), d.score) for d in found] for found in results]


@settings(max_examples=25)
@given(
    texts=st.lists(TEXTS, min_size=2, max_size=30),
    queries=st.lists(TEXTS, min_size=1, max_size=5),
    k=st.integers(1, 8),
    keys=st.sampled_from(
        [{}, {"method": "robertson"}, {"method": "atire", "k1": 0.9, "b": 0.4}, {"stopwords": "none"}]
    ),
)
def test_ids_order_and_scores_are_those_of_bm25s(texts, queries, k, keys):
    texts = [*texts, "engine room"]  # at least one word to index
    k = min(k, len(texts))
    with tempfile.TemporaryDirectory() as name:
        folder = index_of(Path(name), [{"id": i, "title": "", "text": t} for i, t in enumerate(texts)], **keys)
        full, matched = opened(folder, keep_unmatched=True), opened(folder)
        raw_keys = {**keys, "stopwords": None} if "stopwords" in keys else keys
        raw = raw_bm25s([f'""\n{t}' for t in texts], queries, k, **raw_keys)
        assert as_pairs(search(full, queries, k)) == raw
        assert as_pairs(search(matched, queries, k)) == [[(n, s) for n, s in found if s > 0] for found in raw]


def test_documents_come_back_whole_with_k_at_most_the_corpus(tmp_path):
    retriever = opened(index_of(tmp_path, ROWS), keep_unmatched=True)
    (found,) = search(retriever, ["the Nautilus dived deep"], 50)
    assert len(found) == len(ROWS) == len(retriever)
    best = found[0]
    assert {"id": best.id, "title": best.title, "text": best.text} == ROWS[3] and best.score > 0
    assert best.contents == '"The "Nautilus""\nA submarine.\nIt dived « très » deep, 海底.'
    assert split_contents(best.contents) == (best.title, best.text)


@pytest.mark.skipif(not MAPS.exists(), reason="only Linux tells what is mapped")
def test_documents_and_scores_are_mapped_and_not_read_into_memory(tmp_path):
    retriever = opened(index_of(tmp_path, ROWS))
    mapped = MAPS.read_text()
    for name in ("documents.jsonl", *(f"{part}.csc.index.npy" for part in ("data", "indices", "indptr"))):
        assert f"{tmp_path}/index/{name}" in mapped
    assert len(retriever) == len(ROWS)  # it is open still


def test_a_query_without_a_known_word_finds_nothing(tmp_path):
    retriever = opened(index_of(tmp_path, ROWS))
    assert search(retriever, ["zzz", "", "the of", "babbage"], 2) == [[], [], [], search(retriever, ["babbage"], 2)[0]]
    assert search(retriever, [], 3) == []


def test_the_title_is_searched_too(tmp_path):
    retriever = opened(index_of(tmp_path, [{"id": "x", "title": "Zanzibar", "text": "An island."}, *ROWS]))
    assert [d.id for d in search(retriever, ["zanzibar"], 3)[0]] == ["x"]


def test_searching_leaves_the_event_loop_free(tmp_path):
    """The search waits, in its thread, for something that only the running loop can do."""
    retriever = opened(index_of(tmp_path, ROWS))
    gate, inner = threading.Event(), retriever._search
    retriever._search = lambda queries, k: inner(queries, k) if gate.wait(30) else []

    async def play():
        running = asyncio.create_task(retriever.search(["engine"], 2))
        await asyncio.sleep(0)
        gate.set()
        return await running

    assert len(asyncio.run(play())[0]) == 2


def test_many_searches_at_once_get_their_own_answers(tmp_path):
    retriever = opened(index_of(tmp_path, ROWS), threads=4)
    queries = ["lovelace", "babbage", "submarine", "motion"] * 25

    async def play():
        return await asyncio.gather(*(retriever.search([q], 1) for q in queries))

    assert [found[0][0].id for found in asyncio.run(play())] == ["a", "b", "d", "c"] * 25


def test_searches_that_run_at_once_are_ranked_in_one_passage_to_the_thread(tmp_path):
    retriever = opened(index_of(tmp_path, ROWS))
    batches, inner = [], retriever._search
    retriever._search = lambda queries, k: batches.append(len(queries)) or inner(queries, k)

    async def play():
        return await asyncio.gather(*(retriever.search(["engine", "submarine"], 1) for _ in range(20)))

    assert asyncio.run(play()) == [search(retriever, ["engine", "submarine"], 1)] * 20  # and in the next loop
    assert batches == [40, 2]


def test_half_of_a_surrogate_pair_is_not_searched_for(tmp_path):
    """An encoder of sentences takes none, and one query would fail all that are encoded with it."""
    retriever = opened(index_of(tmp_path, ROWS))
    searched, inner = [], retriever._search
    retriever._search = lambda queries, k: searched.extend(queries) or inner(queries, k)
    assert [some[0].id for some in search(retriever, ["babbage \ud83d", "lovelace"], 1)] == ["b", "a"]
    assert searched == ["babbage ?", "lovelace"]


def test_a_closed_retriever_says_so(tmp_path):
    retriever = opened(index_of(tmp_path, ROWS))
    asyncio.run(retriever.close())
    asyncio.run(retriever.close())
    with pytest.raises(RetrievalError, match="closed") as caught:
        search(retriever, ["engine"], 1)
    assert caught.value.reason == "closed"


def test_the_factory_makes_built_in_ones_and_classes_by_name(tmp_path, monkeypatch):
    index_of(tmp_path, ROWS)
    made = make_retriever("bm25", {"path": "index"}, tmp_path)
    assert search(made, ["lovelace"], 1)[0][0].id == "a"
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own.jsonl").write_text("")
    (tmp_path / "own_retriever.py").write_text(
        "class Own:\n    def __init__(self, base_dir, text):\n        self.text, self.base_dir = text, base_dir\n"
    )
    for name in ("own_retriever:Own", "own_retriever.py:Own"):
        own = make_retriever(name, {"text": "u"}, tmp_path)
        assert (own.text, own.base_dir) == ("u", tmp_path)
    for name, keys, words in [
        (
            "bm52",
            {},
            "unknown 'bm52' (did you mean 'bm25'?); known: bm25, dense, remote, empty, package.module:Class or path",
        ),
        ("bm25", {}, "neither `path` (an index) nor `corpus`"),
        ("bm25", {"path": "index", "corpus": "c.jsonl"}, "both `path` (index) and `corpus` (c.jsonl) are there; empty"),
        ("bm25", {"path": "own.jsonl"}, "own.jsonl is a file, no index folder"),
        ("bm25", {"corpus": "nowhere.jsonl"}, "nowhere.jsonl"),
        ("bm25", {"path": "index", "thread": 2}, "unknown key `thread`; did you mean `threads`"),
        ("bm25", {"path": "index", "threads": 0}, "`threads`"),
        ("bm25", {"path": "nowhere"}, "no index folder"),
        ("own_retriever:None_", {}, "retriever.name: own_retriever has no retriever 'None_'"),
        ("own_retriever.py:None_", {}, "has no retriever 'None_'"),
        ("own_retriever:Own", {"txt": 1}, "cannot be built: TypeError"),
    ]:
        with pytest.raises(UserError) as caught:
            make_retriever(name, keys, tmp_path)
        assert words in str(caught.value), str(caught.value)


def test_a_corpus_is_indexed_at_the_start_and_gone_at_the_end(tmp_path):
    index_of(tmp_path, ROWS)
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    queries = ["lovelace", "the engine", "nothing of it"]
    made = make_retriever("bm25", {"corpus": "own.jsonl"}, tmp_path)
    folder = Path(made._built.name)
    assert folder.is_dir() and search(made, queries, 2) == search(
        make_retriever("bm25", {"path": "index"}, tmp_path), queries, 2
    )
    asyncio.run(made.close())
    assert not folder.exists()


def test_addresses_of_documents_are_kept(tmp_path):
    rows = [{**row, "url": f"https://x/{row['id']}"} for row in ROWS[:2]] + ROWS[2:]
    found = search(opened(index_of(tmp_path, rows)), ["lovelace", "heat motion"], 1)
    assert [some[0].url for some in found] == ["https://x/a", None]
    assert from_wire(to_wire(found, scores=False), 2, 1)[0][0].url == "https://x/a"


def test_the_generated_world_is_a_corpus(tmp_path):
    world = make_world(0)
    made = make_retriever("bm25", {"corpus": "fiction"}, tmp_path)
    assert len(made) == len(world.documents())
    town = world.places[0].name
    assert search(made, [f"{town} town river"], 1)[0][0].title == town


@pytest.mark.data
@pytest.mark.parametrize(
    ("questions", "corpus"),
    [("hotpotqa_distractor_500.jsonl", "hotpotqa_passages.jsonl.gz"), ("nq_gold.jsonl", "nq_gold_passages.jsonl")],
)
def test_recall_on_real_questions_is_that_of_bm25s(questions, corpus, data_dir, tmp_path, capsys):
    from cib_rl.retrieval.build import build_index

    build_index(data_dir / "corpora" / corpus, tmp_path / "index")
    retriever = opened(tmp_path / "index")
    rows = [json.loads(line) for line in (data_dir / "qa" / questions).open(encoding="utf-8")]
    documents = [retriever._documents.get(i) for i in range(len(retriever))]
    asked = [row["question"] for row in rows]
    raw = raw_bm25s([d.contents for d in documents], asked, 10)
    found = search(retriever, asked, 10)
    for own, judge in zip(found, raw, strict=True):
        assert [(d.id, d.score) for d in own] == [(documents[n].id, s) for n, s in judge if s > 0]
    shown = []
    for k in (1, 3, 5, 10):
        ours = [{d.id for d in own[:k]} for own in found]
        theirs = [{documents[n].id for n, _ in judge[:k]} for judge in raw]
        golds = [set(row["supporting_ids"]) for row in rows]
        assert recall(ours, golds) == recall(theirs, golds)
        shown.append(f"recall@{k} {recall(ours, golds):.4f}")
    with capsys.disabled():
        print(f"\n{questions}: {', '.join(shown)}")
    assert recall(ours, golds) > 0.5


def recall(found, golds):
    """The mean share of a question's gold documents that were found."""
    return sum(len(f & g) / len(g) for f, g in zip(found, golds, strict=True)) / len(golds)
