"""Short names of what was evaluated: hashes of weights and of questions, kept with a result."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from cib_rl.tasks import Row


def model_fingerprint(reference: str) -> str:
    """What names the weights: a hash over the folder's weight files, or the hub's commit."""
    folder = Path(reference)
    if not folder.is_dir():
        from transformers import AutoConfig

        return f"hub:{getattr(AutoConfig.from_pretrained(reference), '_commit_hash', None) or 'unknown'}"
    digest = hashlib.blake2b(digest_size=8)
    for path in sorted([*folder.glob("*.safetensors"), *folder.glob("pytorch_model*.bin")]):
        digest.update(path.name.encode())
        with path.open("rb") as file:
            while chunk := file.read(1 << 24):
                digest.update(chunk)
    return f"weights:{digest.hexdigest()}"


def rows_fingerprint(rows: Sequence[Row]) -> str:
    """Names the questions, prompts and golds that were asked, in order."""
    digest = hashlib.blake2b(digest_size=8)
    for row in rows:
        digest.update(json.dumps([row[key] for key in ("id", "prompt", "answer")], sort_keys=True).encode() + b"\n")
    return digest.hexdigest()
