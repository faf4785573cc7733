"""Guessing takes longer and longer."""

import pytest

from worker.ops.web.attempts import ADDRESS, FIRST, FORGOTTEN, KEPT, LONGEST, NAME, PAIR, Attempts


class Clock:
    """A clock that a test turns."""

    now = 1000.0

    def __call__(self) -> float:
        """Tell the time."""
        return self.now


@pytest.fixture
def clock() -> Clock:
    """Give a clock."""
    return Clock()


@pytest.fixture
def attempts(clock: Clock) -> Attempts:
    """Give a count of nothing yet."""
    return Attempts(clock)


def test_a_few_tries_are_free(attempts: Attempts) -> None:
    """Whoever mistypes a few times goes on at once, then has to wait."""
    assert [attempts.admit("vera", "192.0.2.1") for _ in range(PAIR)] == [0.0] * PAIR
    assert attempts.admit("vera", "192.0.2.1") == FIRST


def test_each_further_failure_doubles_the_wait(attempts: Attempts, clock: Clock) -> None:
    """Whoever goes on as soon as they may waits twice as long each time, up to a bound."""
    waits = []
    for _ in range(PAIR + 12):
        waits.append(attempts.admit("vera", "192.0.2.1"))
        if waits[-1]:
            clock.now += waits[-1]
            assert attempts.admit("vera", "192.0.2.1") == 0.0
    assert waits[PAIR : PAIR + 3] == [FIRST, 2 * FIRST, 4 * FIRST]
    assert waits[-1] == LONGEST


def test_waiting_is_no_failure(attempts: Attempts, clock: Clock) -> None:
    """Who asks again and again while they have to wait does not wait the longer."""
    for _ in range(PAIR + 100):
        attempts.admit("vera", "192.0.2.1")
    clock.now += FIRST
    assert attempts.admit("vera", "192.0.2.1") == 0.0


def test_others_do_not_wait(attempts: Attempts) -> None:
    """Another name, and the same name from elsewhere, are not held up by one who guesses."""
    for _ in range(PAIR + 1):
        attempts.admit("vera", "192.0.2.1")
    assert attempts.admit("oskar", "192.0.2.1") == 0.0
    assert attempts.admit("vera", "192.0.2.2") == 0.0


def test_a_name_is_guessed_from_many_addresses(attempts: Attempts) -> None:
    """Of one name no more than so many tries are free, wherever they come from."""
    free = [attempts.admit("vera", f"192.0.2.{number}") for number in range(NAME)]
    assert free == [0.0] * NAME
    assert attempts.admit("vera", "198.51.100.1") == FIRST


@pytest.mark.parametrize("address", ["192.0.2.1", "2001:db8::{}"])
def test_many_names_are_guessed_from_one_address(attempts: Attempts, address: str) -> None:
    """From one address no more than so many tries are free; in IPv6 from one network."""
    free = [attempts.admit(f"name-{number}", address.format(number)) for number in range(ADDRESS)]
    assert free == [0.0] * ADDRESS
    assert attempts.admit("vera", address.format("ffff")) == FIRST


def test_a_success_takes_its_failures_back(attempts: Attempts) -> None:
    """Who mistypes and then knows it has all tries again; whoever guessed others' from there has not."""
    for _ in range(3):
        for _ in range(PAIR):
            assert attempts.admit("vera", "192.0.2.1") == 0.0
        attempts.succeeded("vera", "192.0.2.1")
    tries = [attempts.admit(f"name-{number}", "192.0.2.1") for number in range(ADDRESS)]
    assert FIRST in tries


def test_failures_are_forgotten(attempts: Attempts, clock: Clock) -> None:
    """After an hour without a try all of them are free again."""
    for _ in range(PAIR):
        attempts.admit("vera", "192.0.2.1")
    clock.now += FORGOTTEN + 1
    assert [attempts.admit("vera", "192.0.2.1") for _ in range(PAIR)] == [0.0] * PAIR


def test_what_was_not_looked_at_is_no_failure(attempts: Attempts) -> None:
    """Whoever is sent away before their password is looked at has as many tries as before."""
    for _ in range(3 * NAME):
        assert attempts.admit("vera", "192.0.2.1") == 0.0
        attempts.withdrawn("vera", "192.0.2.1")


def test_who_has_to_wait_crowds_nobody_out(attempts: Attempts) -> None:
    """Names made up by who has to wait, and by others, do not make a name forgotten that is guessed."""
    for number in range(NAME):
        attempts.admit("vera", f"198.51.100.{number}")
    for number in range(ADDRESS):
        attempts.admit(f"name-{number}", "192.0.2.1")
    for number in range(KEPT):
        assert attempts.admit(f"other-{number}", "192.0.2.1") > 0
    assert len(attempts._counts) < KEPT / 2
    for number in range(KEPT):
        attempts.admit(f"{number}", f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}")
    assert attempts.admit("vera", "203.0.113.1") == FIRST


def test_an_address_of_ipv4_written_as_ipv6(attempts: Attempts) -> None:
    """It is one address, and not all there are."""
    for number in range(ADDRESS):
        attempts.admit(f"name-{number}", "::ffff:192.0.2.1")
    assert attempts.admit("vera", "192.0.2.1") == FIRST
    assert attempts.admit("vera", "::ffff:192.0.2.2") == 0.0


def test_the_memory_is_bounded(attempts: Attempts) -> None:
    """Whatever names and addresses are made up, so many are kept, each cut to a length."""
    for number in range(KEPT):
        attempts.admit(f"{number}" + "x" * 10_000, f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}")
    assert len(attempts._counts) <= KEPT
    assert max(len(part) for key in attempts._counts for part in key) <= 64
