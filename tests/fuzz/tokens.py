"""What HAProxy reads of a configuration, and what the fields of the resources say it should read.

The first follows the configuration manual, the second the contract; neither looks at a template.
"""

from collections.abc import Iterator, Mapping

from tests.fuzz.strategies import Body
from tests.unit.desired import Desired

PEERS = "kinx_loadbalancer_peers"
SECTIONS = ("global", "defaults", "frontend", "backend", "peers")
Words = list[str]
Section = tuple[str, ...]


def words(line: str) -> Words:
    """Return the words of *line* as HAProxy reads it (2.6 configuration manual, 2.2)."""
    found: list[str] = []
    word: str | None = None
    quote, rest = "", iter(line)
    for character in rest:
        if quote == "'" or (quote and character not in '"\\'):
            assert character != "$" or quote == "'", "an environment variable"
            if character == quote:
                quote = ""
            else:
                word = (word or "") + character
        elif character == quote:
            quote = ""
        elif character == "\\":
            escaped = next(rest)
            if escaped == "x":
                escaped = chr(int(next(rest) + next(rest), 16))
            else:
                escaped = {"n": "\n", "r": "\r", "t": "\t"}.get(escaped, escaped)
            word = (word or "") + escaped
        elif character in "'\"":
            quote, word = character, word or ""
        elif character == "#":
            break
        elif character in " \t":
            found += [] if word is None else [word]
            word = None
        else:
            word = (word or "") + character
    assert not quote, "a quote that does not end"
    return found + ([] if word is None else [word])


def sections(files: Mapping[str, bytes]) -> dict[Section, list[Words]]:
    """Return the directives of each section, by the words of its first line."""
    found: dict[Section, list[Words]] = {}
    for content in files.values():
        for line in content.decode().split("\n"):
            read = words(line)
            if read and read[0] in SECTIONS:
                assert tuple(read) not in found
                directives = found[tuple(read)] = []
            elif read:
                directives.append(read)
    return found


def said(desired: Desired, local_peer: str) -> Iterator[tuple[Section, list[Words]]]:
    """Yield the sections that the resources ask for, as the contract has it."""
    owners, listeners, pools, monitors, peers = (
        {id: desired.get(kind, id) for id in desired.ids(kind)}
        for kind in ("loadbalancers", "listeners", "pools", "healthmonitors", "peers")
    )
    if local_peer:
        lines = [
            ["peer", one["hostname"], at(one["address"], one["port"])] for one in peers.values()
        ]
        yield ("peers", PEERS), lines
    for listener in listeners.values():
        owner = owners.get(listener["loadbalancer_id"])
        if listener["enabled"] and (owner is None or owner["enabled"]):
            pool = pool_of(listener, pools)
            name = desired.backend(pool["id"]) if pool and pool["enabled"] else ""
            yield (
                ("frontend", listener["id"]),
                frontend(listener, address_of(listener, owners), name),
            )
    for pool in pools.values():
        if pool["enabled"]:
            near = [
                one
                for one in listeners.values()
                if pool["id"] == one["default_pool_id"] or one["id"] == pool["listener_id"]
            ]
            has_ipv6 = any(":" in address_of(one, owners) for one in near)
            monitor = monitors.get(pool["id"])
            checked = monitor if monitor and monitor["enabled"] else None
            ids = sorted(desired.state.table("members", pool["id"]))
            servers = [server(pool, checked, desired.get("members", id, pool["id"])) for id in ids]
            # One that is switched off and on again needs no reload: only servers are not checked.
            directives = backend(pool, monitor, has_ipv6, local_peer)
            yield ("backend", desired.backend(pool["id"])), directives + servers


def frontend(listener: Body, address: str, default_backend: str) -> list[Words]:
    """Return the directives of a frontend (CONTRACT, section 3)."""
    is_http = listener["protocol"] == "HTTP"
    limit = listener["connection_limit"]
    return [
        ["option", "httplog" if is_http else "tcplog"],
        ["maxconn", str(12000 if limit == -1 else limit)],
        ["bind", at(address, listener["protocol_port"])],
        ["mode", "http" if is_http else "tcp"],
        ["option", "contstats"],
        *([["option", "idle-close-on-response"], ["timeout", "http-keep-alive", "10s"]] * is_http),
        *([["default_backend", default_backend]] if default_backend else []),
    ]


def backend(pool: Body, monitor: Body | None, has_ipv6: bool, local_peer: str) -> list[Words]:
    """Return the directives of a backend but its servers (CONTRACT, sections 2 and 3)."""
    is_http = pool["protocol"] == "HTTP"
    persistence = pool["session_persistence"] or {"type": None}
    size, expire = pool["stick_size"] or "200k", pool["stick_expire"] or "1d"
    table = ["size", size, "expire", expire, *(["peers", PEERS] if local_peer else [])]
    balance = {"SOURCE_IP": "source", "LEAST_CONNECTIONS": "leastconn"}
    found = [
        ["mode", "http" if is_http else "tcp"],
        ["balance", balance.get(pool["lb_algorithm"], "roundrobin")],
    ]
    if pool["lb_algorithm"] == "SOURCE_IP":
        found += [["hash-type", "consistent"]]
    if persistence["type"] == "HTTP_COOKIE":
        found += [["cookie", "SRV", "insert", "indirect", "nocache"]]
    elif persistence["type"] == "APP_COOKIE":
        found += [
            ["stick-table", "type", "string", "len", "64", *table],
            ["stick", "store-response", f"res.cook({persistence['cookie_name']})"],
            ["stick", "match", f"req.cook({persistence['cookie_name']})"],
        ]
    elif persistence["type"] or pool["stick_size"]:
        type_ = "ipv6" if has_ipv6 else "ip"
        found += [["stick-table", "type", type_, *table], ["stick", "on", "src"]]
    if monitor:
        found += [["timeout", "check", f"{monitor['timeout']}s"]]
        if monitor["type"] in ("HTTP", "HTTPS"):
            found += [
                ["option", "httpchk", monitor["http_method"], monitor["url_path"]],
                ["http-check", "expect", "status", monitor["expected_codes"]],
            ]
        if monitor["type"] == "TLS-HELLO":
            found += [["option", "ssl-hello-chk"]]
    return found + [["option", "forwardfor"]] * is_http


def server(pool: Body, monitor: Body | None, member: Body) -> Words:
    """Return the line of a server."""
    found = ["server", member["id"], at(member["address"], member["protocol_port"])]
    found += ["weight", str(member["weight"])]
    if (pool["session_persistence"] or {}).get("type") == "HTTP_COOKIE":
        found += ["cookie", member["id"]]
    if monitor:
        found += ["check", "inter", f"{monitor['delay']}s"]
        found += ["fall", str(monitor["max_retries_down"]), "rise", str(monitor["max_retries"])]
        found += ["check-ssl", "verify", "none"] * (monitor["type"] == "HTTPS")
        address, port = member["monitor_address"], member["monitor_port"]
        found += ["addr", f"[{address}]" if ":" in address else address] if address else []
        found += ["port", str(port)] if port else []
    return found + ["backup"] * member["backup"] + ["disabled"] * (not member["enabled"])


def at(address: str, port: int) -> str:
    """Return an address and port as HAProxy wants them."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def address_of(listener: Body, owners: Mapping[str, Body]) -> str:
    """Return where *listener* listens."""
    own = listener["vip_address"]
    return str(own or owners[listener["loadbalancer_id"]]["vip_address"])


def pool_of(listener: Body, pools: Mapping[str, Body]) -> Body | None:
    """Return the pool that *listener* names, else the one that names it."""
    if listener["default_pool_id"] is not None:
        return pools.get(listener["default_pool_id"])
    return next((one for one in pools.values() if one["listener_id"] == listener["id"]), None)
