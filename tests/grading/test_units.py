"""Which letters behind a value are its unit."""

from __future__ import annotations

import pytest

from cib_rl.grading.units import different_units, has_bare_letters, without_unit


@pytest.mark.parametrize(
    "text, left",
    [
        (r"72\text{ cm}", "72"),
        (r"72\text{ m/s}^2", "72"),
        (r"x=72\mbox{ miles per hour}", "x=72"),
        (r"72\text{ percent}", r"72\%"),
        (r"\text{m}", r"\text{m}"),
        (r"72\text{ million}", r"72\text{ million}"),
        (r"72\text{ is wrong}", r"72\text{ is wrong}"),
        (r"72\text{5}", r"72\text{5}"),
        (r"5\text{ m}+2\text{ m}", r"5\text{ m}+2"),
    ],
)
def test_a_unit_in_text_is_taken_off_and_nothing_else(text, left):
    assert without_unit(text, bare=False) == left


def test_words_that_the_gold_answer_has_too_are_no_objection():
    assert without_unit(r"7.0\text{ million}", bare=False, kept=r"7\text{ million}") == "7.0"


@pytest.mark.parametrize(
    "text, left",
    [
        ("72 cm", "72"),
        ("72m", "72"),
        ("72 km/h", "72"),
        ("72 square feet", "72"),
        ("72t", "72t"),
        ("m", "m"),
        ("xm", "xm"),
    ],
)
def test_bare_units_are_taken_off_on_request(text, left):
    assert without_unit(text, bare=True) == left
    assert without_unit(text, bare=False) == text


@pytest.mark.parametrize(
    "text, has", [("3t", True), (r"\frac{1}{2}", False), (r"5\text{ m}", False), (r"\pi r", True), ("72", False)]
)
def test_letters_of_commands_and_texts_are_no_variables(text, has):
    assert has_bare_letters(text) is has


def test_measures_differ_where_both_name_one():
    assert different_units(r"5\text{ cm}", r"5\text{ km}")
    assert different_units(r"8:30\text{ a.m.}", r"8:30\text{ pm}")
    assert not different_units(r"5\text{ cm}", "5") and not different_units(r"5\text{ cm}", r"5\text{ centimeters}")
