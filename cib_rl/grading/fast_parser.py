"""latex2sympy's grammar at twice the speed: ANTLR's two-stage parsing.

The generated parser predicts with full context wherever the faster SLL prediction meets a conflict, and keeps nothing
of it: most of the time of a warm parser goes there. A parse that SLL completes without an error is the one that full
prediction gives (documentation of ANTLR's `PredictionMode.SLL`), so full prediction is only needed after an error.
"""

from __future__ import annotations

from typing import Any

from antlr4.atn.PredictionMode import PredictionMode
from latex2sympy2_extended import latex2sympy2

_Converter = latex2sympy2._Latex2Sympy  # a private seam; a test holds it to what the plain parser reads


class TwoStage(_Converter):  # type: ignore[misc, valid-type]
    """The converter that `latex2sympy` makes for each text."""

    sll = True

    def create_parser(self, latex_str: str) -> Any:
        parser = super().create_parser(latex_str)
        if self.sll:
            parser._interp.predictionMode = PredictionMode.SLL
        return parser

    def parse(self, latex_str: str) -> Any:
        try:
            return super().parse(latex_str)
        except (MemoryError, RecursionError):
            raise
        except Exception:
            self.sll = False
            self.variances: dict[Any, Any] = {}
            return super().parse(latex_str)
