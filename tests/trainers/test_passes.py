"""Passes of like length give what one padded pass gives."""

import pytest
import torch

from cib_rl.trainers.passes import like_length


def _window(rows=6, prompt=5, width=9, seed=0):
    """Left-padded prompts, right-padded completions, as TRL lays them out."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(4, 57, (rows, prompt + width), generator=generator)
    mask = torch.zeros_like(ids)
    for i in range(rows):
        p, c = 1 + (3 * i) % prompt, (5 * i) % (width + 1)
        mask[i, prompt - p : prompt + c] = 1
    return ids * mask, mask, width


def _forward(model):
    def forward(ids, mask, labels):
        logits = model(input_ids=ids, attention_mask=mask).logits[:, :-1]
        logps = logits.log_softmax(-1)
        picked = logps.gather(-1, labels[:, 1:].clamp(min=0).unsqueeze(-1)).squeeze(-1)
        return picked, -(logps.exp() * logps).sum(-1)

    return forward


def _naive(model, ids, mask, width):
    """Row by row, without any padding."""
    logps, entropies = torch.zeros(len(ids), width), torch.zeros(len(ids), width)
    for i in range(len(ids)):
        real = ids[i][mask[i].bool()]
        count = int(mask[i, -width:].sum())
        if count:
            all_logps = model(real[None]).logits[0, :-1].log_softmax(-1)
            logps[i, :count] = all_logps.gather(-1, real[1:, None])[-count:, 0]
            entropies[i, :count] = -(all_logps.exp() * all_logps).sum(-1)[-count:]
    return logps, entropies


@pytest.mark.parametrize("budget", [None, 1, 20, 40])
def test_logps_entropies_and_gradients_equal_those_of_unpadded_rows(tiny_model, budget):
    ids, mask, width = _window()
    logps, entropies = like_length(_forward(tiny_model), ids, mask, width, pad_id=0, token_budget=budget)
    expected, expected_entropies = _naive(tiny_model, ids, mask, width)
    torch.testing.assert_close(logps, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(entropies, expected_entropies, atol=1e-5, rtol=1e-5)
    weights = torch.randn(logps.shape, generator=torch.Generator().manual_seed(1))
    (logps * weights).sum().backward()
    got = [p.grad.clone() for p in tiny_model.parameters()]
    tiny_model.zero_grad()
    (expected * weights).sum().backward()
    for a, p in zip(got, tiny_model.parameters(), strict=True):
        torch.testing.assert_close(a, p.grad, atol=2e-4, rtol=1e-3)


def test_every_process_can_be_made_to_run_equally_many_passes(tiny_model):
    ids, mask, width = _window()
    calls = []

    def forward(*tensors):
        calls.append(tensors[0].shape)
        return _forward(tiny_model)(*tensors)

    logps, _ = like_length(forward, ids, mask, width, pad_id=0, token_budget=1000, pass_count=lambda n: n + 3)
    assert len(calls) == 4
    torch.testing.assert_close(logps, _naive(tiny_model, ids, mask, width)[0], atol=1e-5, rtol=1e-5)
