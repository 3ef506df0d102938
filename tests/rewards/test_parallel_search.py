"""ParallelSearch: the paper's equations and the released code's numbers by hand; what does not count as decomposing."""

import numpy as np
import pytest

from cib_rl.errors import UserError
from cib_rl.plugin import RewardContext, RewardSuite
from cib_rl.recipe import RewardSection
from tests.rewards.searching import TOKENIZER, episode, shaping

NAME = {"name": "parallel_search"}
ONE, TWO = [("a", ["1"])], [("a", ["1"]), ("b", ["2"])]


def _values(trajectories, **keys):
    return shaping(NAME | keys, trajectories).shaping.tolist()


def test_the_papers_equations_by_hand():
    """λ_d 0.15, α 3, λ_s 0.35, λ_f 0.1; right answers in good format, so r_f is 0."""
    rows = {
        "comparison, decomposed, one search": (episode(TWO, type="comparison"), 0.45),
        "comparison, two searches of one query": (episode(ONE, ONE, type="comparison"), -0.35),
        "comparison, four searches": (episode(ONE, ONE, ONE, ONE, type="comparison"), -1.05),
        "comparison, from memory": (episode(type="comparison"), -0.35),
        "single, one search": (episode(ONE, type="na"), 0.15),
        "single, decomposed": (episode(TWO, type="na"), 0.0),
        "bridge, two searches": (episode(ONE, ONE, type="bridge"), 0.15),
        "bridge, four searches": (episode(ONE, ONE, ONE, ONE, type="bridge"), 0.15),
        "bridge, one search": (episode(ONE, type="bridge"), 0.15 - 0.35),
        "bridge, from memory": (episode(type="bridge"), 0.15 - 0.7),
        "bridge, decomposed": (episode(ONE, TWO, type="bridge"), 0.0),
    }
    assert _values([t for t, _ in rows.values()]) == pytest.approx([value for _, value in rows.values()])


def test_format_counts_against_the_answer():
    rows = [
        episode(ONE, type="na", score=score, well_formed=well_formed)
        for score, well_formed in ((1, True), (1, False), (0, True), (0, False))
    ]
    assert _values(rows) == pytest.approx([0.15, 0.05, 0.25, 0.15])


def test_the_released_codes_totals():
    """Table of its parts: best comparison 1.80, best bridge and single 1.50, the count term at n = 4 is −0.70."""
    best = [
        episode(TWO, type="comparison"), episode(ONE, ONE, type="bridge"), episode(ONE, type="na"),
        episode(ONE, ONE, ONE, ONE, type="comparison"), episode(ONE, TWO, type="comparison"),
    ]  # fmt: skip
    totals = shaping(NAME | {"form": "code"}, best).total
    # The last one decomposes in its second search, which the code does not look at.
    assert totals == pytest.approx([1.80, 1.50, 1.50, 1 - 0.70, 1 + 0 + 0])
    paper = shaping(NAME, best[:4]).total
    np.testing.assert_allclose(totals[:4] - paper, 0.35)


def test_paraphrases_and_searches_for_the_same_documents_are_no_decomposition_when_asked():
    paraphrase = episode([("the height of the tower", ["1"]), ("height of the tower", ["2"])], type="comparison")
    same = episode([("a", ["1", "2", "3"]), ("b", ["2", "3", "1"])], type="comparison")
    real = episode([("height of a", ["1", "2"]), ("height of b", ["3", "2"])], type="comparison")
    everything = [paraphrase, same, real]
    assert _values(everything) == pytest.approx([0.45] * 3)
    assert _values(everything, max_word_overlap=0.7) == pytest.approx([0, 0.45, 0.45])
    assert _values(everything, max_document_overlap=0.7) == pytest.approx([0.45, 0, 0.45])


def test_queries_about_nothing_are_no_decomposition_when_asked():
    row = {"type": "comparison", "prompt": "Who was born first, Ada Kerrin or Bo Lundal?"}
    real = episode([("Ada Kerrin born", ["1"]), ("Bo Lundal", ["2"])], **row)
    found_nothing = episode([("Kerrin", ["1"]), ("Lundal", [])], **row)
    elsewhere = episode([("Ada Kerrin", ["1"]), ("rivers of the world", ["2"])], **row)
    repeated = episode([("Kerrin born", ["1"]), ("when was Kerrin born", ["2"])], **row)
    everything = [real, found_nothing, elsewhere, repeated]
    assert _values(everything) == pytest.approx([0.45] * 4)
    assert _values(everything, max_document_overlap=0.7) == pytest.approx([0.45, 0, 0.45, 0.45])
    assert _values(everything, anchored=True) == pytest.approx([0.45, 0.45, 0, 0])
    messages = episode(
        [("Kerrin", ["1"]), ("Lundal", ["2"])], **{**row, "prompt": [{"role": "user", "content": row["prompt"]}]}
    )
    assert _values([messages], anchored=True) == pytest.approx([0.45])


def test_labels_come_from_a_column_or_a_function_and_rows_without_one_get_nothing(tmp_path):
    (tmp_path / "mine.py").write_text("def kind(row):\n    return 'comparison' if 'or' in row['prompt'] else None\n")
    rows = [episode(TWO, prompt="a or b"), episode(TWO, prompt="when")]
    scores = shaping(NAME | {"labels": f"{tmp_path / 'mine.py'}:kind"}, rows)
    assert scores.values["parallel_search"][0] == pytest.approx(0.45) and np.isnan(scores.values["parallel_search"][1])
    section = RewardSection(name="cib_rl.rewards.parallel_search:parallel_search", labels="kind")
    outcome = RewardSection(name="tests.rewards.searching:qa_em")
    suite = RewardSuite([outcome, section], RewardContext(tokenizer=TOKENIZER))
    with pytest.raises(UserError, match="from the column 'kind', which no task row has"):
        suite.check_rows([{"id": "1", "type": "na"}])
    for wrong in ({"type": "comparison"}, 1, ["comparison"]):
        with pytest.raises(UserError, match="row '2': its label, of 'kind', must be a text"):
            suite.check_rows([{"id": "1", "kind": "na"}, {"id": "2", "kind": wrong}])


def test_queries_that_mean_the_same_are_no_decomposition_when_asked():
    wordings = episode([("When was Ed Wood born?", ["1"]), ("Ed Wood date of birth", ["2"])], type="comparison")
    two = episode([("When was Ed Wood born?", ["1"]), ("When was Emil Roth born?", ["2"])], type="comparison")
    later = episode(ONE, [("birth of Ed Wood", ["1"]), ("birth of Emil Roth", ["2"])], type="comparison")
    assert _values([wordings, two, later], max_similarity=0.75) == pytest.approx([0, 0.45, 0.45 - 0.35])
    assert _values([wordings, two, later]) == pytest.approx([0.45, 0.45, 0.45 - 0.35])
    assert _values([later], max_similarity=0.75, form="code") == pytest.approx([0.35 - 0.35])
    with pytest.raises(UserError, match="max_similarity"):
        _values([two], max_similarity=0.75, model="/nowhere")
