"""Turns requests away before their body is read: without the token, too long, or too slow."""

from __future__ import annotations

import asyncio
import hmac
from typing import Any

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse


class Guard:
    """ASGI middleware. `token` None: everyone may come in. /health needs no token.

    A body longer than `max_bytes` gets 413, whether its length was announced or not; one that is not there within
    `timeout` seconds 408.
    """

    def __init__(self, app: Any, token: str | None, max_bytes: int, timeout: float) -> None:
        self._app = app
        self._authorization = None if token is None else f"Bearer {token}".encode()
        self._max_bytes, self._timeout = max_bytes, timeout

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        headers = dict(scope["headers"])
        if self._authorization is not None and scope["path"] != "/health":
            given = headers.get(b"authorization", b"")
            if not hmac.compare_digest(given, self._authorization):
                return await _refuse(401, "the bearer token is missing or wrong")(scope, receive, send)
        too_long = f"the body is longer than {self._max_bytes:,} bytes"
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > self._max_bytes:
            return await _refuse(413, too_long)(scope, receive, send)
        received, until = 0, asyncio.get_running_loop().time() + self._timeout
        whole = False

        async def counted() -> Any:
            nonlocal received, whole
            try:
                async with asyncio.timeout_at(None if whole else until):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(408, f"the body did not come within {self._timeout:g} s (timeout)") from None
            received += len(message.get("body", b""))
            whole = not message.get("more_body", False)
            if received > self._max_bytes:
                raise HTTPException(413, too_long)
            return message

        await self._app(scope, counted, send)


def _refuse(status: int, why: str) -> JSONResponse:
    headers = {"www-authenticate": "Bearer"} if status == 401 else {}
    return JSONResponse({"detail": why}, status, {**headers, "connection": "close"})
