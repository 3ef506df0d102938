"""A shipped recipe at its real size on one GPU: seconds of each part of a step, tokens per second, peak memory.

Nothing is downloaded: the model has Qwen2.5's shape and random weights, the tokenizer its vocabulary's size, the
problems are made here in GSM8K's format. So nothing is learnt, and completions run to the limit (random weights hardly
ever end one): time and memory are those of the longest answers the recipe allows.

    python -m bench.gpu --recipe math/cib_grpo_gsm8k --size 0.5B --steps 3
    python -m bench.gpu --recipe math/ppo_gsm8k --size 1.5B --set engine.name=transformers --json ppo.json
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM, TrainerCallback

from cib_rl.recipe_io import load_recipe
from cib_rl.trainers import run

# hidden size, MLP, layers, heads, key-value heads, vocabulary: of Qwen2.5's configurations; `tiny` tries this script.
SIZES = {
    "tiny": (64, 128, 2, 2, 1, 1024),
    "0.5B": (896, 4864, 24, 14, 2, 151_936),
    "1.5B": (1536, 8960, 28, 12, 2, 151_936),
    "3B": (2048, 11_008, 36, 16, 2, 151_936),
}
KEPT = ("seconds", "tokens", "step_time", "gap", "step", "stop")  # first parts of the metrics' names
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CHAT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def problems(count: int) -> list[dict[str, str]]:
    """Rows in GSM8K's format."""
    rng = random.Random(0)
    rows = []
    for _ in range(count):
        days, each, sold = rng.randint(3, 30), rng.randint(2, 40), rng.randint(1, 5)
        question = (
            f"A baker makes {each} loaves of bread every day for {days} days. Each day {sold} friends take one loaf "
            "home and the rest is sold at the market. How many loaves are sold at the market in all?"
        )
        answer = f"Each day {each}-{sold}={each - sold} loaves are sold.\n#### {days * (each - sold)}"
        rows.append({"question": question, "answer": answer})
    return rows


def build_tokenizer(texts: list[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE of `texts`, filled up to `vocabulary` tokens with words that no text is cut into."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=768,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    state = json.loads(backend.to_str())
    known = state["model"]["vocab"]
    for index in range(len(known), vocabulary):
        known[f"Ġfiller{index}"] = index
    filled = Tokenizer.from_str(json.dumps(state))
    filled.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=filled, eos_token=SPECIAL[2], pad_token=SPECIAL[0], chat_template=CHAT, padding_side="left"
    )


def build_model(size: str, folder: Path, texts: list[str]) -> Path:
    """A folder with random weights in bfloat16, as Qwen2.5 is published."""
    hidden, mlp, layers, heads, kv_heads, vocabulary = SIZES[size]
    config = Qwen2Config(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=mlp,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=32_768,
        rms_norm_eps=1e-6,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=2,
        pad_token_id=0,
        dtype="bfloat16",
    )
    config.rope_parameters = {"rope_type": "default", "rope_theta": 1e6}
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = Qwen2ForCausalLM(config)
    model.to(torch.bfloat16).save_pretrained(folder)
    build_tokenizer(texts, vocabulary).save_pretrained(folder)
    return folder


class _NotKept(TrainerCallback):
    """No checkpoint at the end: nothing was learnt. Notes the most memory at each step."""

    def __init__(self) -> None:
        self.peaks: list[dict[str, float]] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        control.should_save = False
        if torch.cuda.is_available():
            self.peaks.append({
                "allocated_gib": torch.cuda.max_memory_allocated() / 2**30,
                "reserved_gib": torch.cuda.max_memory_reserved() / 2**30,
            })  # fmt: skip
            torch.cuda.reset_peak_memory_stats()


@contextmanager
def device_memory() -> Iterator[dict[str, float]]:
    """The most memory in use on the device meanwhile, by any process, read ten times a second. In GiB."""
    most = {"peak_gib": 0.0}
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(0.1):
            free, total = torch.cuda.mem_get_info()
            most["peak_gib"] = max(most["peak_gib"], (total - free) / 2**30)

    thread = threading.Thread(target=watch, daemon=True)
    if torch.cuda.is_available():
        thread.start()
    try:
        yield most
    finally:
        stop.set()
        if thread.ident is not None:
            thread.join()


def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Train by the recipe for a few steps. Seconds, tokens and memory, step by step."""
    rows = problems(1000)
    tasks = folder / "problems.jsonl"
    tasks.write_text("".join(json.dumps(row) + "\n" for row in rows))
    texts = [row["question"] + row["answer"] for row in rows[:200]]
    model = build_model(arguments.size, folder / "model", texts)
    columns = "columns: {prompt: question, answer: answer}, answer_after: '####'"
    recipe = load_recipe(
        arguments.recipe,
        [
            f"model={model}",
            f"task={{name: jsonl, path: {tasks}, {columns}}}",
            f"output={folder}",
            "run_name=run",
            "evaluation=null",
            f"trainer.steps={arguments.steps}",
            "engine.check_every=1",
            *arguments.set,
        ],
    )
    for reward in recipe.rewards:
        prior = (reward.model_extra or {}).get("prior")
        if isinstance(prior, dict) and "model" in prior:
            prior["model"] = str(model)
    if recipe.trainer.name == "grpo":  # random weights are never right: every group would be replaced
        recipe.trainer.filter.zero_variance = "off"
    kept = _NotKept()
    started = time.perf_counter()
    with device_memory() as memory, run.prepare(recipe, callbacks=[kept]) as trainer:
        ready = time.perf_counter() - started
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        trainer.train()
        lines = trainer.run_folder.read_metrics()
    section = recipe.trainer
    return {
        "recipe": arguments.recipe,
        "size": arguments.size,
        "engine": recipe.engine.name,
        "parameters": sum(p.numel() for p in trainer.model.parameters()),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "completions_per_window": section.prompts_per_step * section.steps_per_window * recipe.sampling.group_size,
        "ready_seconds": ready,
        "total_seconds": time.perf_counter() - started,
        **memory,
        "by_step": kept.peaks,
        "lines": [
            {
                k: v
                for k, v in line.items()
                if k.split("/")[0] in ("seconds", "tokens", "step_time", "gap", "step", "stop")
            }
            for line in lines
        ],
    }


def show(result: dict[str, Any]) -> None:
    """One table row per part; medians without the first step (which compiles and allocates)."""
    lines = result["lines"][1:] or result["lines"]
    print(f"{result['recipe']}, Qwen2.5-{result['size']}'s shape ({result['parameters'] / 1e9:.2f}B), "
          f"{result['engine']}, {result['device']}: ready in {result['ready_seconds']:.0f} s")  # fmt: skip
    for key in sorted({key for line in lines for key in line}):
        values = [line[key] for line in lines if key in line]
        if key.startswith("seconds/") or key in ("step_time", "gap/max", "gap/q99", "tokens/mean"):
            print(f"  {key:32s} {statistics.median(values):10.4g}   ({min(values):.4g} to {max(values):.4g})")
    drawn = [line for line in lines if line.get("seconds/rollout", 0) > 0 and "tokens/mean" in line]
    if drawn:
        rate = statistics.median(
            line["tokens/mean"] * result["completions_per_window"] / line["seconds/rollout"] for line in drawn
        )
        print(f"  rollout tokens/s {rate:,.0f}")
    print(f"  peak memory on the device {result['peak_gib']:.1f} GiB; by torch, step by step: {result['by_step']}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="math/cib_grpo_gsm8k")
    parser.add_argument("--size", default="0.5B", choices=sorted(SIZES))
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as of `cib-rl train`")
    parser.add_argument("--json", type=Path, help="write every number there")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = measure(arguments, Path(folder))
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1))
    show(result)


if __name__ == "__main__":
    main()
