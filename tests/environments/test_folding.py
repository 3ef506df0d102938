"""What counts as the same text, and where a match in the folded text stands in the text."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cib_rl.environments import folding
from cib_rl.environments.folding import fold, replace_folded, visible

TEXT = st.text() | st.text(st.sampled_from("aAé&lt;&#60;<＜ſß\u200b\u0301\u3164 \n"))


WRITTEN = ["<Search>", "＜Ｓearch＞", "<sea\u200brch>", "&lt;search&GT;", "&#60search&#x3e;", "<ſearch>",
           "<sea\u0301rch>", "\ufe64search\ufe65"]  # fmt: skip


@pytest.mark.parametrize("text", WRITTEN)
def test_ways_to_write_a_tag_are_one(text):
    assert fold(text) == "<search>"


@given(TEXT)
def test_a_quick_way_and_the_long_one_agree(text):
    assert fold(text) == "".join(map(folding._folded, folding.units(text)))
    assert fold(fold(text).replace("&", "")) == fold(text).replace("&", "")


@given(TEXT, TEXT)
def test_joining_and_folding_commute(one, other):
    one, other = one.replace("&", ""), other.replace("&", "")
    assert fold(one + other) == fold(one) + fold(other)


@given(TEXT)
def test_only_what_matches_is_replaced(text):
    changed = replace_folded(text, re.compile("<"), "‹")
    assert "<" not in fold(changed)
    assert replace_folded(text, re.compile("(?!)"), "‹") == text
    kept = [unit for unit in folding.units(text) if "<" not in fold(unit)]
    assert changed.replace("‹", "") == "".join(kept).replace("‹", "")


@given(st.text())
def test_what_is_visible_can_be_encoded_and_stays(text):
    shown = visible(text + "\ud800 ok \udc00\ud83d")
    assert shown.endswith("\ufffd ok \ufffd\ufffd") and shown.encode()
    assert visible(shown) == shown
    printable = "".join(c for c in text if c.isprintable() or c in "\n\t")
    assert visible(printable) == printable


def test_two_halves_side_by_side_are_the_character():
    assert visible("\ud83d\ude00") == "😀"
