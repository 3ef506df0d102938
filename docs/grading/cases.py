"""What docs/grading/agreement.py grades: pairs of a gold answer and a text, and what the data say of them."""

from __future__ import annotations

import gzip
import json
import random
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from cib_rl.grading.answers import extract_answer
from cib_rl.grading.latex import normalise

# In a solution text: a number; a formula or a number; a formula with bold digits, which OlympiadBench has for answers.
ANY_NUMBER = r"-?(?:\d{1,3}(?: \d{3})+|(?:\d[\d,]*)?\.?\d+)(?!\d)"
PIECE = re.compile(rf"\$+([^$]+)\$+|({ANY_NUMBER})")
NUMBER = f"regex:{ANY_NUMBER}"
BOLD = r"regex:\$+([^$]*\\mathbf\{[-\s]*\d[^$]*)\$+"
FORMULA = r"regex:(?|\$+([^$]+)\$+|(?<![\w$.,])(-?\d[\d,]*(?:\.\d+)?)(?![\w$]))"  # or a number between the words
# How the solutions are read (styles of `extract_answer`): the first style that finds something.
SOLUTIONS: dict[str, tuple[str, ...]] = {
    "math/gsm8k_test": (NUMBER,),
    "math/gsm8k_train": (NUMBER,),
    "math/math500": ("boxed",),
    "math/math_test": ("boxed",),
    "math/math_train": ("boxed",),
    "math/aime24": ("boxed", FORMULA),
    "math/aime_1983_2023": ("boxed", FORMULA),
    "math/deepscaler_subset_grpo_lead": ("boxed",),
    "math/olympiadbench": (BOLD, FORMULA),
}
LABELLED = {"traces/gsm8k_model_solutions": r"regex:(?m)^A: *(.*)$"}
GOLDS = ("math/aime24", "math/aime25", "math/amc23", "math/amc_2022_2023", "math/math500", "math/olympiadbench")
NOTATIONS = ("itself", "sizes", "choice", "decimal", "unit", "three digits", "equation", "product")
OTHERS = 20  # other rows' answers per gold answer


class Case(NamedTuple):
    """One pair to grade, and the outcome that the data ask for. `id` is empty where the pair is of no one row."""

    check: str
    file: str
    id: str
    gold: str
    read: str
    expected: str = "right"


def load(data: Path, name: str) -> list[dict[str, Any]]:
    """The rows of DATA/NAME.jsonl or .jsonl.gz; none where there is no such file."""
    for suffix, opened in ((".jsonl", open), (".jsonl.gz", gzip.open)):
        if (file := data / f"{name}{suffix}").is_file():
            with opened(file, "rt", encoding="utf-8") as lines:
                return [json.loads(line) for line in lines]
    return []


def read_solution(text: str, styles: Iterable[str]) -> str | None:
    """The answer that a solution ends with; of a display of several lines the last one, bold digits put together."""
    found = next((answer for style in styles if (answer := extract_answer(text, style))), None)
    if found is None:
        return None
    if "\\begin{aligned}" in found:
        found = re.split(r"\\\\(?!\w)", found.partition("\\end{aligned}")[0])[-1].replace("&", "").strip()
    found = re.sub(r"\\(?:mathbf|boldsymbol)\{([^{}]*)\}", lambda bold: bold[1].replace(" ", ""), found)
    return " ".join(found.split())


def solution_cases(file: str, rows: list[dict[str, Any]]) -> list[Case]:
    """One case per row whose solution holds an answer."""
    read = [(row, read_solution(row.get("solution") or "", SOLUTIONS[file])) for row in rows]
    return [Case("solution", file, row["id"], str(row["answer"]), text) for row, text in read if text is not None]


def label_cases(file: str, rows: list[dict[str, Any]]) -> list[Case]:
    """One case per labelled solution; one without an answer counts as an empty one, which is wrong."""
    cases = []
    for row in rows:
        read = extract_answer(row["trace"], LABELLED[file]) or ""
        cases.append(Case("label", file, row["id"], str(row["answer"]), read, "right" if row["correct"] else "wrong"))
    return cases


def notations(gold: str) -> dict[str, str]:
    """The same answer written otherwise, by the names in NOTATIONS; which ones make sense depends on what it is."""
    sizes = re.sub(r"(?<!d)frac", "dfrac", gold)
    if "\\left" not in sizes:
        sizes = sizes.replace("(", "\\left( ").replace(")", " \\right)")
    found = {"itself": gold, "sizes": sizes, "choice": f"\\textbf{{(B) }}{gold}"}
    if re.fullmatch(r"-?\d+", gold):
        found |= {"decimal": f"{gold}.0", "unit": f"{gold}\\text{{ units}}"}
        found["three digits"] = f"\\textbf{{({int(gold):03d}) }}"
    if not re.search(r"text|[=<>]|\\[lg]e|\\in(?![a-z])", gold):
        found["equation"] = f"x = {gold}"
        if not re.search(r"[,;[\]]|\\cup|\\pm|\\{", gold):
            found["product"] = f"1\\cdot {gold}"
    return found


def other_cases(file: str, golds: list[str]) -> list[Case]:
    """Answers of other rows, drawn with a fixed seed, that are not the same text but for spacing and sizes."""
    draw, texts = random.Random(0), sorted(set(golds))
    pairs = [(gold, other) for gold in texts for other in draw.sample(texts, min(OTHERS, len(texts)))]
    return [Case("other", file, "", a, b, "wrong") for a, b in pairs if normalise(a) != normalise(b)]
