"""Conditions: what is true of this node, and since when."""

from dataclasses import dataclass

from kinx_loadbalancer_agent.engine.conditions import Conditions


@dataclass
class StoppedClock:
    """A clock that stands where it was put."""

    now: float = 0.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_a_condition_is_true_since_its_status_changed_not_since_it_was_repeated() -> None:
    clock = StoppedClock(1.0)
    conditions = Conditions(clock)

    news = [conditions.set("Ready", "True", "Serving", "one")]
    clock.now = 2.0
    news.append(conditions.set("Ready", "True", "Serving", "two"))
    repeated = conditions.published()
    clock.now = 3.0
    news.append(conditions.set("Ready", "False", "Stopping", "three"))

    assert news == [True, False, True]
    assert [(found["message"], found["since"]) for found in repeated] == [
        ("two", "1970-01-01T00:00:01.000Z")
    ]
    assert [found["since"] for found in conditions.published()] == ["1970-01-01T00:00:03.000Z"]


def test_a_condition_holds_only_when_it_was_said_to_be_true() -> None:
    conditions = Conditions(StoppedClock())

    conditions.set("Known", "True", "R", "")
    conditions.set("Lost", "Unknown", "R", "")
    conditions.set("Wrong", "False", "R", "because")

    assert [conditions.holds(type) for type in ("Known", "Lost", "Wrong", "Never")] == [
        True,
        False,
        False,
        False,
    ]
    assert [conditions.message(type) for type in ("Wrong", "Never")] == ["because", ""]


def test_what_is_wrong_is_published_first() -> None:
    conditions = Conditions(StoppedClock())

    conditions.set("A", "True", "R", "")
    conditions.set("C", "False", "R", "", "error")
    conditions.set("B", "False", "R", "", "error")
    conditions.set("D", "True", "R", "", "warning")

    assert [found["type"] for found in conditions.published()] == ["B", "C", "D", "A"]
    assert set(conditions.published()[0]) == {
        "type",
        "status",
        "severity",
        "reason",
        "message",
        "since",
    }
