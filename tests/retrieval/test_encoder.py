"""Prefixes: which are chosen, and that the network gets them."""

from __future__ import annotations

import numpy as np
import pytest

from cib_rl.errors import UserError
from cib_rl.retrieval.encoder import Encoder, EncoderSettings, choose_prefixes
from tests.retrieval.encoders import make_encoder

INSTRUCT = "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery: "


@pytest.mark.parametrize(
    ("name", "prefixes"),
    [
        ("intfloat/e5-base-v2", ("query: ", "passage: ")),
        ("intfloat/multilingual-E5-small", ("query: ", "passage: ")),
        ("models/my_e5", ("query: ", "passage: ")),
        ("/cache/models--intfloat--e5-large/snapshots/0abe5c", ("query: ", "passage: ")),
        ("intfloat/multilingual-e5-large-instruct", (INSTRUCT, "")),
        ("intfloat/e5-mistral-7b-instruct", (INSTRUCT, "")),
        ("sentence-transformers/all-MiniLM-L6-v2", ("", "")),
        ("/cache/models--me--bge/snapshots/e5f01", ("", "")),
        ("e5/minilm", ("", "")),
        ("simcse5", ("", "")),
    ],
)
def test_the_name_says_e5_or_not(name, prefixes):
    chosen = choose_prefixes(EncoderSettings(encoder=name), {"query": "", "document": ""})
    assert (chosen.query_prefix, chosen.passage_prefix) == prefixes
    assert ("E5" in chosen.prefixes_from) == (prefixes != ("", ""))


def test_what_is_given_goes_first_then_the_encoders_own_prompts():
    own = {"query": "q> ", "passage": "p> "}
    for keys, query, passage, source in [
        ({}, "q> ", "p> ", "the encoder's own prompts"),
        ({"query_prefix": ""}, "", "p> ", "query_prefix as given; the other: the encoder's own prompts"),
        ({"query_prefix": "a", "passage_prefix": "b"}, "a", "b", "as given"),
    ]:
        chosen = choose_prefixes(EncoderSettings(encoder="e5-small", **keys), own)
        assert (chosen.query_prefix, chosen.passage_prefix, chosen.prefixes_from) == (query, passage, source)
    assert choose_prefixes(EncoderSettings(encoder="x"), {"query": "q> "}).passage_prefix == ""


def read(encoder, encode, *arguments):
    """The words that the network was given for each text."""
    network, given = encoder._model[0], []
    hook = network.register_forward_pre_hook(lambda module, inputs: given.append(inputs[0]))
    encode(*arguments)
    hook.remove()
    return network.tokenizer.batch_decode(given[0]["input_ids"], skip_special_tokens=True)


def test_the_network_gets_e5s_prefixes(tmp_path):
    folder = make_encoder(tmp_path).rename(tmp_path / "tiny-e5")
    encoder = Encoder(EncoderSettings(encoder=str(folder)), "cpu")
    assert read(encoder, encoder.queries, ["Ada wrote"]) == ["query : ada wrote"]
    assert read(encoder, encoder.passages, ["Ada wrote"]) == ["passage : ada wrote"]
    assert "query prefix 'query: ', passage prefix 'passage: ' (E5, by the encoder's name)" in encoder.described()
    assert "32 dimensions; texts are cut at 24 tokens" in encoder.described()


def test_an_empty_prefix_is_none_even_where_the_encoder_has_a_default(tmp_path):
    folder = make_encoder(tmp_path, prompts={"query": "query ", "document": "passage "})
    own = Encoder(EncoderSettings(encoder=str(folder)), "cpu")
    own._model.default_prompt_name = "query"
    assert read(own, own.passages, ["engine"]) == ["passage engine"]
    assert read(own, own.queries, ["engine"]) == ["query engine"]
    plain = Encoder(EncoderSettings(encoder=str(folder), query_prefix="", passage_prefix=""), "cpu")
    plain._model.default_prompt_name = "query"
    assert read(plain, plain.queries, ["engine"]) == read(plain, plain.passages, ["engine"]) == ["engine"]


def test_vectors_have_length_1_unless_told_otherwise(tmp_path):
    folder = str(make_encoder(tmp_path))
    unit = Encoder(EncoderSettings(encoder=folder), "cpu").queries(["engine", "ada"])
    raw = Encoder(EncoderSettings(encoder=folder, normalize=False), "cpu").queries(["engine", "ada"])
    lengths = np.linalg.norm(raw, axis=1, keepdims=True)
    assert unit.dtype == np.float32 and unit.shape == (2, 32)
    assert np.abs(lengths - 1).min() > 0.1 and np.allclose(unit, raw / lengths, atol=1e-6)


def test_what_is_no_encoder_is_named(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match=f"encoder: cannot load a sentence encoder from {tmp_path}"):
        Encoder(EncoderSettings(encoder=str(tmp_path)), "cpu")
