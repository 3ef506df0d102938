"""The generated world: the same for a seed, true to its documents, and split so that nothing can be known by heart."""

import re

import pytest

from cib_rl.errors import UserError
from cib_rl.fiction.questions import questions, task_rows
from cib_rl.fiction.world import make_world


def test_a_seed_makes_one_world_and_another_seed_another() -> None:
    assert make_world(3) == make_world(3)
    assert make_world(3) != make_world(4)


def test_every_name_is_of_one_thing_only() -> None:
    documents = make_world(0).documents()
    assert len({row["id"] for row in documents}) == len(documents) == 840


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_the_documents_hold_every_answer(split: str) -> None:
    """Answers are worked out from the text of the documents alone, by other code than that which asks."""
    texts = {row["title"]: row["text"] for row in make_world(0).documents()}
    for question in questions(make_world(0), split, 300):  # type: ignore[arg-type]
        read = [texts[fact.title] for fact in question.facts]
        if question.type == "comparison":
            names = re.search(r", (.*) or (.*)\?", question.text)
            assert names is not None
            years = [int(re.findall(r"\b1[5-9]\d\d\b", texts[name])[0]) for name in names.groups()]
            assert question.answer == names.groups()[years.index(min(years))] and years[0] != years[1]
        else:
            assert question.facts[1].title in (read[0] + question.text)  # only the first document names the second
            assert question.facts[1].title not in question.text
            assert question.answer in read[1]


def test_no_training_question_is_about_somebody_held_out() -> None:
    asked = {
        split: {fact.title for q in questions(make_world(0), split, 3000) for fact in q.facts}  # type: ignore[arg-type]
        for split in ("train", "heldout")
    }
    towns = {place.name for place in make_world(0).places}
    assert asked["train"] & asked["heldout"] <= towns
    assert len(asked["train"]) > 300 and len(asked["heldout"]) > 300


def test_rows_are_what_tasks_and_rewards_read() -> None:
    rows = task_rows("heldout", 200)
    assert len({row["id"] for row in rows}) == 200
    kinds = [row["type"] for row in rows]
    assert 60 < kinds.count("comparison") < 140 and set(kinds) == {"comparison", "bridge"}
    assert all(len(row["supporting_ids"]) == 2 and len(row["answer"]) == 1 for row in rows)
    assert {row["type"] for row in task_rows("train", 50, type="bridge")} == {"bridge"}


@pytest.mark.parametrize(
    ("keys", "complaint"),
    [
        ({"split": "test"}, "'train' or 'heldout', got 'test'"),
        ({"type": "single"}, "must be comparison or bridge, not 'single'"),
        ({"count": 10**6, "type": "bridge"}, "asked for 1000000 train questions"),
    ],
)
def test_what_cannot_be_made_is_refused(keys: dict, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        task_rows(**keys)
