"""The words of the demonstrations: what is announced, and with which phrases.

Every phrase decides what may follow it: a strategy's announcement is followed by tries of that strategy and no other, a
doubt by a re-check, a retreat by another strategy.  Phrases are three to five words so that they can be found again by
mining n-grams; each meaning has many wordings so that no single one is a fixed stock phrase.
"""

from __future__ import annotations

# Announcements: strategy name -> wordings.  What each strategy tries is defined in `strategies.py`.
STRATEGIES: dict[str, tuple[str, ...]] = {
    "products": (
        "products first this time", "let me multiply first", "start by multiplying two", "a big product first",
        "multiply a pair first", "grow it with products", "try the products now", "take a product first",
    ),
    "sums": (
        "add two of them", "begin with a sum", "sums first this time", "let me add first",
        "start from a sum", "put two together first", "try the sums now", "adding a pair first",
    ),
    "differences": (
        "subtract one number first", "begin with a difference", "differences first this time", "let me subtract first",
        "shrink one number first", "use a small difference", "try the differences now", "take a gap first",
    ),
    "quotients": (
        "divide two of them", "begin with a quotient", "division first this time", "let me divide first",
        "look for clean division", "does one divide another", "try the quotients now", "split one number evenly",
    ),
    "backward": (
        "work back from target", "begin at the end", "undo the last step", "go backwards this time",
        "peel one number off", "start from the target", "remove a number first", "what must come before",
    ),
    "factor": (
        "look for a factor", "factor the target first", "is the target divisible", "split the target evenly",
        "find a divisor first", "divide the target first", "use a clean factor", "break target into factors",
    ),
    "near_miss": (
        "get close then adjust", "land near the target", "a near miss first", "come close and fix",
        "aim nearby then correct", "almost there then adjust", "close first then repair", "find a near hit",
    ),
    "round": (
        "make a round number", "pair up to tens", "reach a round value", "look for tens first",
        "round numbers are easy", "build a ten first", "try for round pairs", "use tens and twenties",
    ),
}  # fmt: skip

# Leaving a strategy: always followed by another announcement (or by a list of misses, or a restated problem).
RETREATS: tuple[str, ...] = (
    "this leads nowhere today", "none of these fit", "that does not work", "change the plan now",
    "another idea is needed", "leave this path here", "switch to something else", "time for another way",
    "drop this line now", "no luck this way",
)  # fmt: skip

# Doubting an earlier line: always followed by arithmetic that was already written.
DOUBTS: tuple[str, ...] = (
    "let me double check", "is that really right", "make sure of this", "go over that again", "wait check the numbers",
    "did that add up", "look at it again", "better to be sure",
)  # fmt: skip

# Repeating a try that already failed, usually with its numbers in another order.
REPEATS: tuple[str, ...] = (
    "maybe once more here", "try that one again", "the other way round", "perhaps it was wrong", "turn it around now",
    "do it over again",
)  # fmt: skip

# Listing the results that were not the target: always followed by those results.
LISTS: tuple[str, ...] = (
    "so far I got", "the misses so far", "all that failed was", "what came out wrong", "not one of these",
    "results that missed were",
)  # fmt: skip

# Verifying a found solution from front to back.
VERIFIES: tuple[str, ...] = (
    "verify the whole thing", "check it all again", "write it out fully", "from front to back",
    "one last careful check", "confirm every step now",
)  # fmt: skip

# Closing words after a solution.
CLOSINGS: tuple[str, ...] = (
    "that is the answer", "so this one works", "the target is reached", "now we are done", "that settles it then",
    "this solves the problem",
)  # fmt: skip

# Restating the problem; `{n}` the numbers separated by spaces, `{t}` the target.
RESTATEMENTS: tuple[str, ...] = (
    "we have {n} and need {t}", "the numbers are {n} and the target is {t}", "goal {t} from {n}", "need {t} using {n}",
    "given {n} make {t}", "remember we want {t} from {n}",
)  # fmt: skip

# Verdicts on a try, by how the result compares to what was wanted; `{d}` the distance, `{g}` what was wanted.
VERDICTS_BIG: tuple[str, ...] = ("too big", "too large", "no", "not {g}", "over by {d}")
VERDICTS_SMALL: tuple[str, ...] = ("too small", "too little", "no", "not {g}", "short by {d}")
VERDICTS_ABANDONED: tuple[str, ...] = ("leave it", "hopeless", "skip this")
VERDICTS_RIGHT: tuple[str, ...] = ("yes", "works", "found it")
VERDICTS_CHECKED: tuple[str, ...] = ("right", "correct", "still true", "fine")


def words() -> list[str]:
    """Every word that a demonstration can hold, sorted, without digits, signs and placeholders."""
    groups: list[tuple[str, ...]] = [
        *STRATEGIES.values(), RETREATS, DOUBTS, REPEATS, LISTS, VERIFIES, CLOSINGS, RESTATEMENTS,
        VERDICTS_BIG, VERDICTS_SMALL, VERDICTS_ABANDONED, VERDICTS_RIGHT, VERDICTS_CHECKED,
    ]  # fmt: skip
    found = {word for group in groups for phrase in group for word in phrase.split() if "{" not in word}
    return sorted(found | {"numbers", "target"})
