"""Grades hostile answers in processes of their own, each with one defence switched off.

    python -m tests.grading.switched_off

prints {name of the shape: what happened}. Every answer is graded in a fork with limits of its own: SECONDS of processor
time, MEGABYTES of memory.
"""

from __future__ import annotations

import json
import os
import random
import re
import resource
import signal
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import math_verify
from sympy.parsing.sympy_parser import parse_expr

from cib_rl.grading import answers, compare, converter, fast_parser, latex, marks, math, math_full, numbers, pool, units
from tests.grading.hostile_shapes import SHAPES, Shape

SECONDS = 2  # of processor time; this and the memory are more than `test_hostile.py` allows a worker
MEGABYTES = 512


def set_to(module: Any, **values: Any) -> Callable[[], None]:
    def switch_off() -> None:
        for name, value in values.items():
            assert hasattr(module, name), name
            setattr(module, name, value)

    return switch_off


def yes(*_: Any, **__: Any) -> bool:
    return True


def no(*_: Any, **__: Any) -> bool:
    return False


def as_it_is(text: str, *_: Any, **__: Any) -> str:
    return text


def all_of(*switches: Callable[[], None]) -> Callable[[], None]:
    def switch_off() -> None:
        for switch in switches:
            switch()

    return switch_off


def joined(text: str) -> str:
    return latex.for_parser(text.replace("$", ""))


NEVER = re.compile(r"(?!)()")
ANY_EXPONENT = re.compile(r"([-+]?\d+(?:\.\d+)?)[eE]([-+]?\d+)")
PLAIN = fast_parser._Converter

SILENT = set_to(converter.Converter, parse=fast_parser.TwoStage.parse)

DEFENCES: dict[str, Callable[[], None]] = {
    "digits of an exponent": set_to(numbers, SCIENTIFIC=ANY_EXPONENT),
    "digits of a number": set_to(numbers, _DECIMAL=re.compile(r"[-+]?([0-9]+(?:\.[0-9]*)?)")),
    "no zero below": set_to(numbers, _fraction=lambda sign, whole, a, b: numbers.Fraction(a, b)),
    "ASCII digits": set_to(numbers, _DECIMAL=re.compile(r"[-+]?(\d+(?:\.\d*)?)")),
    "escapes on the pipe": set_to(pool, json=SimpleNamespace(dumps=lambda item: json.dumps(item, ensure_ascii=False))),
    "length": set_to(math, MAX_CHARACTERS=10**9),
    "depth": set_to(marks, MAX_NESTING=10**9),
    "depth, and what runs out": all_of(set_to(marks, MAX_NESTING=10**9), SILENT),
    "time": lambda: None,  # here is no worker whose time is limited
    "memory": lambda: None,
    "what runs out is told": SILENT,
    "a grammar, not Python": set_to(math_full, _parse=lambda text, **_: [parse_expr(text)]),
    "all of it is read": set_to(math_full, _parse=lambda text, **_: math_verify.parse(text, parsing_timeout=None)),
    "syntax errors": set_to(PLAIN.MathErrorListener, syntaxError=lambda *_: None),
    "balanced braces": set_to(math_full, balanced=yes),
    "products without a sign": set_to(converter.Converter, convert_postfix_list=PLAIN.convert_postfix_list),
    "dropped marks part digits": set_to(latex, _BETWEEN_DIGITS=NEVER),
    "currency parts digits": all_of(set_to(math_full, for_parser=joined), set_to(numbers, for_parser=joined)),
    "units": set_to(
        math_full, without_unit=as_it_is, _CONFIG=math_verify.LatexExtractionConfig(boxed_match_priority=0)
    ),
    "words that are no units": set_to(units, _NO_UNITS=NEVER),
    "units that differ": set_to(math_full, different_units=no),
    "case of letters": set_to(converter, replace=lambda config, **_: config),
    "words are no products": all_of(set_to(math_full, different_words=no), set_to(math, different_words=no)),
    "bases": set_to(marks, _same_bases=yes),
    "primes": set_to(marks, _primes=lambda text: []),
    "brackets": set_to(marks, _around=lambda text: None),
    "powers of T": set_to(latex, _POWER_T=NEVER),
    "numbers with a base": set_to(latex, _BASED=NEVER),
    "boxes": set_to(latex, unboxed=as_it_is),
    "sides agree": set_to(math_full, _sides_agree=yes),
    "equations hold": all_of(set_to(math_full, _sides_agree=yes), set_to(compare, _equations_hold=yes)),
    "estimates are near": set_to(math_full, _about_the_same=yes),
    "equations in sets hold": set_to(compare, _equations_hold=yes),
    "solutions to compare": set_to(math_verify.grader, solve=converter.solve),
    "statements are no sets": set_to(compare, _only_a_statement=no),
    "order of named values": set_to(compare, _in_order=lambda gold, prediction: (gold, prediction)),
    "inequalities are no sets": set_to(compare, _is_inequality=no),
    "relative size": set_to(compare, _apart_in_size=no),
    "the last box": set_to(answers, _FINDERS=answers._FINDERS | {"boxed": lambda t: re.findall(r"boxed{(.*?)}", t)[0]}),
    "thoughts are no answer": set_to(answers, extract_answer=lambda text, style: answers.finder(style)(text)),
}


def grade(shape: Shape) -> str:
    """The harm of one answer, in this process: what a run does before it, and what a worker does with it."""
    try:
        gold, prediction = shape.draw(random.Random(1))
        verdict = math.quick_grade(gold=gold, prediction=prediction)
        item = pool.json.dumps({"gold": gold, "prediction": prediction}).encode()
    except MemoryError:
        return "memory"
    except Exception as error:
        return f"stops: {type(error).__name__}"
    try:
        return "right" if (math_full.full_grade(**json.loads(item)) if verdict is None else verdict) else "wrong"
    except MemoryError:
        return "memory"
    except Exception as error:
        return f"error: {type(error).__name__}"


def run(shape: Shape) -> str:
    """`grade` in a fork with the shape's defence switched off."""
    receive, send = os.pipe()
    child = os.fork()
    if child == 0:
        for descriptor in (1, 2):
            os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 5))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_AS, (MEGABYTES * 2**20, MEGABYTES * 2**20))
        math_verify.parser.parse_latex_cached.cache_clear()
        DEFENCES[shape.defence]()
        os.write(send, grade(shape).encode())
        os._exit(0)
    os.close(send)
    with os.fdopen(receive) as pipe:
        said = pipe.read()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return "hang" if os.WTERMSIG(status) == signal.SIGXCPU else "crash"
    return said or "crash"


if __name__ == "__main__":
    print(json.dumps({shape.name: run(shape) for shape in SHAPES}))
