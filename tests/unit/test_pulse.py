"""When a process counts as serving, by how it answers."""

from kinx_loadbalancer_agent.services.routing.gate import Pulse


def test_a_first_answer_is_enough_and_nothing_is_known_before() -> None:
    pulse = Pulse()

    before = pulse.is_up
    pulse.answered(0)

    assert (before, pulse.is_up, pulse.why) == (None, True, "")


def test_a_refused_connection_decides_at_once() -> None:
    pulse = Pulse()

    pulse.answered(0)
    pulse.refused(1, "HAProxy does not run")

    assert (pulse.is_up, pulse.why) == (False, "HAProxy does not run")


def test_two_missed_answers_decide_and_one_does_not() -> None:
    pulse = Pulse()
    seen = []

    pulse.answered(0)
    for at in (1, 2):
        pulse.missed(at, "HAProxy does not answer")
        seen.append(pulse.is_up)

    assert seen == [True, False]


def test_an_answer_in_between_begins_anew() -> None:
    pulse = Pulse()

    for at in range(4):
        pulse.answered(2 * at)
        pulse.missed(2 * at + 1, "HAProxy does not answer")

    assert pulse.is_up


def test_a_process_that_came_back_is_believed_after_two_answers() -> None:
    pulse = Pulse()
    seen = []

    pulse.answered(0)
    pulse.refused(1, "HAProxy does not run")
    for at in (1.1, 1.2):
        pulse.answered(at)
        seen.append(pulse.is_up)

    assert seen == [False, True]


def test_who_falls_again_and_again_is_believed_later_each_time() -> None:
    pulse, now, waits = Pulse(), 0.0, []

    for _ in range(9):
        while not pulse.is_up:
            now += 0.1
            pulse.answered(now)
        pulse.refused(now, "HAProxy does not run")
        fell = now
        while not pulse.is_up:
            now += 0.1
            pulse.answered(now)
        waits.append(round(now - fell))

    assert waits == [0, 1, 2, 4, 8, 16, 32, 60, 60]


def test_a_steady_minute_makes_up_for_what_was() -> None:
    pulse, now = Pulse(), 0.0
    for _ in range(4):
        while not pulse.is_up:
            now += 0.1
            pulse.answered(now)
        pulse.refused(now, "HAProxy does not run")
    while not pulse.is_up:
        now += 0.1
        pulse.answered(now)

    pulse.refused(now + 61, "HAProxy does not run")
    for at in (61.1, 61.2):
        pulse.answered(now + at)

    assert pulse.is_up
