"""What every engine in this process shares: a thread that admits requests, steps the engine and resolves futures.

`generate` may be awaited from any event loop. The thread calls four methods of the engine, never two at once:
`_admit`, `_step`, `_abort` and, around each stretch of work, `_begin` and `_end`.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field

from cib_rl.engines.base import Engine, Generation, Sampling
from cib_rl.trajectory import StopReason


@dataclass(eq=False)
class Request:
    """One call of `generate` on its way through the engine. The engine appends to `ids` and `logprobs`."""

    id: int
    prompt_ids: list[int]
    sampling: Sampling
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    submitted: float = field(default_factory=time.monotonic)
    cancelled: bool = False
    future: Future[Generation] = field(default_factory=Future)

    def __post_init__(self) -> None:
        # From here on Future.cancel() does nothing: only the pump decides how a request ends.
        self.future.set_running_or_notify_cancel()

    @property
    def deadline(self) -> float:
        """Monotonic time at which the request times out; infinite without a time-out."""
        return math.inf if self.sampling.timeout is None else self.submitted + self.sampling.timeout

    @property
    def order(self) -> tuple[int, list[int], int]:
        """Where the request stands in a wave: independent of when it arrived."""
        seed = -1 if self.sampling.seed is None else self.sampling.seed
        return seed, self.prompt_ids, self.sampling.max_tokens


@dataclass
class Finished:
    """A request that ended in a step: its tokens stand in `request.ids` and `request.logprobs`."""

    request: Request
    stop_reason: StopReason
    stop_detail: str | int | None = None
    error: str | None = None


class PumpedEngine(Engine):
    """An engine whose work is done by a thread of its own.

    Args:
        max_num_seqs: requests that run at once; the others wait.
        max_model_len: prompt and completion tokens that fit into the model's context.
        vocab_size: ids at or above it are refused.
        deterministic: requests start in waves. A wave begins when as many requests wait as episodes are active
            (`set_active_episodes`) and none runs; it is admitted in an order made from seed and prompt. So neither
            the composition nor the order of a batch depends on when requests arrive.
    """

    max_model_len: int

    def __init__(self, *, max_num_seqs: int, max_model_len: int, vocab_size: int, deterministic: bool) -> None:
        if max_num_seqs < 1 or max_model_len < 2:
            raise ValueError(f"need max_num_seqs >= 1 and max_model_len >= 2, got {max_num_seqs} and {max_model_len}")
        self.max_num_seqs = max_num_seqs
        self.max_model_len = max_model_len
        self.vocab_size = vocab_size
        self.deterministic = deterministic
        self.weights_version = 0
        self._changed = threading.Condition()
        self._waiting: list[Request] = []  # in order of arrival
        self._wave: list[Request] = []  # deterministic: admitted in this order, as slots become free
        self._running: dict[int, Request] = {}
        self._active: int | None = None
        self._next_id = 0
        self._begun = False
        self._thread: threading.Thread | None = None
        self._closed = False
        self._ending = (StopReason.CANCELLED, "the engine was closed")  # what requests after the end are told

    # ------------------------------------------------------------ what an engine implements

    @abstractmethod
    def _admit(self, requests: Sequence[Request]) -> list[Finished]:
        """Take these requests into the running batch, in this order. Returns those that failed at once."""

    @abstractmethod
    def _step(self) -> list[Finished]:
        """One token (or more) for the running requests. Returns those that ended. Blocks."""

    @abstractmethod
    def _abort(self, requests: Sequence[Request]) -> None:
        """Forget these running requests and free their slots."""

    def _enter_thread(self) -> None:
        """Called once, in the pump's thread, before anything else is."""
        return None

    def _begin(self) -> None:
        """Called before work starts: nothing was running."""
        return None

    def _end(self) -> None:
        """Called when nothing runs any more, before the last futures are resolved: leave the world as it was."""
        return None

    # ------------------------------------------------------------ the contract

    async def generate(self, prompt_ids: list[int], sampling: Sampling) -> Generation:
        refused = self._refusal(prompt_ids, sampling)
        if refused is not None:
            return refused
        request = self._submit(prompt_ids, sampling)
        try:
            return await asyncio.shield(asyncio.wrap_future(request.future))
        except asyncio.CancelledError:
            with self._changed:
                request.cancelled = True
                self._changed.notify_all()
            # Once this returns the slot is free and the model is as it was: the caller may go on training.
            await asyncio.wrap_future(request.future)
            raise

    def set_active_episodes(self, count: int) -> None:
        with self._changed:
            self._active = count
            self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout=60)
        self._resolve([Finished(r, self._ending[0], error=self._ending[1]) for r in self._all()])

    @contextmanager
    def _exclusive(self, what: str) -> Iterator[None]:
        """Hold the pump still. RuntimeError while requests run or wait; new ones wait until the block ends."""
        with self._changed:
            pending = len(self._all())
            if self._closed:
                raise RuntimeError(f"cannot {what}: the engine is closed")
            if pending:
                raise RuntimeError(f"cannot {what} while {pending} requests run or wait: let them end or cancel them")
            yield

    # ------------------------------------------------------------ requests

    def _refusal(self, prompt_ids: list[int], sampling: Sampling) -> Generation | None:
        """The result of a request that cannot run, or None."""

        def error(message: str) -> Generation:
            return Generation(stop_reason=StopReason.ERROR, error=message, weights_version=self.weights_version)

        if not prompt_ids:
            return error("the prompt has no tokens")
        if min(prompt_ids) < 0 or max(prompt_ids) >= self.vocab_size:
            outside = next(i for i in prompt_ids if not 0 <= i < self.vocab_size)
            return error(f"prompt token {outside} is not in the model's vocabulary of {self.vocab_size}")
        problem = sampling_problem(sampling)
        if problem:
            return error(problem)
        if self.deterministic and self._active is None:
            return error("a deterministic engine must be told how many episodes run: call set_active_episodes first")
        if self.deterministic and sampling.seed is None and sampling.temperature > 0:
            return error("a deterministic engine needs a seed with every request")
        if len(prompt_ids) >= self.max_model_len:
            return Generation(stop_reason=StopReason.PROMPT_TOO_LONG, weights_version=self.weights_version)
        return None

    def _submit(self, prompt_ids: list[int], sampling: Sampling) -> Request:
        with self._changed:
            request = Request(self._next_id, list(prompt_ids), sampling)
            self._next_id += 1
            if self._closed:  # asked under the lock: no thread is left that would ever answer
                reason, message = self._ending
                self._resolve([Finished(request, reason, error=message)])
                return request
            self._waiting.append(request)
            if self._thread is None:
                self._thread = threading.Thread(target=self._loop, name=f"{type(self).__name__} pump", daemon=True)
                self._thread.start()
            self._changed.notify_all()
        return request

    def _all(self) -> list[Request]:
        return [*self._running.values(), *self._wave, *self._waiting]

    # ------------------------------------------------------------ the thread

    def _loop(self) -> None:
        ending = self._ending
        try:
            self._enter_thread()
            while self._turn():
                pass
            self._abort_quietly(list(self._running.values()))
            self._finish_work()
        except Exception as error:  # a mistake in the pump itself: whoever waits must hear of it
            ending = StopReason.ERROR, f"the engine broke: {type(error).__name__}: {error}"
        with self._changed:
            self._closed, self._ending = True, ending
            left = [Finished(r, ending[0], error=ending[1]) for r in self._all()]
            self._forget(left)
        self._resolve(left)

    def _turn(self) -> bool:
        """Wait for work and do one round of it. False when the engine is closed."""
        with self._changed:
            while not self._closed and not self._has_work():
                self._changed.wait(self._patience())
            if self._closed:
                return False
            gone = [f for r in [*self._waiting, *self._wave] if (f := self._given_up(r))]
            self._forget(gone)
            admitted = self._take()
        self._resolve(gone)
        if self._running:
            self._round(admitted)
        return True

    def _has_work(self) -> bool:
        return bool(
            self._running
            or self._wave
            or (self._waiting and self._wave_is_complete())
            or any(self._given_up(r) for r in self._waiting)
        )

    def _wave_is_complete(self) -> bool:
        if not self.deterministic:
            return True
        return not self._running and not self._wave and len(self._waiting) >= (self._active or 0)

    def _patience(self) -> float | None:
        """Seconds until the next waiting request times out; None without any."""
        deadline = min((r.deadline for r in self._waiting), default=math.inf)
        return None if math.isinf(deadline) else max(0.0, deadline - time.monotonic())

    def _take(self) -> list[Request]:
        """Move what may start now from the queue to the running requests."""
        if self.deterministic:
            if self._waiting and self._wave_is_complete():
                self._wave, self._waiting = sorted(self._waiting, key=lambda r: r.order), []
            queue = self._wave
        else:
            queue = self._waiting
        free = self.max_num_seqs - len(self._running)
        admitted = queue[:free]
        del queue[:free]
        self._running.update({r.id: r for r in admitted})
        return admitted

    def _round(self, admitted: list[Request]) -> None:
        """Drop what was given up, start `admitted`, step, and resolve what ended."""
        new = {r.id for r in admitted}
        ended = [f for r in self._running.values() if r.id not in new and (f := self._given_up(r))]
        try:
            if ended:
                self._abort([f.request for f in ended])
            if admitted:
                if not self._begun:
                    self._begun = True
                    self._begin()
                ended += self._admit(admitted)
            if len(self._running) > len(ended):
                ended += self._step()
        except Exception as error:
            known = {f.request.id for f in ended}
            failed = [r for r in self._running.values() if r.id not in known]
            ended += [Finished(r, StopReason.ERROR, error=f"{type(error).__name__}: {error}") for r in failed]
            self._abort_quietly(failed)
        if len(ended) == len(self._running):
            self._finish_work()
        with self._changed:
            self._forget(ended)
        self._resolve(ended)

    def _finish_work(self) -> None:
        if self._begun:
            self._begun = False
            self._end()

    def _abort_quietly(self, requests: list[Request]) -> None:
        try:
            self._abort(requests)
        except Exception:  # the step's error is the one to report
            return

    @staticmethod
    def _given_up(request: Request) -> Finished | None:
        if request.cancelled:
            return Finished(request, StopReason.CANCELLED)
        if time.monotonic() > request.deadline:
            message = f"no end within {request.sampling.timeout} s"
            return Finished(request, StopReason.TIMEOUT, error=message)
        return None

    def _forget(self, ended: Sequence[Finished]) -> None:
        ids = {f.request.id for f in ended}
        if ids:
            self._waiting = [r for r in self._waiting if r.id not in ids]
            self._wave = [r for r in self._wave if r.id not in ids]
            self._running = {i: r for i, r in self._running.items() if i not in ids}

    def _resolve(self, ended: Sequence[Finished]) -> None:
        now = time.monotonic()
        for f in ended:
            if not f.request.future.done():
                f.request.future.set_result(
                    Generation(
                        ids=f.request.ids,
                        logprobs=f.request.logprobs,
                        stop_reason=f.stop_reason,
                        stop_detail=f.stop_detail,
                        error=f.error,
                        weights_version=self.weights_version,
                        latency=now - f.request.submitted,
                    )
                )


def sampling_problem(sampling: Sampling) -> str | None:
    """What is wrong with these sampling parameters, or None."""
    s = sampling
    checks = [
        (s.max_tokens >= 1, f"max_tokens must be at least 1, got {s.max_tokens}"),
        (0 <= s.temperature < math.inf, f"temperature must be finite and not negative, got {s.temperature}"),
        (0 < s.top_p <= 1, f"top_p must be in (0, 1], got {s.top_p}"),
        (s.top_k >= 0, f"top_k must not be negative, got {s.top_k}"),
        (0 <= s.min_p < 1, f"min_p must be in [0, 1), got {s.min_p}"),
        (0 < s.repetition_penalty < math.inf, f"repetition_penalty must be positive, got {s.repetition_penalty}"),
        (0 <= s.min_tokens <= s.max_tokens, f"min_tokens must be in [0, max_tokens], got {s.min_tokens}"),
        (all(s.stop), "a stop string must not be empty"),
        (s.timeout is None or s.timeout > 0, f"timeout must be positive, got {s.timeout}"),
        (s.seed is None or 0 <= s.seed < 2**63, f"seed must be in [0, 2**63), got {s.seed}"),
    ]
    return next((message for fine, message in checks if not fine), None)
