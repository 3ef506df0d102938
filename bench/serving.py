"""Latency of `cib-rl retriever serve` under an open-loop load.

    python -m bench.serving CORPUS.jsonl.gz
    python -m bench.serving CORPUS.jsonl.gz --rate 300 --clients 100 --seconds 20 --repeats 5

The server is a process of its own; this one makes the load. Requests of one query (five words of a passage, k = 3) are
due at random times (a Poisson process), whether earlier ones have been answered or not. Each is sent by the next of the
clients, in turn, each with a connection of its own; a client that still waits for an answer sends late, and latency
counts from the time the request was due. `lag` is how late this process itself was: it is part of the latency.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from cib_rl.retrieval.build import build_index
from cib_rl.retrieval.documents import DocumentStore

K = 3


class Client:
    """One connection that is kept; asks one query at a time."""

    def __init__(self, host: str, port: int) -> None:
        self._address, self._turn = (host, port), asyncio.Lock()

    async def connect(self) -> None:
        self._reader, self._writer = await asyncio.open_connection(*self._address)

    async def ask(self, query: str) -> None:
        body = json.dumps({"queries": [query], "topk": K, "return_scores": True}).encode()
        head = f"POST /retrieve HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
        async with self._turn:
            self._writer.write(head.encode() + b"\r\n\r\n" + body)
            answer = (await self._reader.readuntil(b"\r\n\r\n")).decode().lower()
            content = await self._reader.readexactly(int(answer.split("content-length: ")[1].split("\r\n")[0]))
        assert answer.startswith("http/1.1 200"), answer
        assert len(json.loads(content)["result"][0]) <= K


async def load(clients: list[Client], queries: list[str], rate: float, seconds: float, seed: int) -> dict[str, float]:
    """Milliseconds: quantiles of latency, and of this process's lag; and the answers a second."""
    loop, draw = asyncio.get_running_loop(), random.Random(seed)
    latency: list[float] = []
    lag: list[float] = []

    async def one(client: Client, query: str, due: float) -> None:
        await client.ask(query)
        latency.append(1000 * (loop.time() - due))

    running = []
    begun = due = loop.time()
    while due < begun + seconds:
        due += draw.expovariate(rate)
        if (pause := due - loop.time()) > 0:
            await asyncio.sleep(pause)
        lag.append(1000 * max(0.0, loop.time() - due))
        running.append(asyncio.create_task(one(clients[len(running) % len(clients)], draw.choice(queries), due)))
    await asyncio.gather(*running)
    found = {f"p{share}": quantile(latency, share) for share in (50, 95, 99, 100)}
    return found | {"lag_p95": quantile(lag, 95), "rate": len(latency) / (loop.time() - begun)}


def quantile(values: list[float], percent: int) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)]


async def measure(address: str, server: psutil.Process, queries: list[str], options: argparse.Namespace) -> None:
    host, port = address.split(":")
    clients = [Client(host, int(port)) for _ in range(options.clients)]
    for client in clients:
        await client.connect()
    await load(clients, queries, options.rate, 2.0, 0)  # warm
    for repeat in range(options.repeats):
        begun, idle = time.monotonic(), psutil.cpu_times()
        before, own = sum(server.cpu_times()[:2]), sum(psutil.Process().cpu_times()[:2])
        found = await load(clients, queries, options.rate, options.seconds, repeat + 1)
        now, seconds = psutil.cpu_times(), time.monotonic() - begun
        taken, made = sum(server.cpu_times()[:2]) - before, sum(psutil.Process().cpu_times()[:2]) - own
        others = sum(getattr(now, key) - getattr(idle, key) for key in ("user", "nice", "system")) - taken - made
        used = [f"{name} {cpu / seconds:.2f}" for name, cpu in
                (("server", taken), ("load", made), ("others", others))]  # fmt: skip
        print(
            f"{found['rate']:5.0f}/s  p50 {found['p50']:6.1f}  p95 {found['p95']:6.1f}  p99 {found['p99']:6.1f}  "
            f"max {found['p100']:6.1f} ms  lag p95 {found['lag_p95']:5.1f} ms  "
            f"cores: {', '.join(used)} of {os.cpu_count()}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--rate", type=float, default=300.0, help="requests a second")
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        index = Path(name) / "index"
        build_index(options.corpus, index)
        store, draw = DocumentStore(index), random.Random(0)
        texts = [store.get(draw.randrange(len(store))).text.split() for _ in range(2000)]
        queries = [" ".join(draw.sample(words, min(5, len(words)))) for words in texts]
        command = [sys.executable, "-m", "cib_rl", "retriever", "serve", str(index), "--port", "0"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            assert process.stdout is not None
            found = re.search(r"at http://(\S+)/retrieve", process.stdout.readline())
            assert found
            asyncio.run(measure(found.group(1), psutil.Process(process.pid), queries, options))
        finally:
            process.terminate()
            process.wait()


if __name__ == "__main__":
    main()
