"""From LaTeX to SymPy as a reader would: what latex2sympy takes for a sum or for one letter, and its limits.

Importing this module changes nothing; `install` does, for the process that calls it.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from latex2sympy2_extended import latex2sympy2
from math_verify import grader
from sympy import Ne, solve

from cib_rl.grading.fast_parser import TwoStage

_NUMBER = re.compile(r"[0-9.,]+")
_FRACTION = re.compile(r"\\[dtc]?frac\{[0-9]+\}\{[0-9]+\}")


class Exhausted(BaseException):
    """The parser ran out of memory or stack; `__cause__` says which.

    Not an Exception, because math-verify takes any Exception of the parser for an answer that cannot be read.
    """


class Converter(TwoStage):
    """The converter that `latex2sympy` makes for each text."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.config = replace(self.config, lowercase_symbols=False)  # R/r is not 1

    def parse(self, latex_str: str) -> Any:
        try:
            return super().parse(latex_str)
        except (MemoryError, RecursionError) as error:
            raise Exhausted from error

    def convert_postfix_list(self, arr: list[Any], i: int = 0) -> Any:
        """A product without a sign. Only 2\\frac{1}{2} is a sum; 2(3) is 6 (5 in latex2sympy) and 7{2} nothing."""
        value = self.convert_postfix(arr[i])  # once: a second time at each level is 2^depth
        if isinstance(value, list):  # d/dx
            return super().convert_postfix_list(arr, i)
        if i == len(arr) - 1:
            return value
        if _NUMBER.fullmatch(arr[i].getText()):
            following = arr[i + 1].getText()
            if following[:1].isdigit() or following[:1] in "{.":
                raise ValueError("two numbers side by side")
            if _FRACTION.fullmatch(following):
                return super().convert_postfix_list(arr, i)
        rest = self.convert_postfix_list(arr, i + 1)
        matrix = any(getattr(e, "is_Matrix", False) for e in (value, rest))
        return (self.mat_mul_flat if matrix else self.mul_flat)(value, rest)


def _solve(*args: Any) -> Any:
    """`solve`, but an equation without solutions, 5 = 6, does not equal every other one that has none."""
    found = solve(*args)
    if found == []:
        raise ValueError("no solutions to compare")
    return found


def install() -> None:
    """Let math-verify use it, in this process."""
    latex2sympy2._Latex2Sympy = Converter
    grader.solve = _solve
    grader.INVERSE_RELATIONS[Ne] = Ne  # missing there: 5 ≠ x would be a KeyError
