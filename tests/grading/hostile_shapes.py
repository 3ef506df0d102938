"""Hostile answers: shapes written by hand, the defence that guards against each, and the harm it does without it.

No answer made from a shape is right. In golds and answers <n> stands for a number that is drawn, <m> for n + 1, <k>
for n - 2. The harm, with the defence switched off (see `switched_off.py`):

    right           it is graded right
    wrong           it is graded wrong, where a failure should have been counted by its cause
    hang, memory    it takes longer, or more memory, than a worker has (a deep one may also run out of stack first)
    crash           it ends the process that grades
    stops: NAME     it raises this exception in the process that trains
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from typing import NamedTuple

from cib_rl.grading import answers


class Shape(NamedTuple):
    """`heavy`: costs a worker its life, or seconds; drawn once. `style`: the answer is read from this completion."""

    name: str
    defence: str
    harm: str
    gold: str
    text: str | Callable[[random.Random], str]
    heavy: bool = False
    style: str = ""

    def draw(self, rng: random.Random) -> tuple[str, str]:
        """A gold answer and a prediction."""
        n = rng.randrange(21, 99)
        values = {"<n>": n, "<m>": n + 1, "<k>": n - 2}
        text = self.text if isinstance(self.text, str) else self.text(rng)
        gold, text = (re.sub(r"<[nmk]>", lambda found: str(values[found.group()]), t) for t in (self.gold, text))
        return gold, (answers.extract_answer(text, self.style) or "") if self.style else text


def nested(opening: str, closing: str, depth: int) -> Callable[[random.Random], str]:
    def text(rng: random.Random) -> str:
        levels = depth + rng.randrange(depth // 4)
        return opening * levels + "<n>" + closing * levels

    return text


def repeated(piece: str, length: int) -> Callable[[random.Random], str]:
    return lambda rng: piece * (length // len(piece) + rng.randrange(99)) + "<n>"


SHAPES = [
    # ---- what the fast path reads, in the process that trains
    Shape("huge exponent", "digits of an exponent", "hang", "<n>", "<n>e9999999999"),
    Shape("tiny exponent", "digits of an exponent", "hang", "<n>", "<n>e-999999999"),
    Shape("more digits than int() takes", "digits of a number", "stops: ValueError", "1" * 2600, "<n>" * 2500),
    Shape("division by zero", "no zero below", "stops: ZeroDivisionError", "<n>", r"\frac{<n>}{0}"),
    Shape("zero by zero", "no zero below", "stops: ZeroDivisionError", "0", "0/0"),
    Shape("Arabic digits", "ASCII digits", "right", "72", "٧٢"),
    Shape("full-width digits", "ASCII digits", "right", "<n>1", "<n>１"),
    Shape("half a surrogate", "escapes on the pipe", "stops: UnicodeEncodeError", "<n>", "<n>\ud800"),
    Shape("surrogates in a formula", "escapes on the pipe", "stops: UnicodeEncodeError", "x+<n>", "x\udfff\udbff+<n>"),
    # ---- length
    Shape("a megabyte of letters", "length", "hang", "<n>", repeated("x", 1_000_000)),
    Shape("a megabyte of a sum", "length", "hang", "x+<n>", repeated("x+", 1_000_000)),
    Shape("a megabyte of a list", "length", "hang", r"\{1,<n>\}", repeated("1,", 1_000_000)),
    Shape("a megabyte of minus signs", "length", "hang", "x-<n>", repeated("-x", 1_000_000)),
    # ---- depth
    Shape("nested powers", "depth", "hang", "x+<n>", nested("x^{", "}", 32)),
    Shape("nested subscripts", "depth", "hang", "x+<n>", nested("x_{", "}", 32)),
    Shape("nested parentheses", "depth, and what runs out", "hang or wrong", "x+<n>", nested("(x+", ")", 150)),
    Shape("nested roots", "depth, and what runs out", "hang or wrong", "x+<n>", nested(r"\sqrt{", "}", 150)),
    Shape("nested fractions", "depth, and what runs out", "hang or wrong", "x+<n>", nested(r"\frac{1}{1+", "}", 120)),
    Shape("nested braces", "depth, and what runs out", "hang or wrong", "x+<n>", nested("{", "}", 150)),
    Shape("nested sets", "depth, and what runs out", "hang or wrong", "x+<n>", nested(r"\{", r"\}", 150)),
    Shape("nested intervals", "depth, and what runs out", "hang or wrong", "x+<n>", nested("[", "]", 150)),
    Shape("nested sines", "depth, and what runs out", "hang or wrong", "x+<n>", nested(r"\sin(", ")", 150)),
    # ---- time and memory of a worker
    Shape("tower of powers", "time", "hang", "<n>", "<n>^{9^{9^{9}}}", heavy=True),
    Shape("double factorial", "time", "hang", "<n>", "<n>!!", heavy=True),
    Shape("binomial", "time", "hang", "<n>", r"\binom{10^9}{5\cdot 10^8}+<n>", heavy=True),
    Shape("long product", "time", "hang", "<n>", r"\prod_{n=1}^{10^7}(n+<n>)", heavy=True),
    Shape("modulus", "time", "hang", "<n>", r"<n>\mod 10^{10^{10}}", heavy=True),
    Shape("floor of a huge number", "time", "hang", "<n>", r"\lfloor 10^{10^{7}}\pi\rfloor-<n>", heavy=True),
    Shape("divisor of huge numbers", "time", "hang", "<n>", r"\gcd(10^{99999<n>},10^{999998})", heavy=True),
    Shape("tower in a point", "memory", "memory", "(1,<n>)", "(1,2^{2^{2^{2^{5}}}})", heavy=True),
    Shape("identity matrix", "memory", "memory", "<n>", r"\operatorname{eye}(9<n>99)", heavy=True),
    Shape("matrix of zeros", "memory", "memory", "<n>", r"\operatorname{zeros}(9<n>99,9<n>99)", heavy=True),
    Shape("minus without end", "what runs out is told", "wrong", "x+<n>", repeated("-", 1700)),
    # ---- a grammar, not Python and not any number in the text
    Shape("code that ends the process", "a grammar, not Python", "crash", "<n>", '__import__("os")._exit(<n>)'),
    Shape("code that kills it", "a grammar, not Python", "crash", "<n>", '__import__("os").abort()+<n>'),
    Shape("one of two numbers", "all of it is read", "right", "<n>", "<m> or maybe <n>"),
    Shape("a number in words", "all of it is read", "right", "<n>", "certainly not <n>"),
    Shape("a number taken back", "all of it is read", "right", "<n>", "$<n>$ is wrong"),
    # ---- characters and structure
    Shape("null byte", "syntax errors", "right", "<n>", "<n>\0"),
    Shape("control characters", "syntax errors", "right", "<n>", "\x1b<n>\x08\x08"),
    Shape("zero-width space", "syntax errors", "right", "x+<n>", "x\u200b+\u200b<n>"),
    Shape("shown from right to left", "syntax errors", "right", "<n>", "\u202e<n>"),
    Shape("per mille", "syntax errors", "right", "<n>", "<n>‰"),
    Shape("look-alike digit", "syntax errors", "right", "<n>", "<n>Ƽ"),
    Shape("look-alike letter", "syntax errors", "right", "<n>", "<n>х"),
    Shape("one bracket too many", "syntax errors", "right", "x+<n>", "x+<n>]+5"),
    Shape("open brace", "balanced braces", "right", "<n>", "<n>}+{<m>"),
    Shape("inside out", "balanced braces", "right", "<n>", "<n>}}{{"),
    # ---- products that latex2sympy takes for sums
    Shape("number before parentheses", "products without a sign", "right", "x+<n>", "x+<k>(2)"),
    Shape("two parentheses", "products without a sign", "right", "x+<n>", "x+(<k>)(2)"),
    Shape("number before braces", "products without a sign", "right", "<n>", "<k>{2}"),
    Shape("number before a binomial", "products without a sign", "right", "x+<n>", r"x+<k>\binom{2}{1}"),
    Shape("dots between numbers", "products without a sign", "right", "<n>", r"<k>\ldots 2"),
    # ---- what is dropped must not join digits
    Shape("quote between digits", "dropped marks part digits", "right", "<n>7", "<n>'7"),
    Shape("ordinal between digits", "dropped marks part digits", "right", "<n>7", r"<n>\mathrm{th}7"),
    Shape("empty text between digits", "dropped marks part digits", "right", "<n>7", r"<n>\text{ }7"),
    Shape("dollar between digits", "currency parts digits", "right", "<n>7", "<n>$7"),
    # ---- units
    Shape("variable taken for a unit", "units", "right", "x+<n>t", "x+<n>"),
    Shape("another variable", "units", "right", "<n>t", "<n>s"),
    Shape("two measures", "units", "right", "<n>", r"<n>\text{ cm}+5\text{ mm}"),
    Shape("hours and minutes", "units", "right", "<n>", r"<n>\text{ hours }30\text{ minutes}"),
    Shape("millions", "words that are no units", "right", "<n>", r"<n>\text{ million}"),
    Shape("taken back in text", "words that are no units", "right", "<n>", r"<n>\text{ is wrong}"),
    Shape("half of the day", "units that differ", "right", r"8:<n>\text{ p.m.}", r"8:<n>\text{ a.m.}"),
    Shape("other unit", "units that differ", "right", r"<n>\text{ cm}", r"<n>\text{ km}"),
    # ---- letters
    Shape("radius over radius", "case of letters", "right", r"\frac{R}{r}", "1^{<n>}"),
    Shape("difference of radii", "case of letters", "right", "<n>(R-r)", r"0\cdot x"),
    Shape("letters of a word", "words are no products", "right", "neither", "reithen"),
    Shape("words in another order", "words are no products", "right", "pink cat", "cat pink"),
    # ---- marks that latex2sympy passes over
    Shape("another base", "bases", "right", "<n>_8", "<n>_9"),
    Shape("subscript of a number", "bases", "right", "<n>", r"<n>_{\text{or so}}"),
    Shape("derivative", "primes", "right", "y'+<n>", "y+<n>"),
    Shape("point as a set", "brackets", "right", "(<n>,5)", r"\{<n>,5\}"),
    Shape("open interval as a set", "brackets", "right", "(5,<n>)", r"\{5,<n>\}"),
    Shape("point as an interval", "brackets", "right", "(<n>,5)", "[<n>,5]"),
    Shape("transposed number", "powers of T", "right", "<n>", "<n>^T"),
    Shape("number in a base", "numbers with a base", "right", "20", "(5)_{2}"),
    # ---- boxes in an answer
    Shape("box behind a number", "boxes", "right", "<n>", r"<m>\boxed{<n>}"),
    Shape("sum with a box", "boxes", "right", "<n>", r"\boxed{<n>}+<m>"),
    Shape("product with a box", "boxes", "right", "x+<n>", r"y\cdot\fbox{x+<n>}"),
    # ---- equations
    Shape("false equation", "equations hold", "right", "<n>", "<m>=<n>"),
    Shape("false equation in a row", "equations hold", "right", "x=<n>", "x=<m>=<n>"),
    Shape("false equivalence", "equations hold", "right", "<n>", r"<m>\equiv <n>"),
    Shape("false equation in a set", "equations in sets hold", "right", "<n>", r"\{<m>=<n>\}"),
    Shape("false equation after noise", "sides agree", "right", "<n>", "?=<m>=<n>"),
    Shape("number for an expression", "sides agree", "right", "x+<n>", "<m>=x+<n>"),
    Shape("rough estimate", "estimates are near", "right", "<n>", r"<n>\approx 9<m>"),
    Shape("equation without solution", "solutions to compare", "right", "x^2+<n>=0", "x^2+<m>=0"),
    Shape("another without solution", "solutions to compare", "right", "|x|=-<n>", "|x|=-<m>"),
    Shape("false statement", "statements are no sets", "right", r"\emptyset", "<m><<n>"),
    Shape("values without names", "order of named values", "right", "x=<m>,y=<n>", "<n>,<m>"),
    Shape("inequality for a set", "inequalities are no sets", "right", r"\{5,<n>\}", "5<x<<n>"),
    # ---- sizes
    Shape("small power", "relative size", "right", "2^{-1<n>}", "2^{-1<m>}"),
    Shape("small fraction", "relative size", "right", r"\frac{1}{3^{1<n>}}", r"\frac{1}{3^{1<m>}}"),
    Shape("small decimal", "relative size", "right", "0.0000000<n>", "0.0000000<m>"),
    # ---- completions
    Shape("earlier box", "the last box", "right", "<n>", r"\boxed{<n>}, no, \boxed{<m>}", style="boxed"),
    Shape(
        "answer before the last",
        "the last box",
        "right",
        "<n>",
        r"Maybe \boxed{<n>}. Finally \boxed{\text{no}}",
        style="boxed",
    ),
    Shape(
        "gold in thoughts",
        "thoughts are no answer",
        "right",
        "<n>",
        r"<think>\boxed{<n>}</think> I do not know",
        style="boxed",
    ),
]
