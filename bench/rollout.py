"""Rollouts: our transformers engine and vLLM against transformers' `generate`, on completions of unequal length.

    python bench/rollout.py [--rounds 5] [--engines ours,vllm] [--model cib_rl/data/quickstart/policy] [--equal]

256 prompts of about 12 tokens; completion lengths drawn once (a beta law with mean 134, between 8 and 256, unless
`--equal`: all 256) and forced on every side: ours and vLLM by `max_tokens` per request, `generate` by a stopping
criterion with one number per row (it stops rows one by one, as an end-of-sequence token does, and costs one
comparison of 256 numbers per step). No side has an end-of-sequence token. All sample at temperature 1 and return the
same number of tokens; ours and vLLM also return each token's log-probability, `generate` does not have to.

All are warmed up, then take turns in one process; each table row gives median, min and max over the rounds. The ratio
is taken within a round.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import os
import pstats
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, GenerationConfig, Qwen3Config, Qwen3ForCausalLM, StoppingCriteria

from cib_rl.countdown.tokenizer import build_tokenizer
from cib_rl.engines.base import Engine, Sampling
from cib_rl.engines.transformers import TransformersEngine
from cib_rl.recipe import EngineSection


def default_sized_model(vocab_size: int, hidden: int, layers: int, kv_heads: int) -> Qwen3ForCausalLM:
    """The embedded default's shape with random weights."""
    torch.manual_seed(0)
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=vocab_size, hidden_size=hidden, intermediate_size=3 * hidden, num_hidden_layers=layers,
            num_attention_heads=hidden // 32, num_key_value_heads=kv_heads, head_dim=32, max_position_embeddings=512,
            tie_word_embeddings=True, pad_token_id=0, eos_token_id=None, bos_token_id=None, dtype="float32",
        )
    ).eval()  # fmt: skip


class PerRowLength(StoppingCriteria):
    """Row i ends after `lengths[i]` new tokens."""

    def __init__(self, prompt_width: int, lengths: list[int], device: torch.device) -> None:
        self.prompt_width = prompt_width
        self.lengths = torch.tensor(lengths, device=device)

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        return self.lengths <= input_ids.shape[1] - self.prompt_width


def with_generate(model: Any, prompts: list[list[int]], lengths: list[int]) -> Callable[[], int]:
    width = max(map(len, prompts))
    device = model.device
    ids = torch.tensor([[0] * (width - len(p)) + p for p in prompts], device=device)
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=device)
    config = GenerationConfig(
        do_sample=True, temperature=1.0, top_k=0, max_new_tokens=max(lengths), pad_token_id=0, eos_token_id=None
    )

    def run() -> int:
        out = model.generate(
            ids, attention_mask=mask, generation_config=config,
            stopping_criteria=[PerRowLength(width, lengths, device)],
        )  # fmt: skip
        assert out.shape[1] - width == max(lengths)
        return sum(lengths)

    return run


def with_engine(engine: Engine, prompts: list[list[int]], lengths: list[int]) -> Callable[[], int]:
    async def all_of_them() -> int:
        requests = [
            engine.generate(p, Sampling(max_tokens=n, seed=i))
            for i, (p, n) in enumerate(zip(prompts, lengths, strict=True))
        ]
        results = await asyncio.gather(*requests)
        assert [len(r.ids) for r in results] == lengths, next((r.error for r in results if r.error), "lengths")
        return sum(lengths)

    return lambda: asyncio.run(all_of_them())


def vllm_engine(model: Any, rows: int, length: int) -> Engine:
    from cib_rl.engines.vllm import VLLMEngine

    tokenizer = build_tokenizer()
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        engine = VLLMEngine(folder, tokenizer, EngineSection(name="vllm", max_num_seqs=rows, max_model_len=length))
    engine.eos_ids = frozenset()
    return engine


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--engines", default="ours,vllm", help="which to compare with generate")
    parser.add_argument("--model", help="folder; default: random weights of the default's shape")
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--longest", type=int, default=256)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--kv-heads", type=int, default=4)
    parser.add_argument("--equal", action="store_true", help="all completions as long as the longest")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--profile", action="store_true", help="profile one rollout of ours and stop")
    arguments = parser.parse_args()

    tokenizer = build_tokenizer()
    if arguments.model:
        model = AutoModelForCausalLM.from_pretrained(arguments.model)
    else:
        model = default_sized_model(len(tokenizer), arguments.hidden, arguments.layers, arguments.kv_heads)
    model.generation_config.eos_token_id = None
    model = model.to(device=arguments.device, dtype=getattr(torch, arguments.dtype)).eval()
    rng = np.random.default_rng(0)
    n, longest = arguments.rows, arguments.longest
    prompts = [rng.integers(3, model.config.vocab_size, rng.integers(9, 16)).tolist() for _ in range(n)]
    lengths = [longest] * n
    if not arguments.equal:
        lengths = np.clip(np.round(longest * rng.beta(2.2, 2.0, n)), 8, longest).astype(int).tolist()
        lengths[0] = longest
    print(f"{n} completions, mean {np.mean(lengths):.0f} tokens, longest {max(lengths)}, "
          f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f}M parameters, {model.device}, {model.dtype}, "
          f"{torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}")  # fmt: skip

    ours = TransformersEngine(model, tokenizer, max_num_seqs=n, eos_ids=())
    if arguments.profile:
        with_engine(ours, prompts, lengths)()
        profile_step(ours, with_engine(ours, prompts, lengths))
        return
    runs = {"generate": with_generate(model, prompts, lengths)}
    wanted = arguments.engines.split(",")
    if "ours" in wanted:
        runs["ours"] = with_engine(ours, prompts, lengths)
    if "vllm" in wanted:
        runs["vllm"] = with_engine(vllm_engine(model, n, longest + 32), prompts, lengths)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for round_ in range(arguments.rounds + 1):  # the first is the warm-up
        for name, run in runs.items():
            started = time.perf_counter()
            tokens = run()
            if round_:
                seconds[name].append(time.perf_counter() - started)
    print("| side | tokens/s | seconds (min–max) | times generate (min–max) |\n|---|---|---|---|")
    for name, times in seconds.items():
        ratios = [g / t for g, t in zip(seconds["generate"], times, strict=True)]
        print(f"| {name} | {tokens / statistics.median(times):,.0f} | {statistics.median(times):.2f} "
              f"({min(times):.2f}–{max(times):.2f}) | {statistics.median(ratios):.2f} "
              f"({min(ratios):.2f}–{max(ratios):.2f}) |")  # fmt: skip


def profile_step(engine: TransformersEngine, run: Callable[[], int]) -> None:
    """Where a rollout's time goes, function by function, in the engine's own thread."""
    profiler = cProfile.Profile()
    step = engine._step

    def profiled() -> Any:
        profiler.enable()
        try:
            return step()
        finally:
            profiler.disable()

    engine._step = profiled  # type: ignore[method-assign]
    run()
    pstats.Stats(profiler).sort_stats("tottime").print_stats(25)


if __name__ == "__main__":
    main()
