"""The sampler against plain definitions: which token a uniform number picks, and what support truncation leaves."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cib_rl.engines import sampling as module
from cib_rl.engines.base import Sampling
from cib_rl.engines.sampling import BatchSampler, RowSampling, uniforms

CPU = torch.device("cpu")


def draw(logits_BV: torch.Tensor, uniforms_B: list[float], samplings: list[Sampling], **kwargs: object) -> module.Drawn:
    rows = [RowSampling(s, seen=set(kwargs.get("seen", ())), generated=0) for s in samplings]  # type: ignore[call-overload]
    sampler = BatchSampler(rows, kwargs.get("eos", [0]), CPU)  # type: ignore[arg-type]
    return sampler.draw(logits_BV.clone(), torch.tensor(uniforms_B, dtype=torch.float64))


@given(st.integers(0, 2**32), st.sampled_from([0.3, 1.0, 2.5]))
def test_evenly_spread_uniforms_give_each_token_its_share(seed: int, temperature: float) -> None:
    logits = torch.randn(7, generator=torch.Generator().manual_seed(seed)) * 2
    n = 400
    drawn = draw(logits.expand(n, 7), [(i + 0.5) / n for i in range(n)], [Sampling(1, temperature=temperature)] * n)
    expected = n * np.exp(logits.double().numpy() / temperature)
    expected /= expected.sum() / n
    counts = np.bincount(drawn.tokens_B.numpy(), minlength=7)
    assert np.abs(counts - expected).max() <= 1.01
    reference = (logits.double() / temperature).log_softmax(-1)[drawn.tokens_B]
    torch.testing.assert_close(drawn.logprobs_B.double(), reference, atol=1e-5, rtol=0)


def naive_distribution(x: np.ndarray, s: Sampling) -> np.ndarray:
    """Temperature, then min_p, top_k and top_p one token at a time."""
    p = np.exp(x / s.temperature - (x / s.temperature).max())
    p /= p.sum()
    keep = {i for i in range(len(p)) if p[i] >= s.min_p * p.max()}
    if s.top_k:
        keep = set(sorted(keep, key=lambda i: -p[i])[: s.top_k])
    if s.top_p < 1:
        mass, total, kept = 0.0, sum(p[i] for i in keep), set()
        for i in sorted(keep, key=lambda i: -p[i]):
            if kept and mass / total >= s.top_p:
                break
            kept.add(i)
            mass += p[i]
        keep = kept
    q = np.array([p[i] if i in keep else 0.0 for i in range(len(p))])
    return q / q.sum()


@given(
    st.integers(0, 2**32),
    st.floats(0.05, 1.0),
    st.integers(0, 9),
    st.floats(0.0, 0.9),
    st.sampled_from([0.5, 1.0, 1.7]),
)
def test_truncated_support_and_its_renormalised_logprobs(
    seed: int, top_p: float, top_k: int, min_p: float, temperature: float
) -> None:
    # Probabilities that are no sums of one another, so that no threshold is met by rounding alone.
    x = np.random.default_rng(seed).normal(size=9) * 2
    s = Sampling(1, temperature=temperature, top_p=top_p, top_k=top_k, min_p=min_p)
    q = naive_distribution(x.astype(np.float32).astype(np.float64), s)
    n = 64
    drawn = draw(torch.tensor(x, dtype=torch.float32).expand(n, 9), [(i + 0.5) / n for i in range(n)], [s] * n)
    for token, logprob in zip(drawn.tokens_B.tolist(), drawn.logprobs_B.tolist(), strict=True):
        assert q[token] > 0
        assert abs(logprob - np.log(q[token])) < 1e-4


def test_repetition_penalty_divides_positive_and_multiplies_negative_logits() -> None:
    x = torch.tensor([[1.0, -2.0, 3.0]])
    s = Sampling(1, repetition_penalty=2.0)
    drawn = draw(x, [0.5], [s], seen={0, 1})
    reference = torch.tensor([0.5, -4.0, 3.0]).log_softmax(-1)
    assert abs(float(drawn.logprobs_B[0]) - float(reference[int(drawn.tokens_B[0])])) < 1e-6


def test_rows_of_one_batch_have_parameters_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 11, generator=generator)
    u = [0.1, 0.9, 0.4, 0.6, 0.2, 0.999]
    samplings = [
        Sampling(1), Sampling(1, temperature=0.0), Sampling(1, top_k=2), Sampling(1, temperature=0.5),
        Sampling(1, min_tokens=1), Sampling(1, repetition_penalty=1.3),
    ]  # fmt: skip
    together = draw(logits, u, samplings)
    monkeypatch.setattr(module, "_CHUNK_ELEMENTS", 22)  # two rows at a time
    chunked = draw(logits, u, samplings)
    alone = [draw(logits[i : i + 1], u[i : i + 1], samplings[i : i + 1]) for i in range(6)]
    assert together.tokens_B.tolist() == chunked.tokens_B.tolist() == [int(a.tokens_B) for a in alone]
    torch.testing.assert_close(together.logprobs_B, torch.cat([a.logprobs_B for a in alone]))
    torch.testing.assert_close(together.logprobs_B, chunked.logprobs_B)
    assert int(together.tokens_B[1]) == int(logits[1].argmax())


def test_the_largest_uniform_never_picks_a_token_of_no_probability() -> None:
    x = torch.full((1, 50_000), -torch.inf)
    x[0, :30_000] = torch.randn(30_000, generator=torch.Generator().manual_seed(0))
    drawn = draw(x, [module._HIGHEST_UNIFORM], [Sampling(1)])
    assert int(drawn.tokens_B) < 30_000
    assert int(draw(x, [0.0], [Sampling(1)]).tokens_B) == 0


def test_uniforms_follow_from_the_seed_and_nothing_else() -> None:
    first = list(islice(uniforms(7), 300))
    np.random.seed(0)
    torch.manual_seed(0)
    assert list(islice(uniforms(7), 300)) == first
    assert list(islice(uniforms(8), 300)) != first
    assert 0.4 < np.mean(first) < 0.6
    assert list(islice(uniforms(None), 3)) != list(islice(uniforms(None), 3))
