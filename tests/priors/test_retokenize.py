"""Costs of a prior with other tokens, mapped back onto the policy's tokens."""

from functools import cache
from math import log

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from cib_rl.errors import UserError
from cib_rl.plugin import RewardContext
from cib_rl.priors import PriorRequest
from cib_rl.priors.language_model import LanguageModelPrior
from cib_rl.priors.retokenize import Translator, share_out
from cib_rl.spans import decode
from tests.conftest import build_tiny_model, build_tiny_tokenizer
from tests.trained_tokenizers import KINDS, byte_level, unigram, wordpiece

PAIRS = [(a, b) for a in KINDS for b in KINDS if a != b]
TEXTS = st.text(alphabet="ab the answer is.,3=é😀𐍈答案 \n", min_size=1, max_size=30)


@cache
def prior_for(policy, prior, **keys):
    tokenizer = KINDS[prior]()
    context = RewardContext(tokenizer=KINDS[policy](), max_completion_length=400)
    return LanguageModelPrior(model=model_for(prior), tokenizer=tokenizer, context=context, **keys)


@cache
def model_for(kind):
    return build_tiny_model(vocab_size=len(KINDS[kind]()))


def direct(kind, text):
    """What the prior charges for a text, by a plain forward pass."""
    tokenizer = KINDS[kind]()
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else model_for(kind).config.bos_token_id
    ids = torch.tensor([[start, *tokenizer.encode(text, add_special_tokens=False)]])
    with torch.no_grad():
        logp = torch.log_softmax(model_for(kind)(input_ids=ids).logits[0, :-1].double(), -1)
    return -float(logp.gather(-1, ids[0, 1:, None]).sum())


@pytest.mark.parametrize(("policy", "prior"), PAIRS)
@settings(max_examples=15)
@given(text=TEXTS)
def test_the_sum_is_what_the_prior_charges_for_the_text(policy, prior, text):
    tokenizer = KINDS[policy]()
    ids = tokenizer.encode(text, add_special_tokens=False)
    ids = [i for i in ids if i not in tokenizer.all_special_ids]
    made = prior_for(policy, prior)
    assert not made.translator.same_ids
    (found,) = made.surprisal([PriorRequest(tuple(ids), (1,) * len(ids))])
    assert found.shape == (len(ids),) and (found >= 0).all()
    assert found.sum() == pytest.approx(direct(prior, decode(tokenizer, ids)), abs=1e-5, rel=1e-5)


@pytest.mark.parametrize(("policy", "prior"), PAIRS)
@settings(max_examples=15)
@given(data=st.data())
def test_arbitrary_ids_and_masks_keep_the_sum_of_the_priors_costs(policy, prior, data):
    """Broken characters, special tokens anywhere, environment runs: every prior token is borne once or is context."""
    tokenizer = KINDS[policy]()
    ids = data.draw(st.lists(st.integers(0, len(tokenizer) - 1), max_size=25))
    mask = data.draw(st.lists(st.integers(0, 1), min_size=len(ids), max_size=len(ids)))
    translator = prior_for(policy, prior).translator
    (t,) = translator([PriorRequest(tuple(ids), tuple(mask))])
    borne = np.bincount(np.asarray(t.source, dtype=int), weights=t.share, minlength=len(t.ids))
    assert np.all(np.isclose(borne, 1) | (borne == 0))
    if all(mask):
        assert np.allclose(borne, 1)
    nats = np.linspace(0.5, 3, len(t.ids))
    assert t.costs(nats).sum() == pytest.approx((nats * borne).sum() + t.flat.sum(), abs=1e-5)


def test_shares_by_hand():
    owners = np.array([[0, 1], [1, 4], [4, 4], [4, 5], [4, 5]])
    pieces = np.array([[0, 4], [2, 3], [4, 5], [1, 1], [9, 12]])
    assert share_out(pieces, owners) == [
        [(0, 0.25), (1, 0.75)],  # one character of the first, three of the second
        [(1, 1.0)],
        [(3, 0.5), (4, 0.5)],  # a character in two tokens
        [(1, 1.0)],  # empty
        [(4, 1.0)],  # beyond all
    ]


def words(*vocabulary, special=()):
    """A tokenizer that knows these strings only, greedily from the left."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    names = ["<eos>", *special, *vocabulary]
    backend = Tokenizer(models.WordLevel({w: i for i, w in enumerate(names)}, unk_token="<eos>"))
    longest = sorted(vocabulary, key=len, reverse=True)
    backend.pre_tokenizer = pre_tokenizers.Split(Regex("|".join(longest)), behavior="isolated")
    backend.decoder = decoders.Fuse()
    made = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>")
    made.add_special_tokens({"additional_special_tokens": list(special)})
    return made


def test_costs_by_hand_over_several_tokens():
    """The prior reads ab|cd|e; the policy wrote a|bc|d|e, of which the environment wrote the last."""
    policy, prior = words("a", "bc", "d", "e"), words("ab", "cd", "e")
    translator = Translator(policy, prior, len(prior))
    ids = policy.convert_tokens_to_ids(["a", "bc", "d", "e"])
    (t,) = translator([PriorRequest(tuple(ids), (1, 1, 1, 0))])
    assert prior.convert_ids_to_tokens(t.ids) == ["ab", "cd", "e"]
    # ab costs 2 and is shared by a and b of bc; cd costs 6 and is shared by c of bc and d; e is context.
    assert t.costs(np.array([2.0, 6.0, 9.0])).tolist() == [1.0, 4.0, 3.0]
    hidden = Translator(policy, prior, len(prior), environment="hidden")
    assert prior.convert_ids_to_tokens(hidden([PriorRequest(tuple(ids), (1, 1, 1, 0))])[0].ids) == ["ab", "cd"]


@pytest.mark.parametrize("same", [True, False])
@pytest.mark.parametrize(
    ("rule", "read", "costs"),
    [
        ("encode", ["a", "<", "t", ">", "a"], [1.0, 9.0, 5.0]),
        ("uniform", ["a", "a"], [1.0, None, 2.0]),
        ("skip", ["a", "a"], [1.0, 0.0, 2.0]),
    ],
)
def test_rules_for_special_tokens_that_the_prior_does_not_know(same, rule, read, costs):
    letters = ["a", "<", "t", ">"]
    policy = words(*letters)
    prior = words(*letters) if same else words(*reversed(letters))
    policy.add_special_tokens({"additional_special_tokens": ["<t>"]})
    translator = Translator(policy, prior, len(prior), unknown=rule)
    assert translator.same_ids == same
    ids = policy.encode("a<t>a")
    assert len(ids) == 3
    (t,) = translator([PriorRequest(tuple(ids), (1, 1, 1))])
    assert prior.convert_ids_to_tokens(t.ids) == read
    expected = [log(len(policy)) if c is None else c for c in costs]
    assert t.costs(np.arange(1.0, len(read) + 1)).tolist() == pytest.approx(expected)


@pytest.mark.parametrize("same", [True, False])
def test_the_policys_end_is_the_priors_end_and_shared_names_keep_their_meaning(same):
    """As with R1-Distill and Qwen: ordinary ids agree, special ones have other names or other ids."""
    letters = ["a", "b"] if same else ["b", "a"]
    policy, prior = words("a", "b"), words(*letters)
    policy.add_special_tokens({"additional_special_tokens": ["<end>", "<call>"]})
    policy.eos_token = "<end>"
    prior.add_special_tokens({"additional_special_tokens": ["<box>", "<think>", "<call>"]})
    translator = Translator(policy, prior, len(prior))
    assert translator.same_ids == same
    (t,) = translator([PriorRequest(tuple(policy.encode("a<call><end>")), (1, 1, 1))])
    assert prior.convert_ids_to_tokens(t.ids) == ["a", "<call>", "<eos>"]


def test_ids_outside_the_tokenizer_cost_as_much_as_any_token():
    """The policy's head may be padded beyond its vocabulary."""
    policy = build_tiny_tokenizer()
    (t,) = Translator(policy, policy, 64)([PriorRequest((8, 60, 8), (1, 1, 1))])
    assert t.ids == [8, 8] and t.costs(np.ones(2)).tolist() == [1.0, log(len(policy)), 1.0]


def test_the_same_vocabulary_hands_ids_on_without_decoding(monkeypatch):
    policy = byte_level()
    translator = Translator(policy, policy, len(policy))
    monkeypatch.setattr("cib_rl.priors.retokenize.decode", None)
    ids = tuple(policy.encode("the 答"))
    assert translator.same_ids
    assert translator([PriorRequest(ids, (1,) * len(ids))])[0].ids == list(ids)


def test_text_for_a_tokenizer_without_offsets_is_refused():
    class Slow:
        is_fast = False

        def get_vocab(self):
            return {"x": 0}

    with pytest.raises(UserError, match="fast tokenizer"):
        Translator(wordpiece(), Slow(), 1)
    assert unigram().is_fast
