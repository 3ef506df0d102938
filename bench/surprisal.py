"""Surprisal scorer against plain transformers, vocabulary 151,936: speed, peak memory, and cost next to a forward pass.

    python bench/surprisal.py [--rounds 3] [--hidden 64] [--device cuda] [--dtype bfloat16]

64 completions, lengths log-uniform in 16..1,024, one frozen random Qwen3. Three passes over the same tokens alternate
within one run; each table row gives min / median / max over the rounds of the ratio within a round.

* scorer: `cib_rl.logprobs.score_sequences`, as the reward uses it.
* naive: right-padded in order of arrival, attention mask, all logits, log_softmax, gather. All 64 rows at once would
  need 40 GB for the logits alone, so it takes `--naive-rows` at a time (4).
* forward: the same model's own forward pass, all logits, on the scorer's micro-batches, and nothing done with them: one
  forward pass of a policy of the prior's size.

Peak memory is the process's resident set (GPU: the allocator's peak) above what it held before the pass.
"""

from __future__ import annotations

import argparse
import gc
import threading
import time
from collections.abc import Callable, Sequence

import numpy as np
import psutil
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from cib_rl.logprobs import score_sequences
from cib_rl.packing import pack_by_tokens, padding_share

VOCABULARY = 151_936


def build(hidden: int, layers: int, device: str, dtype: str) -> Qwen3ForCausalLM:
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        intermediate_size=3 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=max(1, hidden // 64),
        num_key_value_heads=max(1, hidden // 128),
        head_dim=64,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
    )
    return Qwen3ForCausalLM(config).to(device, getattr(torch, dtype)).eval().requires_grad_(False)


@torch.no_grad()
def naive(model: Qwen3ForCausalLM, sequences: Sequence[list[int]], rows: int) -> list[np.ndarray]:
    results = []
    for at in range(0, len(sequences), rows):
        some = sequences[at : at + rows]
        ids, mask = padded(some, model.device)
        logp = torch.log_softmax(model(input_ids=ids, attention_mask=mask).logits[:, :-1].float(), -1)
        logp = logp.gather(-1, ids[:, 1:, None]).squeeze(-1).cpu().numpy()
        results += [logp[k, : len(s) - 1] for k, s in enumerate(some)]
    return results


@torch.no_grad()
def forward(model: Qwen3ForCausalLM, sequences: Sequence[list[int]], budget: int) -> None:
    for batch in pack_by_tokens([len(s) for s in sequences], budget):
        ids, mask = padded([sequences[i] for i in batch], model.device)
        model(input_ids=ids, attention_mask=mask)
    synchronize(model)


def padded(sequences: Sequence[list[int]], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.zeros(len(sequences), max(map(len, sequences)), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)] = torch.tensor(sequence)
        mask[row, : len(sequence)] = 1
    return ids.to(device), mask.to(device)


def synchronize(model: Qwen3ForCausalLM) -> None:
    if model.device.type == "cuda":
        torch.cuda.synchronize()


def timed(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def peak_megabytes(run: Callable[[], object], device: str) -> float:
    """Peak memory of a run above what was held before it."""
    gc.collect()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return (torch.cuda.max_memory_allocated() - before) / 1e6
    process, done, peak = psutil.Process(), threading.Event(), 0
    before = process.memory_info().rss

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.001):
            peak = max(peak, process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    run()
    done.set()
    watcher.join()
    return max(0, peak - before) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--budget", type=int, default=4096, help="padded tokens per pass of scorer and forward")
    parser.add_argument("--naive-rows", type=int, default=4)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    options = parser.parse_args()

    model = build(options.hidden, options.layers, options.device, options.dtype)
    generator = np.random.default_rng(0)
    lengths = np.exp(generator.uniform(np.log(16), np.log(1024), options.batch)).astype(int)
    sequences = [generator.integers(0, VOCABULARY, n).tolist() for n in lengths]
    passes = {
        "scorer": lambda some=sequences: score_sequences(model, some, token_budget=options.budget),
        "naive": lambda some=sequences: naive(model, some, options.naive_rows),
        "forward": lambda some=sequences: forward(model, some, options.budget),
    }
    for run in passes.values():  # warm up
        run([s[:64] for s in sequences[:4]])
    longest = sorted(sequences, key=len)[-options.naive_rows :]
    memory = {
        name: peak_megabytes(lambda run=passes[name]: run(longest), options.device) for name in ("scorer", "naive")
    }
    error = max(
        float(np.abs(a - b).max()) for a, b in zip(passes["scorer"](longest), passes["naive"](longest), strict=True)
    )
    seconds: dict[str, list[float]] = {name: [] for name in passes}
    for _ in range(options.rounds):
        for name, run in passes.items():
            seconds[name].append(timed(run))

    tokens = int(lengths.sum())
    batches = pack_by_tokens(lengths.tolist(), options.budget)
    print(
        f"{options.batch} completions, {tokens:,} tokens; hidden {options.hidden}, {options.layers} layers, "
        f"{options.device} {options.dtype}, {torch.get_num_threads()} thread(s); {options.rounds} rounds\n"
        f"padding: scorer {padding_share(lengths.tolist(), batches):.0%} in {len(batches)} passes; largest difference "
        f"between scorer and naive {error:.1e} nats\n"
    )
    print("| what | goal | min | median | max |\n|---|---|---|---|---|")
    row("scorer, tokens/s", "", [tokens / s for s in seconds["scorer"]], ",.0f")
    row("naive, tokens/s", "", [tokens / s for s in seconds["naive"]], ",.0f")
    row("scorer ÷ naive, tokens/s", "≥ 3", ratios(seconds["naive"], seconds["scorer"]))
    row("scorer ÷ one forward pass, seconds", "≤ 1.1", ratios(seconds["scorer"], seconds["forward"]))
    row(
        f"naive ÷ scorer, peak memory ({memory['naive']:,.0f} and {memory['scorer']:,.0f} MB, {len(longest)} longest)",
        "≥ 8",
        [memory["naive"] / max(memory["scorer"], 1.0)],
        ".1f",
    )


def ratios(above: list[float], below: list[float]) -> list[float]:
    return [a / b for a, b in zip(above, below, strict=True)]


def row(what: str, goal: str, values: list[float], form: str = ".2f") -> None:
    low, middle, high = (format(f(values), form) for f in (min, np.median, max))
    print(f"| {what} | {goal} | {low} | {middle} | {high} |")


if __name__ == "__main__":
    main()
