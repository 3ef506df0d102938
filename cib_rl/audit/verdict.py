"""The audit in words. The limits are ours: rough marks for reading, not laws."""

from __future__ import annotations

from typing import Literal

from cib_rl.audit.audit import Audit
from cib_rl.evals.statistics import Estimate
from cib_rl.samples.show import estimate, number, share

LARGE, SOME = 0.25, 0.10  # saving of the shortest right answer against the mean one
FEW_MIXED = 0.20  # share of mixed problems below which the outcome teaches little
AFTER = 0.10  # share of tokens after the answer has appeared
SAME_ORDER, OTHER_ORDER = 0.9, 0.7  # agreement of cost and length
LEAST_PROBLEMS = 20  # with two right answers, to say anything about the saving

Headroom = Literal["large", "some", "little", "unclear"]


def headroom(audit: Audit) -> Headroom:
    """How much shorter right answers could be; what is claimed holds for the whole interval."""
    saving = audit.shortest.saving
    if audit.shortest.problems < LEAST_PROBLEMS or saving.low is None or saving.high is None:
        return "unclear"
    if saving.low >= SOME:
        return "large" if saving.low >= LARGE else "some"
    return "little" if saving.high < SOME else "unclear"


def verdict(audit: Audit) -> list[str]:
    """Sentences: the verdict first, then what it rests on."""
    sentences = [_overall(audit), _saving(audit), _signal(audit), _gap(audit), _after(audit)]
    if audit.cost is not None:
        sentences.append(_cost(audit.cost.agreement))
    return sentences


def _overall(audit: Audit) -> str:
    room, mixed = headroom(audit), audit.groups_by_outcome.share.value or 0.0
    if room == "unclear":
        return "Not enough to tell: take more problems, or more samples of each."
    if room == "little":
        return "Little to win: right answers are about as short as this model makes them."
    if mixed < FEW_MIXED:
        return (
            "There are shorter right answers to learn from, but few problems on which being right is in question: a "
            "length reward would work almost alone there. Watch accuracy closely."
        )
    return f"Worth a run: {room} headroom in length, and problems on which the outcome holds it in check."


def _saving(audit: Audit) -> str:
    found = audit.shortest
    if not found.problems:
        return "No problem has two right answers: nothing to compare."
    text = (
        f"The shortest right answer is {share(found.saving.value, 0)} below the mean right one, on {found.problems:,} "
        "problems with two or more. A part of that is luck of the draw"
    )
    few = " (too few to judge)" if found.problems < LEAST_PROBLEMS else ""
    return f"{text}{few}."


def _signal(audit: Audit) -> str:
    groups = audit.groups_by_outcome
    share_ = groups.share.value or 0.0
    if share_ >= FEW_MIXED:
        return f"{share(share_, 0)} of the problems have right and wrong answers: the outcome has something to teach."
    easy = groups.all_right >= groups.all_wrong
    return f"Only {share(share_, 0)} of the problems have right and wrong answers; most are " + (
        "all right: take harder ones." if easy else "all wrong: take easier ones, or more samples of each."
    )


def _gap(audit: Audit) -> str:
    found = audit.gap.within
    if found.value is None or found.low is None or found.high is None:
        return "Right and wrong answers cannot be compared within problems."
    if found.low > 0:
        return (
            f"Wrong answers are {number(found.value)} tokens longer than right ones of the same problem: the outcome "
            "alone will shorten. Compare any length reward with a run without one."
        )
    if found.high < 0:
        return (
            f"Wrong answers are {number(-found.value)} tokens shorter than right ones of the same problem: a length "
            "reward that also pays wrong answers pulls towards them. Use only_when_correct."
        )
    return "Right and wrong answers of a problem are not distinguishably different in length."


def _after(audit: Audit) -> str:
    found = audit.after.share
    if found.value is None:
        return "It cannot be seen where answers first appear."
    if found.low is not None and found.low > AFTER:
        return (
            f"{share(found.value, 0)} of the tokens of right answers come after the answer has appeared and before it "
            "is stated: these at most could go without changing how it is found."
        )
    return (
        f"Little ({share(found.value, 0)}) comes after the answer has first appeared: waste, if any, is in the search."
    )


def _cost(found: Estimate) -> str:
    if found.value is None:
        return "Cost and length cannot be compared within problems."
    text = f"Within problems the cost orders completions as length does by τ = {estimate(found, digits=2)}: "
    if found.low is not None and found.low > SAME_ORDER:
        return text + "nearly the same order, so expect what a plain length penalty gives."
    if found.high is not None and found.high < OTHER_ORDER:
        return text + "another order, so this prior pays for something else than length."
    return text + "much the same order, with some differences."
