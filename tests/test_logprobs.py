"""Chunked log-probabilities against the plain softmax of each model's own logits."""

import numpy as np
import pytest
import torch
from torch import nn
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from cib_rl.logprobs import Head, check_split, chunked_logprobs, score_sequences, split_model

V = 97
COMMON = {
    "vocab_size": V,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
}


def build(family: str) -> nn.Module:
    torch.manual_seed(3)
    model = {
        "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**COMMON, tie_word_embeddings=True)),
        "llama": lambda: LlamaForCausalLM(LlamaConfig(**COMMON, tie_word_embeddings=False)),
        "gpt2": lambda: GPT2LMHeadModel(GPT2Config(vocab_size=V, n_embd=32, n_layer=2, n_head=4, n_positions=128)),
        "gemma2": lambda: Gemma2ForCausalLM(Gemma2Config(**COMMON, final_logit_softcapping=2.0, sliding_window=8)),
        "cohere": lambda: CohereForCausalLM(CohereConfig(**COMMON, logit_scale=0.25)),
        "granite": lambda: GraniteForCausalLM(GraniteConfig(**COMMON, logits_scaling=3.0)),
    }[family]()
    with torch.no_grad():  # far from uniform, so that scale and cap matter
        for parameter in model.parameters():
            parameter.mul_(4.0)
    return model.eval()


FAMILIES = ["qwen3", "llama", "gpt2", "gemma2", "cohere", "granite"]


@pytest.fixture(scope="module", params=FAMILIES)
def model(request):
    return build(request.param)


def ragged(seed: int = 0) -> list[list[int]]:
    generator = np.random.default_rng(seed)
    return [generator.integers(0, V, n).tolist() for n in (7, 1, 33, 2, 16, 0, 33, 5)]


def naive_scores(model, sequence, temperature):
    """One sequence at a time, all logits, no padding."""
    if len(sequence) < 2:
        return np.zeros(0)
    logits = model(input_ids=torch.tensor([sequence])).logits[0, :-1].double()
    logp = torch.log_softmax(logits / temperature, -1)
    return logp.gather(-1, torch.tensor(sequence[1:])[:, None]).squeeze(-1).detach().numpy()


@pytest.mark.parametrize("temperature", [1.0, 0.8])
@pytest.mark.parametrize("budget", [1, 70, 10_000])
def test_scores_equal_the_plain_softmax_of_the_models_logits(model, temperature, budget):
    sequences = ragged()
    scores = score_sequences(model, sequences, temperature=temperature, token_budget=budget)
    for sequence, found in zip(sequences, scores, strict=True):
        np.testing.assert_allclose(found, naive_scores(model, sequence, temperature), atol=1e-5)


def test_only_the_positions_asked_for_are_returned(model):
    sequences = ragged()
    start = [3, 1, 30, 2, 1, 1, 40, 4]
    scores = score_sequences(model, sequences, start=start)
    for sequence, first, found in zip(sequences, start, scores, strict=True):
        np.testing.assert_allclose(found, naive_scores(model, sequence, 1.0)[first - 1 :], atol=1e-5)


def test_the_first_token_has_no_context_and_cannot_be_asked_for(model):
    with pytest.raises(ValueError, match="at least 1"):
        score_sequences(model, [[1, 2, 3]], start=[0])


def test_the_pad_id_does_not_matter(model):
    a, b = (score_sequences(model, ragged(), pad_id=pad) for pad in (0, V - 1))
    for x, y in zip(a, b, strict=True):
        np.testing.assert_array_equal(x, y)


def test_gradients_equal_the_plain_softmax(model):
    ids = torch.tensor([ragged()[2]])
    labels = ids[:, 1:]
    weights = torch.linspace(-1, 1, labels.numel())

    def gradients(logp, entropy):
        model.zero_grad()
        ((logp + 0.3 * entropy).reshape(-1) * weights).sum().backward()
        return [p.grad.clone() for p in model.parameters() if p.grad is not None]

    logits = torch.log_softmax(model(input_ids=ids).logits[:, :-1] / 0.7, -1)
    expected = gradients(logits.gather(-1, labels[..., None]).squeeze(-1), -(logits.exp() * logits).sum(-1))
    body, head = split_model(model)
    found = gradients(*chunked_logprobs(body(input_ids=ids).last_hidden_state[:, :-1], head, labels, 0.7, entropy=True))
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("tile", [(1, 1), (3, 10), (256, 4096)])
@pytest.mark.parametrize("entropy", [False, True])
@pytest.mark.parametrize("softcap", [None, 1.5])
def test_tiles_do_not_change_the_result(tile, entropy, softcap):
    torch.manual_seed(0)
    hidden, weight, bias = torch.randn(2, 7, 16), torch.randn(V, 16), torch.randn(V)
    labels = torch.randint(V, (2, 7))
    head = Head(weight, bias, 0.5, softcap)
    found, ent = chunked_logprobs(hidden, head, labels, 0.9, entropy=entropy, tile=tile)
    logits = 0.5 * (hidden @ weight.T + bias)
    logits = logits if softcap is None else softcap * torch.tanh(logits / softcap)
    logp = torch.log_softmax(logits / 0.9, -1)
    torch.testing.assert_close(found, logp.gather(-1, labels[..., None]).squeeze(-1), atol=1e-5, rtol=0)
    if entropy:
        torch.testing.assert_close(ent, -(logp.exp() * logp).sum(-1), atol=1e-5, rtol=0)
    else:
        assert ent is None


def test_logits_far_beyond_exp_stay_finite():
    hidden, labels = torch.eye(4)[None] * 500, torch.tensor([[0, 1, 2, 0]])
    found, _ = chunked_logprobs(hidden, torch.eye(4), labels, tile=(2, 2))
    torch.testing.assert_close(found, torch.tensor([[0.0, 0.0, 0.0, -500.0]]))


def test_no_tensor_of_all_logits_is_ever_made():
    """The largest tensor made anywhere in the pass is one tile (or the head's weight), not (N, V)."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Largest(TorchDispatchMode):
        size = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            for tensor in out if isinstance(out, tuple | list) else (out,):
                if isinstance(tensor, torch.Tensor):
                    self.size = max(self.size, tensor.numel())
            return out

    hidden, weight = torch.randn(600, 4), torch.randn(5000, 4)
    with Largest() as largest:
        chunked_logprobs(hidden, weight, torch.zeros(600, dtype=torch.long), tile=(64, 512))
    assert largest.size <= max(64 * 512, weight.numel())


def test_mode_of_each_module_is_left_as_found():
    model = build("gpt2").train()
    model.transformer.h[0].eval()
    before = [m.training for m in model.modules()]
    scores = score_sequences(model, [[1, 2, 3]])
    assert [m.training for m in model.modules()] == before
    np.testing.assert_allclose(scores[0], naive_scores(model.eval(), [1, 2, 3], 1.0), atol=1e-5)  # no dropout


def test_lora_adapters_are_part_of_the_score():
    from peft import LoraConfig, get_peft_model

    plain = build("qwen3")
    before = score_sequences(plain, [[1, 2, 3, 4]])[0]
    wrapped = get_peft_model(plain, LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False))
    found = score_sequences(wrapped, [[1, 2, 3, 4]])[0]
    assert np.abs(found - before).max() > 1e-4
    np.testing.assert_allclose(found, naive_scores(wrapped, [1, 2, 3, 4], 1.0), atol=1e-5)


def test_a_model_without_a_head_is_a_clear_error():
    from transformers import Qwen3Model

    with pytest.raises(ValueError, match="Qwen3Model is no causal language model"):
        split_model(Qwen3Model(Qwen3Config(**COMMON)))


def test_an_unknown_change_of_the_logits_is_found(model):
    check_split(model)

    class Odd(Qwen3ForCausalLM):
        def forward(self, *args, **kwargs):
            out = super().forward(*args, **kwargs)
            out.logits = out.logits * 1.5
            return out

    torch.manual_seed(0)
    odd = Odd(Qwen3Config(**COMMON, initializer_range=0.5))
    with pytest.raises(ValueError, match="does not know"):
        check_split(odd)


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="temperature"):
        chunked_logprobs(torch.zeros(1, 2), torch.zeros(3, 2), torch.zeros(1, dtype=torch.long), 0.0)
    with pytest.raises(ValueError, match="do not fit"):
        chunked_logprobs(torch.zeros(1, 2), torch.zeros(3, 2), torch.zeros(2, dtype=torch.long))
