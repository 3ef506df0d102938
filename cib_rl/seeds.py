"""Seeds that depend on what a thing is, never on when it happens."""

from __future__ import annotations

import hashlib


def derive_seed(*parts: int | str) -> int:
    """A 63-bit seed from a path of numbers and names, e.g. (run seed, window, task, member, turn).

    The same parts give the same seed on every machine and in every process; any other parts, another one.
    """
    digest = hashlib.blake2b("\x1f".join(str(part) for part in parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
