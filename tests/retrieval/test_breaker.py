"""The circuit breaker, on a clock of its own."""

from __future__ import annotations

from cib_rl.retrieval.breaker import CircuitBreaker


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def broken(clock: Clock, failures: int = 3) -> CircuitBreaker:
    breaker = CircuitBreaker(failures, 10.0, clock)
    for _ in range(failures):
        assert breaker.wait() == 0
        breaker.begin()
        breaker.failed()
    return breaker


def test_it_opens_after_so_many_failures_in_a_row_and_says_how_long():
    clock = Clock()
    breaker = broken(clock)
    assert breaker.wait() == 10.0
    clock.now += 4
    assert breaker.wait() == 6.0


def test_a_success_between_failures_keeps_it_closed():
    breaker = CircuitBreaker(2, 10.0, Clock())
    for _ in range(5):
        breaker.failed()
        breaker.succeeded()
    assert breaker.wait() == 0


def test_one_trial_goes_out_afterwards_and_decides():
    clock = Clock()
    breaker = broken(clock)
    clock.now += 10
    assert breaker.wait() == 0
    breaker.begin()
    assert breaker.wait() > 0  # the trial is under way; others wait
    breaker.failed()
    assert breaker.wait() == 10.0  # one failed trial is enough
    clock.now += 10
    breaker.begin()
    breaker.succeeded()
    assert breaker.wait() == 0
    breaker.failed()
    assert breaker.wait() == 0  # the count starts anew


def test_a_trial_that_was_given_up_lets_the_next_one_try():
    clock = Clock()
    breaker = broken(clock)
    clock.now += 10
    breaker.begin()
    breaker.abandoned()
    assert breaker.wait() == 0
