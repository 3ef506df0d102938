"""Which queries of a search are different ones, against a second writing of the rule and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cib_rl.errors import UserError
from cib_rl.grading.queries import DistinctQueries
from cib_rl.trajectory import StopReason, Turn

PARAPHRASES = [
    ["When was Marie Curie born?", "Marie Curie date of birth"],
    ["nationality of Ed Wood", "Which country does Ed Wood come from"],
    ["Where is the Laleli Mosque located", "location of Laleli Mosque"],
]
DIFFERENT = [
    ["When was Marie Curie born?", "When was Ed Wood born?"],
    ["nationality of Scott Derrickson", "nationality of Ed Wood"],
    ["location of Laleli Mosque", "location of Esma Sultan Mansion"],
]


def search(queries, documents=None):
    found = [[{"id": i} for i in ids] for ids in documents or []]
    return Turn(0, 0, 0, StopReason.STOP_STRING, searched=True, queries=list(queries), documents=found)


def count(distinct, queries, documents=None, question=""):
    return distinct([([search(queries, documents)], question)])[0][0]


@pytest.fixture(scope="module")
def similar():
    return DistinctQueries(max_similarity=0.75)


@pytest.mark.parametrize("queries", PARAPHRASES)
def test_other_wordings_of_a_query_are_no_other_query(similar, queries):
    assert count(similar, queries) == 1 and count(DistinctQueries(max_word_overlap=0.6), queries) == 2
    assert count(similar, [*queries, *queries]) == 1


@pytest.mark.parametrize("queries", DIFFERENT)
def test_one_wording_for_two_things_are_two_queries(similar, queries):
    assert count(similar, queries) == 2


def test_what_a_query_counts_does_not_depend_on_the_other_episodes(similar):
    many = [*PARAPHRASES, *DIFFERENT, ["one"], []]
    together = similar([([search(queries), search(queries[:1])], "") for queries in many])
    assert together == [[count(similar, queries), min(1, len(queries))] for queries in many]


def test_similarity_is_the_cosine_that_sentence_transformers_gives(similar):
    from sentence_transformers import util

    from cib_rl.encoders import PACKAGED, load_encoder

    pairs = [*PARAPHRASES, *DIFFERENT]
    encoder = load_encoder(PACKAGED, "encoder", "search", "cpu")
    cosines = [float(util.cos_sim(*encoder.encode(pair))) for pair in pairs]
    for limit in np.linspace(0.05, 0.95, 7):
        distinct = DistinctQueries(max_similarity=float(limit), device="cpu")
        assert [count(distinct, pair) for pair in pairs] == [1 if cosine >= limit else 2 for cosine in cosines]


WORDS = st.sampled_from(["rome", "oslo", "Oslo", "1999", "the", "of", "born"])
QUERIES = st.lists(st.lists(WORDS, min_size=1, max_size=4).map(" ".join), max_size=5)
LIMITS = st.none() | st.sampled_from([0.0, 0.3, 0.5, 1.0])


@settings(max_examples=200, deadline=None)
@given(data=st.data(), queries=QUERIES, word=LIMITS, document=LIMITS, anchored=st.booleans())
def test_the_rule_written_a_second_time(data, queries, word, document, anchored):
    ids = st.lists(st.sampled_from("abcd"), max_size=3, unique=True)
    documents = data.draw(st.lists(ids, min_size=len(queries), max_size=len(queries)))
    question = data.draw(st.lists(WORDS, max_size=4).map(" ".join))

    def jaccard(one, other):
        both = [x for x in set(one) if x in set(other)]
        return len(both) / (len(set(one)) + len(set(other)) - len(both)) if one or other else None

    def telling(text):
        return [w for w in text.lower().split() if len(w) >= 4 or w.isdigit()]

    kept, used = [], []
    for query, found in zip(queries, documents, strict=True):
        if document is not None and not found:
            continue
        own = [w for w in telling(query) if w in telling(question) and w not in used]
        if anchored:
            used += own
            if not own:
                continue
        nears = [
            (word is not None and jaccard(query.lower().split(), other.lower().split()) >= word)
            or (document is not None and jaccard(found, others) >= document)
            for other, others in kept
        ]
        if not any(nears):
            kept.append((query, found))
    distinct = DistinctQueries(max_word_overlap=word, max_document_overlap=document, anchored=anchored)
    assert count(distinct, queries, documents, question) == len(kept)


def test_an_encoder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match="max_similarity: cannot load a sentence encoder from"):
        DistinctQueries(max_similarity=0.75, model=str(tmp_path / "nope"))
    DistinctQueries(model=str(tmp_path / "nope"))  # nobody asks it
