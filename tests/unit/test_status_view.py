"""What ``status`` shows of the agent's documents: what is wrong first, then the way of traffic."""

import re
from typing import Any

import click
import pytest

from kinx_loadbalancer_agent.status import clean, view

Document = dict[str, Any]

SINCE = "2026-01-02T03:04:05.678Z"
HAPROXY = {
    **{"pid": 10, "worker_pid": 11, "version": "2.6.12"},
    **{"reloads": 3, "failed_reloads": 1, "old_workers": 2},
}
NO_STATE: Document = {"loadbalancers": [], "listeners": [], "pools": []}


def condition(type: str, status: str, severity: str, message: str = "so it is") -> Document:
    told = {"type": type, "status": status, "severity": severity, "reason": "Reason"}
    return {**told, "message": message, "since": SINCE}


def status(*conditions: Document, **objects: Document) -> Document:
    return {
        "generation": 7,
        "observed_generation": 6,
        "conditions": list(conditions or [condition("Ready", "True", "info")]),
        "objects": {"listeners": {}, "pools": {}, "members": {}} | objects,
        "haproxy": HAPROXY,
    }


def does(status: str, reason: str = "") -> Document:
    return {"operating_status": status, "reason": reason}


def listener(id: str, **members: Any) -> Document:
    own = {"id": id, "name": "", "protocol": "HTTP", "protocol_port": 80}
    links = {"vip_address": None, "loadbalancer_id": "lb", "default_pool_id": None}
    return {**own, **links, **members}


def pool(id: str, *members: str, **more: Any) -> Document:
    made = [
        {"id": one, "name": "", "address": "192.0.2.21", "protocol_port": 8080, "weight": 1}
        for one in members
    ]
    return {"id": id, "name": "", "listener_id": None, "members": made, **more}


def shown(
    found: Document, state: Document | None = None, speaker: Document | None = None
) -> list[str]:
    """Return the lines without colours, and without what only aligns them."""
    text = click.unstyle(view(found, NO_STATE | (state or {}), speaker or {}))
    return [re.sub(r"(\S) {2,}", r"\1  ", line) for line in text.splitlines()]


def test_the_first_line_says_whether_the_node_is_well_and_what_is_live() -> None:
    well = shown(status())
    warned = shown(status(condition("Drift", "True", "warning")))
    ill = shown(status(condition("Applied", "False", "error")))

    assert well[0] == "well, generation 7, live 6"
    assert warned[0].startswith("well, ")
    assert ill[0].startswith("not well, ")


def test_conditions_come_first_in_their_order_with_message_and_since() -> None:
    conditions = (
        condition("Applied", "False", "error", "HAProxy is not running"),
        condition("Drift", "True", "warning", "changed by others"),
        condition("Ready", "True", "info", "changes are accepted"),
    )

    lines = shown(status(*conditions))

    assert lines[2:6] == [
        "CONDITIONS",
        f"  Applied=False  error  HAProxy is not running, since {SINCE}",
        f"  Drift=True  warning  changed by others, since {SINCE}",
        f"  Ready=True  ok  changes are accepted, since {SINCE}",
    ]


def test_traffic_goes_from_vip_to_listener_to_pool_to_members() -> None:
    state = {
        "loadbalancers": [{"id": "lb", "vip_address": "192.0.2.10"}],
        "listeners": [
            listener("by-pool", name="shop"),
            listener("by-name", default_pool_id="named", vip_address="192.0.2.9"),
            listener("bare", vip_address="2001:db8::1"),
        ],
        "pools": [
            pool("app", "one", "two", listener_id="by-pool"),
            pool("named", listener_id="other"),
            pool("unused", "three"),
        ],
    }
    objects = {
        "listeners": {id: does("ONLINE") for id in ("by-pool", "by-name", "bare")},
        "pools": {"app": does("DEGRADED", "1 of 2"), "named": does("ONLINE")},
        "members": {"app/one": does("ONLINE"), "app/two": does("ERROR", "L4CON")},
    }

    lines = shown(status(**objects), state)

    start = lines.index("TRAFFIC")
    assert lines[start + 1 : lines.index("HAPROXY") - 1] == [
        "  vip 192.0.2.10",
        "    listener by-pool (shop) HTTP 80  ONLINE",
        "      pool app  DEGRADED  1 of 2",
        "        member two 192.0.2.21:8080 weight 1  ERROR  L4CON",
        "        member one 192.0.2.21:8080 weight 1  ONLINE",
        "  vip 192.0.2.9",
        "    listener by-name HTTP 80  ONLINE",
        "      pool named  ONLINE",
        "  vip 2001:db8::1",
        "    listener bare HTTP 80  ONLINE",
        "  pool unused",
        "    member three 192.0.2.21:8080 weight 1",
    ]


def test_of_many_members_those_that_are_wrong_are_shown() -> None:
    ids = [f"m{number}" for number in range(100)]
    found = {f"app/{id}": does("ONLINE") for id in ids} | {"app/m77": does("ERROR", "L4TOUT")}

    lines = shown(status(members=found), {"pools": [pool("app", *ids)]})

    members = [line for line in lines if "member " in line]
    assert members[0].startswith("    member m77 ")
    assert len(members) == 20
    assert "    and 80 more, none worse" in lines


def test_bgp_has_sessions_then_vips_and_why_one_is_not_announced() -> None:
    session = {"gateway": "192.0.2.2", "state": "Established", "last_error": None}
    down = {"gateway": "192.0.2.3", "state": "Active", "last_error": "Hold Timer Expired"}
    unseen = {"gateway": "192.0.2.4", "state": None, "last_error": None}
    vip = {"address": "192.0.2.10", "announced": True, "since": SINCE, "reason": ""}
    speaker = {
        "sessions": [
            session | {"uptime_seconds": 0, "prefixes_sent": 2},
            down | {"uptime_seconds": None, "prefixes_sent": None},
            unseen | {"uptime_seconds": None, "prefixes_sent": None},
        ],
        "vips": [
            vip,
            vip | {"address": "192.0.2.11", "announced": False, "reason": "no listener has it"},
            vip | {"address": "192.0.2.12", "announced": None, "reason": "written, not applied"},
        ],
    }

    lines = shown(status(), speaker=speaker)

    assert lines[lines.index("BGP") + 1 : lines.index("HAPROXY") - 1] == [
        "  session 192.0.2.2  Established  up 0 s, 2 prefixes sent",
        "  session 192.0.2.3  Active  Hold Timer Expired",
        "  session 192.0.2.4  unknown",
        f"  vip 192.0.2.10  announced  since {SINCE}",
        "  vip 192.0.2.11  not announced  no listener has it",
        "  vip 192.0.2.12  unknown  written, not applied",
    ]


def test_what_there_is_nothing_of_has_no_heading() -> None:
    lines = shown(status())

    assert [line for line in lines if line.isupper()] == ["CONDITIONS", "HAPROXY"]


def test_haproxy_is_one_line_and_its_absence_is_said() -> None:
    absent = status() | {"haproxy": dict.fromkeys(HAPROXY)}

    assert shown(status())[-1] == (
        "  pid 10, worker pid 11, version 2.6.12, reloads 3, failed reloads 1, old workers 2"
    )
    assert shown(absent)[-1] == "  was not seen to run"


@pytest.mark.parametrize(
    ("how", "colour"), {"ERROR": 31, "DRAINING": 33, "ONLINE": 32, "DISABLED": None}.items()
)
def test_how_an_object_does_has_its_colour_and_the_rest_has_none(
    how: str, colour: int | None
) -> None:
    text = view(status(pools={"app": does(how, "why")}), NO_STATE | {"pools": [pool("app")]}, {})

    (line,) = [line for line in text.splitlines() if "pool app" in line]
    styled = f"\x1b[{colour}m{how}\x1b[0m" if colour else f"{how}\x1b[0m"
    assert line == f"  pool app  {styled}  why"


HOSTILE = "\x1b[2J\x1b]0;title\x07 \x9b31m\x7f\r\n\b\u2028\u202e\u200b\ud800\0 end"


def test_no_string_of_others_reaches_the_terminal_with_what_it_obeys() -> None:
    found = status(
        condition(HOSTILE, HOSTILE, "error", HOSTILE) | {"since": HOSTILE},
        listeners={HOSTILE: does("ONLINE", HOSTILE)},
        pools={HOSTILE: does("ERROR", HOSTILE)},
        members={f"{HOSTILE}/{HOSTILE}": does("ERROR", HOSTILE)},
    )
    found["haproxy"] = HAPROXY | {"version": HOSTILE}
    made = pool(HOSTILE, HOSTILE, name=HOSTILE, listener_id=HOSTILE)
    made["members"][0] |= {"address": HOSTILE, "name": HOSTILE}
    state = {
        "loadbalancers": [{"id": HOSTILE, "vip_address": HOSTILE}],
        "listeners": [listener(HOSTILE, name=HOSTILE, vip_address=HOSTILE, protocol=HOSTILE)],
        "pools": [made],
    }
    up = {"uptime_seconds": None, "prefixes_sent": 1}
    speaker = {
        "sessions": [{"gateway": HOSTILE, "state": HOSTILE, "last_error": HOSTILE, **up}],
        "vips": [{"address": HOSTILE, "announced": False, "since": HOSTILE, "reason": HOSTILE}],
    }

    text = click.unstyle(view(found, state, speaker))

    assert text.count("end") > 15
    assert not re.search("[^\\n -~]", text)


def test_what_people_write_stays_as_it_is() -> None:
    for text in ("로드밸런서", "Größe: 5 €", "a b", "\U0001f600", "e\u0301"):
        assert clean(text) == text
