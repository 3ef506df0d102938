"""How a retrieval server is reached: its address, and the token it asks for."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from cib_rl.errors import UserError


def address(url: str) -> str:
    """`url`, with /retrieve where it has no path. Raises UserError for what is no address of a server."""
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 (raises for a port that is no number)
    except ValueError as error:
        raise UserError(f"retriever.url: {url!r}: {error}") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserError(f"retriever.url: {url!r} is no address such as http://127.0.0.1:8000/retrieve")
    if parts.username is not None or parts.password is not None:
        raise UserError("retriever.url: no user or password here, where logs show them; `token_file` holds a token")
    return url if parts.path.strip("/") else parts._replace(path="/retrieve").geturl()


def read_token(path: Path) -> str:
    """The bearer token in a file. Raises UserError when there is none."""
    try:
        token = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"token file {path} cannot be read: {error}") from error
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise UserError(f"token file {path} must hold one line of printable ASCII without spaces")
    return token
