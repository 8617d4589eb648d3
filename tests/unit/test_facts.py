"""What HAProxy 2.6.12 answered on its sockets, as values."""

from pathlib import Path

import pytest

from kinx_loadbalancer_agent.services.haproxy import facts
from kinx_loadbalancer_agent.services.haproxy.shape import Limit, Server

RECORDED = Path(__file__).with_name("recorded")


def recorded(name: str) -> str:
    return (RECORDED / f"{name}.txt").read_text()


def test_a_worker_says_who_it_is_and_which_shape_it_has() -> None:
    worker = facts.worker(recorded("show_info"))

    limits = "Maxconn 9979 ConnRateLimit 0 SessRateLimit 0 SslRateLimit 0"
    assert worker == facts.Worker(13605, "2.6.12-1+deb12u4", "4f1c2a", limits)


def test_a_worker_of_a_foreign_configuration_says_no_shape() -> None:
    text = "".join(
        line for line in recorded("show_info").splitlines(True) if not line.startswith("descr")
    )

    worker = facts.worker(text)

    assert worker is not None
    assert worker.description is None


@pytest.mark.parametrize(
    ("name", "master"),
    [
        ("show_proc", facts.Master(13604, 0, 0, (13605,), ())),
        ("show_proc_old_workers", facts.Master(13604, 1, 0, (13609,), (13605,))),
        ("show_proc_failed", facts.Master(13604, 2, 1, (13609,), (13605,))),
    ],
)
def test_a_master_says_how_its_last_reload_went_and_which_workers_it_has(
    name: str, master: facts.Master
) -> None:
    assert facts.master(recorded(name)) == master


@pytest.mark.parametrize("text", ["", "\n", "Unknown command: 'show'\n"])
def test_another_answer_is_no_fact(text: str) -> None:
    assert facts.worker(text) is None
    assert facts.master(text) is None
    assert facts.servers(text) == facts.frontends(text) == []
    assert facts.limited(text) == {}


def beginnings(name: str) -> list[str]:
    """Return every answer that ends too early, as that of a worker killed while it answers."""
    text = recorded(name).rstrip("\n")
    return [text[:length] for length in range(len(text))]


def test_an_answer_cut_short_shows_nothing_that_is_not_so() -> None:
    frontends = facts.frontends(recorded("show_stat"))
    servers = set(facts.servers(recorded("show_servers_state")))

    assert all(set(facts.frontends(text)) <= set(frontends) for text in beginnings("show_stat"))
    assert all(set(facts.servers(text)) <= servers for text in beginnings("show_servers_state"))


def test_a_list_of_processes_cut_short_is_no_failed_reload() -> None:
    cut = [facts.master(text) for text in beginnings("show_proc_old_workers")]

    assert {master.failed for master in cut if master} == {0}
    assert {master.pid for master in cut if master} == {13604}


def test_frontends_are_described_as_a_target_describes_them() -> None:
    shown = facts.frontends(recorded("show_stat"))

    assert shown == [Limit("li", 12000), Limit("li:6", 7)]


def shown_servers() -> dict[str, Server]:
    rows = facts.servers(recorded("show_servers_state"))
    return {row[1]: facts.server(row, {("backend-li", "two"): 7}) for row in rows}


def test_servers_are_described_as_a_target_describes_them() -> None:
    shown = shown_servers()

    assert shown["one"] == Server("backend-li", "one", "127.0.0.1", 21351, 1)
    assert shown["two"] == Server("backend-li", "two", "::1", 21351, 0, limit=7)
    assert shown["three"] == Server("backend-li", "three", "192.0.2.3", 8080, 256, "maint")
    assert shown["four"] == Server("backend-li", "four", "192.0.2.4", 8080, 5, "drain", "- 0")


def test_servers_that_are_down_come_with_the_line_that_the_next_worker_reads() -> None:
    text = recorded("show_servers_state")

    found = facts.down(text)

    assert [row[1] for row, _ in found] == ["three"]
    assert f"{found[0][1]}\n" in text


@pytest.mark.parametrize(
    ("flags", "resynced"), [("0x3", True), ("0x0", False), ("0x1", False), ("0x13", True)]
)
def test_a_worker_hands_its_tables_on_when_both_resynchronizations_are_over(
    flags: str, resynced: bool
) -> None:
    text = f"0x5584: [21/Nov/2026:09:00:00] id=kinx disabled=0 flags={flags} resync_timeout=<PAST>"

    assert facts.is_resynced(text) is resynced


def test_a_table_in_use_is_told_from_empty_ones() -> None:
    empty = "# table: backend-a, type: ip, size:204800, used:0\n"

    assert not facts.has_entries(empty)
    assert facts.has_entries(empty + "# table: backend-b, type: ip, size:204800, used:2\n")
