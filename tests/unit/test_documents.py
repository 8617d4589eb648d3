"""How documents are read: synonyms, numbers, unknown members, every fault at once."""

from typing import Any

import pytest

from kinx_loadbalancer_agent.errors import Unprocessable
from tests.unit.desired import Desired

LISTENER = {"id": "l2", "protocol": "HTTP", "protocol_port": 81}
POOL = {"id": "p2", "protocol": "HTTP", "lb_algorithm": "ROUND_ROBIN"}
MEMBER = {"id": "m", "address": "192.0.2.7", "protocol_port": 80}
CHECK = {"type": "TCP", "delay": 3, "timeout": 2}
MONITOR = CHECK | {"pool_id": "po"}
BODIES: dict[str, dict[str, Any]] = {
    "loadbalancers": {"id": "lb2"},
    "listeners": LISTENER,
    "pools": POOL,
    "members": MEMBER,
    "healthmonitors": MONITOR,
}


MEMBERS = {
    "loadbalancers": "id name description enabled project_id vip_address",
    "listeners": "id loadbalancer_id name description enabled protocol protocol_port "
    "protocol_mode connection_limit default_pool_id vip_address tls_certificate_id sni_containers",
    "pools": "id listener_id loadbalancer_id name description enabled protocol protocol_mode "
    "lb_algorithm stick_size stick_expire session_persistence",
    "members": "id name enabled address protocol_port weight type cookie_name healthmonitor "
    "backup monitor_address monitor_port project_id pool_id",
    "healthmonitors": "type delay timeout max_retries max_retries_down http_method url_path "
    "expected_codes enabled pool_id listener_id",
}
"""What an answer carries, by kind."""


def parent_of(kind: str) -> str:
    return "po" if kind == "members" else ""


@pytest.mark.parametrize("kind", BODIES)
def test_an_answer_carries_every_member_of_the_contract_and_no_other(
    web: Desired, kind: str
) -> None:
    folded = web.post(kind, BODIES[kind], parent_of(kind))

    assert set(web.get(kind, folded.subject.id, parent_of(kind))) == set(MEMBERS[kind].split())


@pytest.mark.parametrize(
    ("kind", "synonym", "name", "value"),
    [
        ("loadbalancers", "admin_state_up", "enabled", False),
        ("loadbalancers", "tenant_id", "project_id", "t1"),
        ("listeners", "admin_state_up", "enabled", False),
        ("pools", "admin_state_up", "enabled", False),
        ("members", "admin_state_up", "enabled", False),
        ("members", "tenant_id", "project_id", "t1"),
        ("members", "ip_address", "address", "192.0.2.9"),
        ("healthmonitors", "admin_state_up", "enabled", False),
        ("healthmonitors", "rise_threshold", "max_retries", 4),
        ("healthmonitors", "fall_threshold", "max_retries_down", 5),
    ],
)
def test_a_synonym_is_answered_by_the_name_of_the_contract(
    web: Desired, kind: str, synonym: str, name: str, value: Any
) -> None:
    body = {key: given for key, given in BODIES[kind].items() if key != name} | {synonym: value}

    web.post(kind, body, parent_of(kind))

    found = web.get(kind, str(body.get("id", "po")), parent_of(kind))
    assert found[name] == value
    assert synonym not in found


def test_a_synonym_may_repeat_and_not_contradict(web: Desired) -> None:
    both = MEMBER | {"enabled": False, "admin_state_up": False, "ip_address": "192.0.2.7"}

    assert web.post("members", both, "po").status == 201
    with web.refuses(Unprocessable, "/admin_state_up", "/ip_address"):
        web.put("members", "m", both | {"admin_state_up": True, "ip_address": "192.0.2.8"}, "po")


def test_an_address_inside_vip_is_the_load_balancers(desired: Desired) -> None:
    vip = {"subnet_id": "s", "port_id": "p", "ip_address": "192.0.2.1"}

    desired.post("loadbalancers", {"id": "lb", "vip": vip})
    desired.post("loadbalancers", {"id": "lb2", "vip": vip, "vip_address": "192.0.2.1"})

    assert desired.get("loadbalancers", "lb")["vip_address"] == "192.0.2.1"
    assert "vip" not in desired.get("loadbalancers", "lb")
    with desired.refuses(Unprocessable, "/vip/ip_address"):
        desired.post("loadbalancers", {"id": "lb3", "vip": vip, "vip_address": "192.0.2.2"})
    with desired.refuses(Unprocessable, "/vip/ip_address"):
        desired.post("loadbalancers", {"id": "lb3", "vip": {"ip_address": "192.0.2"}})
    with desired.refuses(Unprocessable, "/vip"):
        desired.post("loadbalancers", {"id": "lb3", "vip": "192.0.2.1"})


def test_a_null_address_inside_vip_is_the_default_too(desired: Desired) -> None:
    desired.post("loadbalancers", {"id": "lb", "vip_address": "192.0.2.1"})

    desired.put("loadbalancers", "lb", {"vip": {"ip_address": None}})

    assert desired.get("loadbalancers", "lb")["vip_address"] is None


@pytest.mark.parametrize("kind", BODIES)
def test_what_lbaas_sends_and_means_nothing_is_accepted_on_every_kind(
    web: Desired, kind: str
) -> None:
    meaningless = {
        "project_id": "p",
        "tenant_id": "p",
        "subnet_id": "s",
        "port_id": "p",
        "tags": ["a"],
        "created_at": "2018-01-01T00:00:00",
        "updated_at": None,
        "provisioning_status": "ACTIVE",
        "operating_status": "ONLINE",
        "vip": {"subnet_id": "s"},
    }

    folded = web.post(kind, BODIES[kind] | meaningless, parent_of(kind))

    assert (folded.status, folded.warnings) == (201, ())
    kept = web.get(kind, folded.subject.id, parent_of(kind)).keys() & meaningless.keys()
    assert kept <= {"project_id"}


@pytest.mark.parametrize("kind", BODIES)
def test_members_nobody_knows_are_each_named(web: Desired, kind: str) -> None:
    unknown = {"colour": "red", "a/b~c": 1, "is_brought": True, "backend": "b"}

    with web.refuses(Unprocessable, "/colour", "/a~1b~0c", "/is_brought", "/backend"):
        web.post(kind, BODIES[kind] | unknown, parent_of(kind))


@pytest.mark.parametrize("kind", BODIES)
def test_members_nobody_knows_are_warnings_where_the_settings_say_so(
    web: Desired, kind: str
) -> None:
    web.unknown_members = "warn"

    folded = web.post(kind, BODIES[kind] | {"colour": "red", "size": 3}, parent_of(kind))

    assert folded.status == 201
    assert [warning.split(" ")[0] for warning in folded.warnings] == ["colour", "size"]


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("pools", POOL | {"session_persistence": {"type": "SOURCE_IP", "colour": "red"}}),
        ("members", MEMBER | {"healthmonitor": CHECK | {"colour": "red"}}),
        ("healthmonitors", {"id": "po", "healthmonitor": CHECK | {"colour": "red"}}),
    ],
)
def test_that_is_so_inside_a_member_too(web: Desired, kind: str, body: dict[str, Any]) -> None:
    inside = next(name for name, value in body.items() if isinstance(value, dict))

    with web.refuses(Unprocessable, f"/{inside}/colour"):
        web.post(kind, body, parent_of(kind))
    web.unknown_members = "warn"
    folded = web.post(kind, body, parent_of(kind))

    assert len(folded.warnings) == 1


@pytest.mark.parametrize(
    ("kind", "body", "pointers"),
    [
        ("loadbalancers", {}, ["/id"]),
        ("listeners", {}, ["/id", "/protocol", "/protocol_port"]),
        ("pools", {}, ["/id", "/protocol", "/lb_algorithm"]),
        ("members", {}, ["/id", "/address", "/protocol_port"]),
        ("healthmonitors", {}, ["/pool_id", "/type", "/delay", "/timeout"]),
        (
            "healthmonitors",
            {"healthmonitor": {}},
            ["/pool_id", "/healthmonitor/type", "/healthmonitor/delay", "/healthmonitor/timeout"],
        ),
    ],
)
def test_every_missing_member_is_named_at_its_own_place(
    web: Desired, kind: str, body: dict[str, Any], pointers: list[str]
) -> None:
    with web.refuses(Unprocessable, *pointers) as caught:
        web.post(kind, body, parent_of(kind))

    assert {fault.detail for fault in caught.value.faults} == {"is required"}


@pytest.mark.parametrize(
    ("kind", "body", "pointers"),
    [
        (
            "listeners",
            {"id": "-", "protocol": "UDP", "protocol_port": 0, "name": "\n", "colour": "red"},
            ["/id", "/protocol", "/protocol_port", "/name", "/colour"],
        ),
        (
            "listeners",
            LISTENER | {"loadbalancer_id": "nobody", "protocol_port": 0},
            ["/loadbalancer_id", "/protocol_port"],
        ),
        (
            "listeners",
            LISTENER | {"connection_limit": 0, "protocol_port": 0},
            ["/connection_limit", "/protocol_port"],
        ),
        (
            "listeners",
            LISTENER | {"protocol_mode": "TCP", "protocol_port": 0},
            ["/protocol_mode", "/protocol_port"],
        ),
        (
            "listeners",
            LISTENER | {"sni_containers": ["ok", 1, "\x00"]},
            ["/sni_containers/1", "/sni_containers/2"],
        ),
        (
            "pools",
            POOL | {"stick_size": "1k", "lb_algorithm": "FASTEST"},
            ["/stick_expire", "/lb_algorithm"],
        ),
        (
            "pools",
            POOL | {"session_persistence": {"type": "COOKIE", "cookie_name": "a b"}},
            ["/session_persistence/type", "/session_persistence/cookie_name"],
        ),
        (
            "pools",
            POOL | {"session_persistence": {"type": "APP_COOKIE"}, "listener_id": "nobody"},
            ["/session_persistence/cookie_name", "/listener_id"],
        ),
        (
            "members",
            MEMBER | {"weight": 257, "healthmonitor": CHECK | {"delay": 0}},
            ["/weight", "/healthmonitor/delay"],
        ),
        (
            "members",
            MEMBER | {"pool_id": "p2", "weight": -1},
            ["/pool_id", "/weight"],
        ),
        (
            "healthmonitors",
            MONITOR | {"pool_id": "nobody", "type": "PING"},
            ["/pool_id", "/type"],
        ),
    ],
)
def test_all_faults_of_a_document_come_at_once(
    web: Desired, kind: str, body: dict[str, Any], pointers: list[str]
) -> None:
    with web.refuses(Unprocessable, *pointers):
        web.post(kind, body, parent_of(kind))


def test_a_fault_outranks_a_conflict_and_both_are_named(web: Desired) -> None:
    clash = LISTENER | {"protocol_port": 80, "protocol_mode": "TCP"}

    with web.refuses(Unprocessable, "/protocol_port", "/protocol_mode"):
        web.post("listeners", clash)


@pytest.mark.parametrize(
    ("kind", "body", "words"),
    [
        ("healthmonitors", MONITOR | {"type": "PING"}, "PING cannot be done by HAProxy"),
        ("listeners", LISTENER | {"protocol": "TERMINATED_HTTPS"}, "needs certificates"),
        ("listeners", LISTENER | {"protocol": "UDP"}, "UDP cannot be balanced by HAProxy"),
        ("listeners", LISTENER | {"protocol": "SCTP"}, "SCTP cannot be balanced by HAProxy"),
        ("pools", POOL | {"protocol": "PROXY"}, "must be 'HTTP', 'HTTPS' or 'TCP'"),
    ],
)
def test_what_is_not_supported_is_refused_with_the_reason(
    web: Desired, kind: str, body: dict[str, Any], words: str
) -> None:
    with pytest.raises(Unprocessable, match=words):
        web.post(kind, body, parent_of(kind))


@pytest.mark.parametrize(
    ("kind", "protocol", "mode"),
    [
        ("listeners", "HTTP", "terminated_https"),
        ("listeners", "HTTPS", "Tcp"),
        ("pools", "HTTP", "http"),
        ("pools", "TCP", "HTTPS"),
    ],
)
def test_a_protocol_mode_of_the_same_mode_is_kept_as_it_was_sent(
    desired: Desired, kind: str, protocol: str, mode: str
) -> None:
    body = BODIES[kind] | {"protocol": protocol, "protocol_mode": mode, "vip_address": "192.0.2.1"}
    if kind == "pools":
        del body["vip_address"]

    desired.post(kind, body)

    assert desired.get(kind, body["id"])["protocol_mode"] == mode


@pytest.mark.parametrize(
    ("protocol", "mode"),
    [
        ("HTTP", "tcp"),
        ("HTTP", "HTTPS"),
        ("TCP", "Terminated_HTTPS"),
        ("HTTP", "UDP"),
        ("HTTP", ""),
        ("HTTP", "HTTP "),
        ("HTTPS", "HTTP\u017f"),  # its upper case is HTTPS
    ],
)
def test_another_protocol_mode_is_a_fault(web: Desired, protocol: str, mode: str) -> None:
    with web.refuses(Unprocessable, "/protocol_mode"):
        web.post("listeners", LISTENER | {"protocol": protocol, "protocol_mode": mode})


def test_an_empty_persistence_is_none(desired: Desired) -> None:
    empty: dict[str, Any] = POOL | {"session_persistence": {}}
    desired.post("pools", empty)
    before = desired.get("pools", "p2")["session_persistence"]

    desired.put("pools", "p2", {"session_persistence": {"type": "SOURCE_IP"}})
    repeated = desired.post("pools", empty)

    assert before is None
    assert (repeated.status, repeated.changes) == (200, ())


@pytest.mark.parametrize("limit", [-1, 1, "12000", 2_147_483_647])
def test_a_connection_limit_is_none_or_a_number(web: Desired, limit: int | str) -> None:
    web.post("listeners", LISTENER | {"connection_limit": limit})

    assert web.get("listeners", "l2")["connection_limit"] == int(limit)


@pytest.mark.parametrize("limit", [0, "0", -2, 2_147_483_648, "", True])
def test_a_connection_limit_is_nothing_else(web: Desired, limit: int | str) -> None:
    with web.refuses(Unprocessable, "/connection_limit"):
        web.post("listeners", LISTENER | {"connection_limit": limit})


def test_the_stick_members_come_together(web: Desired) -> None:
    with web.refuses(Unprocessable, "/stick_expire"):
        web.post("pools", POOL | {"stick_size": "1k"})
    with web.refuses(Unprocessable, "/stick_size"):
        web.post("pools", POOL | {"stick_expire": "1d", "stick_size": None})
    both = web.post("pools", POOL | {"stick_size": "1k", "stick_expire": "1d"})

    assert both.status == 201


def test_free_text_comes_back_unchanged(web: Desired) -> None:
    text = "a \"quoted\" 'name' # with $HOME \\ é 漢字 🙂"

    web.put("listeners", "li", {"name": text, "description": "x" * 255})

    assert web.get("listeners", "li")["name"] == text
    with web.refuses(Unprocessable, "/description"):
        web.put("listeners", "li", {"description": "x" * 256})


def test_the_bodies_of_the_octavia_driver_are_accepted(desired: Desired) -> None:
    statuses = [
        desired.post(
            "loadbalancers",
            {
                "id": "lb",
                "name": "n",
                "description": "",
                "enabled": True,
                "project_id": "p",
                "vip": {"subnet_id": "s", "ip_address": "192.0.2.1", "port_id": "v"},
            },
        ).status,
        desired.post(
            "listeners",
            {
                "id": "li",
                "name": "n",
                "description": "",
                "enabled": True,
                "protocol": "HTTP",
                "protocol_port": 80,
                "connection_limit": -1,
                "tls_certificate_id": None,
                "default_pool_id": None,
                "sni_containers": [],
                "project_id": "p",
            },
        ).status,
        desired.post(
            "pools",
            POOL
            | {
                "enabled": True,
                "session_persistence": {"type": "HTTP_COOKIE", "cookie_name": None},
                "project_id": "p",
                "listener_id": "li",
            },
        ).status,
        desired.post(
            "members",
            {
                "id": "m",
                "enabled": True,
                "protocol_port": 80,
                "weight": 1,
                "ip_address": "192.0.2.7",
                "subnet_id": "s",
                "project_id": "p",
            },
            "p2",
        ).status,
        desired.post(
            "healthmonitors",
            {
                "pool_id": "p2",
                "type": "HTTP",
                "delay": 3,
                "timeout": 2,
                "rise_threshold": 2,
                "fall_threshold": 2,
                "http_method": "GET",
                "url_path": "/",
                "expected_codes": "200",
                "enabled": True,
                "project_id": "p",
            },
        ).status,
        desired.put(
            "members", "m", {"enabled": True, "protocol_port": 80, "weight": 0}, "p2"
        ).status,
        desired.put("pools", "p2", {"enabled": True, "session_persistence": None}).status,
    ]

    assert statuses == [201, 201, 201, 201, 201, 200, 200]
