"""The demonstrations that the package makes itself, without end, and the tokenizers that are made for them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from transformers import PreTrainedTokenizerBase

from cib_rl.countdown.problems import problem_stream
from cib_rl.countdown.solver import demonstrate
from cib_rl.trainers.sft_data import Row

if TYPE_CHECKING:
    from cib_rl.trainers.sft_settings import SFTModel

TOKENIZER_ROWS = 6000  # demonstrations that a byte-level BPE is made of


@dataclass(frozen=True)
class Generator:
    """`rows`: an endless stream of demonstrations of training problems, never of held-out ones; `tokenizer`: for it."""

    rows: Callable[[SFTModel], Iterator[Row]]
    tokenizer: Callable[[SFTModel], PreTrainedTokenizerBase]


def _countdown_rows(settings: SFTModel) -> Iterator[Row]:
    rng = random.Random(f"demonstrations-{settings.seed}")
    for problem in problem_stream(settings.countdown, "train", settings.seed):
        yield Row(problem.prompt, demonstrate(problem, rng).completion)


def _countdown_tokenizer(settings: SFTModel) -> PreTrainedTokenizerBase:
    from cib_rl.countdown.tokenizer import build_tokenizer

    return build_tokenizer()


def _fiction_rows(settings: SFTModel) -> Iterator[Row]:
    from cib_rl.environments.search import read_keys
    from cib_rl.environments.search_protocol import make_protocol
    from cib_rl.fiction.rows import demonstrations

    keys = read_keys({"retriever": {}, **settings.section().kwargs})
    protocol = make_protocol(keys.preset, keys.protocol)
    for question, completion in demonstrations(protocol, keys, settings.fiction, settings.seed):
        yield Row(question, completion)


def _fiction_tokenizer(settings: SFTModel) -> PreTrainedTokenizerBase:
    from cib_rl.environments.search import read_keys
    from cib_rl.environments.search_protocol import make_protocol
    from cib_rl.fiction.tokenizer import build_tokenizer

    keys = read_keys({"retriever": {}, **settings.section().kwargs})
    rows = islice(_fiction_rows(settings), TOKENIZER_ROWS)
    return build_tokenizer(rows, make_protocol(keys.preset, keys.protocol), settings.vocab_size)


GENERATORS = {
    "countdown": Generator(_countdown_rows, _countdown_tokenizer),
    "fiction": Generator(_fiction_rows, _fiction_tokenizer),
}
