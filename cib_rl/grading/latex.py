"""Writing a mathematical answer in one way: what never changes its meaning is taken out, shorthand is written out.

Only the text is looked at, in time linear in its length. What is left is compared as text, read as a number
(`numbers.py`), or parsed by math-verify (`math_full.py`).
"""

from __future__ import annotations

import re

MIXED = re.compile(r"([-+]?\d+) +(?:(\d+)/(\d+)|(\\frac\{\d+\}\{\d+\}))")

_SIGNS = str.maketrans(
    {
        "−": "-",
        "×": r"\times ",
        "·": r"\cdot ",
        "÷": r"\div ",
        "π": r"\pi ",
        "∞": r"\infty ",
        "≤": r"\le ",
        "≥": r"\ge ",
    }
    | {"°": r"^\circ ", "~": " ", "\u00a0": " ", "€": " ", "£": " ", "≈": r"\approx "}
)
_SPACE = re.compile(r"(?<!\\)\\([!,;: ]|(?:quad|qquad|thinspace|enspace|displaystyle|textstyle)(?![a-zA-Z]))")
_SIZES = re.compile(r"\\(?:left|right)(?![a-zA-Z])")
_GROUPING = re.compile(r"(?<=\d)(?:,\\! ?(?=\d)|(?:\\,|\{,\})(?=\d{3}(?!\d)))")  # 5,\!525 and 5\,525 and 5{,}525
_THOUSANDS = re.compile(r"[-+]?\d{1,3}(?:(?:,\d{3})+|(?: \d{3})+)(?:\.\d+)?(?:\\%|\^\\circ)?")
_TEXT = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|mbox)\{([^{}]*)\}")
_DEGREES = re.compile(r"\^ ?(?:\{ ?\\circ ?\}|\\circ(?![a-zA-Z])) ?")
_LABEL = re.compile(
    r"\\(?:text|textbf|mathrm|mathbf)\{ *\([A-H]\) *\}|\(\\(?:text|textbf|mathrm|mathbf)\{[A-H]\}\)|\([A-H]\)(?= )"
)
_LABEL_BEHIND = re.compile(
    r"(?:\\(?:implies|(?:Long)?[rR]ightarrow) *)?\\(?:text|textbf|mathrm|mathbf)\{ *\((?:[Cc]hoice )?[A-H]\) *\}[ .$]*$"
)
_IN_PARENTHESES = re.compile(r"\(([-+]?\d[\d.]*)\)")
_FRACTION = re.compile(r"\\[dt]?frac(?![a-zA-Z])")
_ARGUMENT = re.compile(r" *(?:(?P<brace>\{)|(?P<one>\\(?:pi|infty|alpha|beta|theta)(?![a-zA-Z])|[0-9a-zA-Z]))")
_ROOT = re.compile(r"\\sqrt +(?=[0-9a-zA-Z\\])")
_TRIGONOMETRIC = re.compile(r"(\\(?:sin|cos|tan|cot|sec|csc)(?:\^(?:\d|\{\d+\}))?) *([a-zA-Z])(?![a-zA-Z(_^{])")
_OF_DEGREES = re.compile(
    r"(\\(?:sin|cos|tan|cot|sec|csc)(?:\^(?:\d|\{-?\d+\}))?) ?"
    r"(?:(\d+(?:\.\d+)?)\^\\circ|\((\d+(?:\.\d+)?)\^\\circ\)|\{(\d+(?:\.\d+)?)\^\\circ\})"
)
_ELLIPSIS = re.compile(r"(?<=[-+*])\\[lc]?dots(?=[-+*])")
_WORD_INDEX = re.compile(r"_(?:\\(max|min)(?![a-zA-Z])|\{ ?\\(max|min) ?\})")
_WORDS = re.compile(r"[A-Za-z]+(?: [A-Za-z]+)*")
# Dropped by math-verify, which would join the digits.
_BETWEEN_DIGITS = re.compile(r"(?<=[\d.])(?:[\"']|\\text ?\{ *\}|\\mathrm\{th\})+(?=[\d.])")
_BASED = re.compile(r"\((\d+)\)_")  # (12)_{8} is a number; math-verify takes it for a falling factorial
_POWER_T = re.compile(r"\^(?:T(?![a-zA-Z])|\{T\})")  # read as a transpose, which a number does not change
_BOX = re.compile(r"\\{1,2}(?:boxed|fbox)[ \t]*\{")
_BRACES = re.compile(r"\\.|[{}]", re.DOTALL)
_NEGATION = re.compile(r"\b(?:not|never|neither|nor|except)\s*$")
_PLAIN_WORDS = re.compile(r"(?:[A-Za-z\s.,:;*$]|\\[()\[\]])*")
SCIENTIFIC = re.compile(r"([-+]?\d+(?:\.\d+)?)[eE]([-+]?\d{1,3})")
_REPEATING = re.compile(r"(?<![\d.])(\d{0,15})\.(\d{0,15})\\(?:overline|bar|dot) ?(?:\{(\d{1,15})\}|(\d))(?!\d)")


def normalise(answer: str) -> str:
    """`clean`, also without the wrapper of an answer that is all text (`\\text{Evelyn}`)."""
    text = clean(answer)
    whole_text = _TEXT.fullmatch(text)
    return clean(whole_text.group(1)) if whole_text else text


def clean(answer: str) -> str:
    """The answer without math delimiters, sizes, spacing, currency, thousands separators and final punctuation.

    Space between digits stays, so that 1 1/2 does not become 11/2.
    """
    text = _GROUPING.sub("", unboxed(answer.translate(_SIGNS)))
    text = " ".join(_SPACE.sub(lambda m: "" if m.group(1) == "!" else " ", text).split())
    text = _undelimited(text)
    text = _SIZES.sub("", text).replace("{,}", ",").replace("{-}", "-").replace("\\$", " ").strip().removeprefix("$")
    text = _DEGREES.sub(r"^\\circ ", text.rstrip(".,; ")).strip()
    if (label := _TEXT.fullmatch(text)) and not any(c.isalpha() for c in label.group(1)):
        text = label.group(1).strip()
    if number := _IN_PARENTHESES.fullmatch(text):
        text = number.group(1)
    sides, equals, last = text.rpartition("=")
    if _THOUSANDS.fullmatch(last.strip()):
        text = sides + equals + last.replace(",", "").replace(" ", "")
    text = _ROOT.sub(r"\\sqrt", braced_fractions(text))
    return re.sub(r"(?<=[^\w]) | (?=[^\w])", "", text) if not MIXED.fullmatch(text) else text


def without_label(answer: str) -> str:
    """The value behind or before a multiple-choice label: 194 for `\\textbf{(D) }194` and `194 \\textbf{(D)}`.

    Unchanged where there is nothing else.
    """
    stripped = _undelimited(answer.translate(_SIGNS).strip())
    if label := _LABEL.match(stripped):
        rest = stripped[label.end() :]
    else:
        behind = _LABEL_BEHIND.search(stripped)
        rest = stripped[: behind.start()] if behind else ""
    return rest if _SPACE.sub(" ", rest).strip(" $.:") else answer


def for_parser(text: str) -> str:
    """`clean` text with shorthand written out that latex2sympy does not read, or reads wrongly."""
    text = text.removeprefix("\\approx").removeprefix("=").replace("$", " ").strip()
    text = _BETWEEN_DIGITS.sub(" ", text)
    text = _BASED.sub(r"\1_", text)
    if "matrix" not in text:
        text = _POWER_T.sub("^{{T}}", text)
    text = MIXED.sub(lambda m: m.group(1) + (m.group(4) or f"\\frac{{{m.group(2)}}}{{{m.group(3)}}}"), text)
    if scientific := SCIENTIFIC.fullmatch(text):
        text = f"{scientific.group(1)}\\cdot 10^{{{scientific.group(2)}}}"
    text = _REPEATING.sub(_as_fraction, text)
    text = _ELLIPSIS.sub(r"\\Xi", text)  # an unknown, for it would be dropped: 1+2+...+8 is not 11
    text = _TRIGONOMETRIC.sub(r"\1{\2}", _OF_DEGREES.sub(_in_radians, text))
    return _WORD_INDEX.sub(lambda m: f"_{{{m.group(1) or m.group(2)}}}", text)


def braced_fractions(text: str) -> str:
    """Every `\\dfrac 1 2`, `\\frac\\pi 4` as `\\frac{1}{2}`, `\\frac{\\pi}{4}`; other arguments stay as they are."""
    parts, at = [], 0
    for start in _FRACTION.finditer(text):
        if start.start() < at:
            continue
        parts += [text[at : start.start()], "\\frac"]
        at = start.end()
        first = _ARGUMENT.match(text, at)
        if first and first["one"]:
            parts.append(f"{{{first['one']}}}")
            at = first.end()
            second = _ARGUMENT.match(text, at)
            if second and second["one"]:
                parts.append(f"{{{second['one']}}}")
                at = second.end()
    return "".join([*parts, text[at:]])


def _undelimited(text: str) -> str:
    for opening, closing in (("**", "**"), ("`", "`"), ("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]")):
        if text.startswith(opening) and text.endswith(closing) and len(text) > len(opening) + len(closing):
            text = text[len(opening) : -len(closing)].strip()
    return text


def _in_radians(match: re.Match[str]) -> str:
    """\\sin 30^\\circ = \\sin(30π/180); latex2sympy drops the sign of degrees."""
    return f"{match.group(1)}{{\\frac{{{match.group(match.lastindex or 0)}\\pi}}{{180}}}}"


def _as_fraction(match: re.Match[str]) -> str:
    """0.1\\overline{6} = (16 - 1)/90."""
    whole, fixed, period = match.group(1) or "0", match.group(2), match.group(3) or match.group(4)
    numerator = int(whole + fixed + period) - int(whole + fixed)
    return f"\\frac{{{numerator}}}{{{'9' * len(period)}{'0' * len(fixed)}}}"


def unboxed(text: str) -> str:
    """The content of the boxes in it, joined by commas, where only words stand around them.

    Otherwise the boxes are taken off and the rest stays: 5=\\boxed{72} says 5=72. An unclosed box stays as it is.
    """
    boxes, rest, at = [], [], 0
    while box := _BOX.search(text, at):
        end = _closing(text, box.end())
        if end is None:
            return text
        rest.append(text[at : box.start()])
        boxes.append(text[box.end() : end])
        at = end + 1
    if not boxes:
        return text
    rest.append(text[at:])
    if all(map(_PLAIN_WORDS.fullmatch, rest)) and not any(map(_NEGATION.search, rest)):
        return unboxed(",".join(boxes))
    inside = [box if before.rstrip().endswith("=") else f"{{{box}}}" for before, box in zip(rest, boxes, strict=False)]
    return unboxed("".join(piece for pair in zip(rest, [*inside, ""], strict=True) for piece in pair))


def _closing(text: str, start: int) -> int | None:
    """Where the brace that was opened before `start` is closed."""
    depth = 1
    for brace in _BRACES.finditer(text, start):
        depth += {"{": 1, "}": -1}.get(brace.group(), 0)
        if depth == 0:
            return brace.start()
    return None


def same_words(gold: str, prediction: str) -> bool:
    """Whether both are the same words, or the same letter of a choice, but for case and spaces.

    Not for two letters in both cases, Rr, which are a product.
    """
    if not (_WORDS.fullmatch(gold) and _WORDS.fullmatch(prediction)):
        return False
    a, b = gold.lower().replace(" ", ""), prediction.lower().replace(" ", "")
    return a == b and (len(a) > 2 or (len(a) == 2 and a[0] != a[1]) or a in "abcdefgh")


def different_words(gold: str, prediction: str) -> bool:
    """Whether both are words, and not the same: read as products of letters, `blue` and `lueb` would be equal.

    Letters in alphabetical order on one side are a product, abc = cab, unless they are a word of yes and no.
    """
    if not (_WORDS.fullmatch(gold) and _WORDS.fullmatch(prediction)) or len(gold) < 2 or len(prediction) < 2:
        return False
    a, b = gold.lower().replace(" ", ""), prediction.lower().replace(" ", "")
    products = [text for text in (a, b) if list(text) == sorted(text) and text not in ("no", "not")]
    return a != b and not products
