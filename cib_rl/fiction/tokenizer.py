"""The tiny search agent's tokenizer: a byte-level BPE of its demonstrations, with the protocol's tags as tokens."""

from __future__ import annotations

import re
from collections.abc import Iterable

from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast

from cib_rl.environments.search_protocol import Protocol
from cib_rl.trainers.sft_data import Row, train_bpe


def build_tokenizer(rows: Iterable[Row], protocol: Protocol, vocab_size: int) -> PreTrainedTokenizerFast:
    """Any text round-trips; a name of the world is one token or two. Tags are ordinary tokens, so that decoding with
    `skip_special_tokens=True` keeps them."""
    tags = [f"<{slash}{name}>" for name in protocol.tags for slash in ("", "/")]
    pattern = re.compile("|".join(map(re.escape, tags)))
    plain = [Row(pattern.sub(" ", row.prompt), pattern.sub(" ", row.completion)) for row in rows]
    tokenizer = train_bpe(plain, vocab_size)
    tokenizer.add_tokens([AddedToken(tag, normalized=False) for tag in tags])
    return tokenizer
