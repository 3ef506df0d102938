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
from cib_rl.trainers.sft_data import Row, train_bpe
from cib_rl.trainers.sft_rows import Conversation, SFTRow

if TYPE_CHECKING:
    from cib_rl.trainers.sft_settings import SFTModel

TOKENIZER_ROWS = 6000  # demonstrations that a byte-level BPE is made of


@dataclass(frozen=True)
class Generator:
    """`rows`: an endless stream of demonstrations of training problems, never of held-out ones; `tokenizer`: for it."""

    rows: Callable[[SFTModel], Iterator[SFTRow]]
    tokenizer: Callable[[SFTModel], PreTrainedTokenizerBase]


def _countdown_rows(settings: SFTModel) -> Iterator[Row]:
    rng = random.Random(f"demonstrations-{settings.seed}")
    for problem in problem_stream(settings.countdown, "train", settings.seed):
        yield Row(problem.prompt, demonstrate(problem, rng).completion)


def _countdown_tokenizer(settings: SFTModel) -> PreTrainedTokenizerBase:
    from cib_rl.countdown.tokenizer import build_tokenizer

    return build_tokenizer()


def _fiction_rows(settings: SFTModel) -> Iterator[SFTRow]:
    from cib_rl.environments.search_keys import read_keys
    from cib_rl.environments.search_protocol import changed, make_protocol
    from cib_rl.environments.tool_calls import ToolProtocol
    from cib_rl.fiction.rows import demonstrations, in_calls, in_tags

    keys = read_keys({"retriever": {}, **settings.section().kwargs})
    for shown in demonstrations(keys.k, settings.fiction, settings.seed):
        if keys.preset == "tool_calls":
            calls = changed(ToolProtocol(), keys.protocol)
            yield Conversation(in_calls(shown, calls), [calls.tool], "a demonstration")
        else:
            yield Row(shown.question, in_tags(shown, make_protocol(keys.preset, keys.protocol)))


def _fiction_tokenizer(settings: SFTModel) -> PreTrainedTokenizerBase:
    from cib_rl.environments.search_keys import read_keys
    from cib_rl.environments.search_protocol import make_protocol
    from cib_rl.fiction.tokenizer import build_tokenizer

    keys = read_keys({"retriever": {}, **settings.section().kwargs})
    rows = list(islice(_fiction_rows(settings), TOKENIZER_ROWS))
    if keys.preset == "tool_calls":
        return train_bpe(rows, settings.vocab_size, settings.chat_template)
    protocol = make_protocol(keys.preset, keys.protocol)
    return build_tokenizer((row for row in rows if isinstance(row, Row)), protocol, settings.vocab_size)


GENERATORS = {
    "countdown": Generator(_countdown_rows, _countdown_tokenizer),
    "fiction": Generator(_fiction_rows, _fiction_tokenizer),
}
