"""The resources of the contract as frozen values, each with the rules that need no other resource.

What a rule needs of other resources is in ``rules``; what the wire writes differently is in
``api.documents``. This module must never read anything but its own fields.
"""

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple

from netaddr import IPAddress
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from kinx_loadbalancer_agent.errors import Fault
from kinx_loadbalancer_agent.model.types import (
    Address,
    AsNumber,
    BackendName,
    CookieName,
    Flag,
    HostAddress,
    HostName,
    Integer,
    Port,
    RouterId,
    Schedule,
    StatusCodes,
    StickExpire,
    StickSize,
    String,
    Text,
    Token,
    UrlPath,
    Weight,
    fault,
)

if TYPE_CHECKING:
    from kinx_loadbalancer_agent.model.state import State

Mode = Literal["http", "tcp"]
MODES: dict[str, Mode] = {"HTTP": "http", "TERMINATED_HTTPS": "http", "TCP": "tcp", "HTTPS": "tcp"}


class Ref(NamedTuple):
    """The identity of a resource: its kind, the id of its parent ('' without one) and its own."""

    kind: str
    parent: str
    id: str

    def __str__(self) -> str:
        if self.id == self.kind:  # there is one at most
            return self.kind
        return f"{self.kind.removesuffix('s')} {self.id}".rstrip()


class Value(BaseModel):
    """Base of what is inside a resource."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def amended(self, said: Mapping[str, Any]) -> dict[str, Any]:
        """Return the fields of this value with those that are *said* in their place."""
        return {**self.model_dump(), **said}


class Resource(Value):
    """Base of the resources."""

    kind: ClassVar[str]
    id_field: ClassVar[str] = "id"
    """The field that identifies it; '' where there is one at most: the kind's name does."""
    parent_field: ClassVar[str | None] = None
    private: ClassVar[frozenset[str]] = frozenset()
    """Stored, never published, never taken from a caller."""
    carried: ClassVar[frozenset[str]] = frozenset()
    """Published, but no part of the resource's own content: not compared, not in the ETag."""
    derived: ClassVar[frozenset[str]] = frozenset()
    """Published, kept nowhere: what a caller says of them means nothing."""

    @property
    def ref(self) -> Ref:
        """The identity of this resource."""
        parent = getattr(self, self.parent_field) if self.parent_field else ""
        id = getattr(self, self.id_field) if self.id_field else self.kind
        return Ref(self.kind, parent, id)

    def published(self, state: "State") -> dict[str, Any]:
        """Return the members that callers see, what is derived from *state* included."""
        return self.model_dump(exclude=set(self.private))

    @classmethod
    def faults(cls, values: Mapping[str, Any]) -> Iterator[Fault]:
        """Yield what is wrong between fields of *values*; a field that is not there has no say."""
        yield from ()

    def warnings(self) -> Iterator[str]:
        """Yield what is allowed and probably not meant."""
        yield from ()

    @property
    def gives_way(self) -> bool:
        """True when a POST of other content replaces this resource instead of conflicting."""
        return False


def _listener_protocol(value: Any) -> Any:
    reasons = {
        "TERMINATED_HTTPS": "TERMINATED_HTTPS needs certificates, which this agent cannot keep",
        "UDP": "UDP cannot be balanced by HAProxy",
        "SCTP": "SCTP cannot be balanced by HAProxy",
    }
    if isinstance(value, str) and value in reasons:
        raise fault(reasons[value])
    return value


def _protocol_name(value: str) -> str:
    if not value.isascii() or value.upper() not in MODES:
        raise fault("must be HTTP, HTTPS, TCP or TERMINATED_HTTPS, in any case")
    return value


def _connection_limit(value: int) -> int:
    if value == 0:
        raise fault("must be -1, or 1 to 2147483647")
    return value


def _monitor_type(value: Any) -> Any:
    if value == "PING":
        raise fault("PING cannot be done by HAProxy: it checks a TCP port, not the host")
    return value


def _nothing(value: Any) -> Any:
    return None if value == {} else value


ProtocolName = Annotated[String, Field(max_length=16), AfterValidator(_protocol_name)]
ListenerProtocol = Annotated[Literal["HTTP", "TCP", "HTTPS"], BeforeValidator(_listener_protocol)]
PoolProtocol = Literal["HTTP", "HTTPS", "TCP"]
Algorithm = Literal["ROUND_ROBIN", "LEAST_CONNECTIONS", "SOURCE_IP"]
PersistenceType = Literal["SOURCE_IP", "HTTP_COOKIE", "APP_COOKIE"]
MonitorType = Annotated[
    Literal["HTTP", "HTTPS", "TCP", "TLS-HELLO"], BeforeValidator(_monitor_type)
]
Method = Literal["GET", "HEAD", "POST", "PUT", "DELETE", "TRACE", "OPTIONS", "PATCH"]
ConnectionLimit = Annotated[
    Integer, Field(ge=-1, le=2_147_483_647), AfterValidator(_connection_limit)
]
Seconds = Annotated[Integer, Field(ge=1, le=86400)]
Count = Annotated[Integer, Field(ge=1, le=10)]


class LoadBalancer(Resource):
    """What listeners and pools belong to: one address and one switch."""

    kind = "loadbalancers"

    id: Token = Field(description="Identity.")
    name: Text = Field("", description="Free text.")
    description: Text = Field("", description="Free text.")
    enabled: Flag = Field(True, description="False: none of its frontends is rendered.")
    project_id: Text | None = Field(None, description="Whose it is; not interpreted.")
    vip_address: Address | None = Field(None, description="Where its listeners listen.")


class Listener(Resource):
    """A ``frontend`` (HAProxy 2.6 configuration manual, 4)."""

    kind = "listeners"

    id: Token = Field(description="Identity, and the frontend's name.")
    loadbalancer_id: Token | None = Field(
        None, description="Its load balancer; absent: the only one there is, decided at the POST."
    )
    name: Text = Field("", description="Free text.")
    description: Text = Field("", description="Free text.")
    enabled: Flag = Field(True, description="False: not rendered.")
    protocol: ListenerProtocol = Field(description="HTTP: mode http; TCP and HTTPS: mode tcp.")
    protocol_port: Port = Field(description="TCP port of the bind line.")
    protocol_mode: ProtocolName | None = Field(
        None, description="A protocol of the same mode as protocol, in any case."
    )
    connection_limit: ConnectionLimit = Field(
        -1, description="Connections at once (4.2 maxconn); -1: the default of the settings."
    )
    default_pool_id: Token | None = Field(None, description="Its pool, which may come later.")
    vip_address: Address | None = Field(
        None, description="Where it listens; absent: where its load balancer does."
    )
    tls_certificate_id: Text | None = Field(None, description="Kept and returned, not used yet.")
    sni_containers: tuple[Text, ...] = Field((), description="Kept and returned, not used yet.")

    @property
    def mode(self) -> Mode:
        """HAProxy's mode for the protocol."""
        return MODES[self.protocol]

    @classmethod
    def faults(cls, values: Mapping[str, Any]) -> Iterator[Fault]:
        yield from _mode_faults(values)


class SessionPersistence(Value):
    """What keeps a client on one member."""

    type: PersistenceType = Field(description="By source address or by a cookie.")
    cookie_name: CookieName | None = Field(None, description="The application's cookie.")

    def amended(self, said: Mapping[str, Any]) -> dict[str, Any]:
        """Return both fields; another type does not keep the cookie of this one."""
        if said.get("type", self.type) != self.type:
            return dict(said)
        return super().amended(said)


class Pool(Resource):
    """A ``backend`` (HAProxy 2.6 configuration manual, 4)."""

    kind = "pools"
    private = frozenset({"backend"})

    id: Token = Field(description="Identity.")
    listener_id: Token | None = Field(
        None, description="The listener whose default pool this is, while that one names no other."
    )
    loadbalancer_id: Token | None = Field(
        None,
        description="Its load balancer; absent: its listener's, else the only one there is.",
    )
    name: Text = Field("", description="Free text.")
    description: Text = Field("", description="Free text.")
    enabled: Flag = Field(True, description="False: not rendered; its listeners answer 503.")
    protocol: PoolProtocol = Field(description="HTTP: mode http; TCP and HTTPS: mode tcp.")
    protocol_mode: ProtocolName | None = Field(
        None, description="A protocol of the same mode as protocol, in any case."
    )
    lb_algorithm: Algorithm = Field(description="How a member is chosen (4.2 balance).")
    stick_size: StickSize | None = Field(
        None, description="Entries of the stick table, with an optional unit k, m or g."
    )
    stick_expire: StickExpire | None = Field(
        None, description="How long an unused entry is kept, with a unit s, m, h or d."
    )
    session_persistence: Annotated[SessionPersistence | None, BeforeValidator(_nothing)] = Field(
        None, description="What keeps a client on one member; null: nothing."
    )
    backend: BackendName = Field(description="Its name in HAProxy, fixed when the pool is made.")

    @property
    def mode(self) -> Mode:
        """HAProxy's mode for the protocol."""
        return MODES[self.protocol]

    @classmethod
    def faults(cls, values: Mapping[str, Any]) -> Iterator[Fault]:
        yield from _mode_faults(values)
        given = [name for name in ("stick_size", "stick_expire") if values.get(name) is not None]
        if len(given) == 1:
            absent = "stick_size" if given == ["stick_expire"] else "stick_expire"
            yield Fault(f"/{absent}", "stick_size and stick_expire come together")
        persistence = values.get("session_persistence")
        if persistence is None:
            return
        if persistence.type != "SOURCE_IP" and MODES.get(values.get("protocol", "")) == "tcp":
            yield Fault("/session_persistence/type", "cookies need a pool of protocol HTTP")
        if persistence.type == "APP_COOKIE" and persistence.cookie_name is None:
            yield Fault("/session_persistence/cookie_name", "APP_COOKIE needs a cookie_name")

    def warnings(self) -> Iterator[str]:
        persistence = self.session_persistence
        if persistence and persistence.cookie_name and persistence.type != "APP_COOKIE":
            yield f"cookie_name is ignored: session persistence is {persistence.type}"


class HealthMonitor(Resource):
    """How the members of a pool are checked (HAProxy 2.6 configuration manual, 5.2 check)."""

    kind = "healthmonitors"
    id_field = "pool_id"
    private = frozenset({"is_brought"})
    derived = frozenset({"listener_id"})

    pool_id: Token = Field(description="The pool whose monitor this is, and its identity.")
    type: MonitorType = Field(description="What a check does.")
    delay: Seconds = Field(description="Seconds between two checks of a member (5.2 inter).")
    timeout: Seconds = Field(description="Seconds a check may take (4.2 timeout check).")
    max_retries: Count = Field(3, description="Good checks until a member is up (5.2 rise).")
    max_retries_down: Count = Field(3, description="Bad checks until it is down (5.2 fall).")
    http_method: Method = Field("GET", description="Method of an HTTP or HTTPS check.")
    url_path: UrlPath = Field("/", description="Path of an HTTP or HTTPS check.")
    expected_codes: StatusCodes = Field("200", description="Status codes of a good check.")
    enabled: Flag = Field(True, description="False: members are not checked.")
    is_brought: bool = Field(False, description="True while only members have brought it.")

    def published(self, state: "State") -> dict[str, Any]:
        pool = state.get(Ref("pools", "", self.pool_id))
        listener_id = pool.listener_id if isinstance(pool, Pool) else None
        return super().published(state) | {"listener_id": listener_id}

    def warnings(self) -> Iterator[str]:
        if self.timeout > self.delay:
            yield f"timeout ({self.timeout} s) is above delay ({self.delay} s): checks overlap"

    @property
    def gives_way(self) -> bool:
        return self.is_brought


class Member(Resource):
    """One server of a pool: a ``server`` line (HAProxy 2.6 configuration manual, 5.2)."""

    kind = "members"
    parent_field = "pool_id"
    carried = frozenset({"type", "cookie_name", "healthmonitor"})

    id: Token = Field(description="Identity in its pool, and the server's name in HAProxy.")
    pool_id: Token = Field(description="The pool that owns it; deleting the pool deletes it.")
    name: Text = Field("", description="Free text.")
    enabled: Flag = Field(True, description="False: in maintenance, gets no traffic.")
    address: HostAddress = Field(description="Where the server listens.")
    protocol_port: Port = Field(description="TCP port of the server.")
    weight: Weight = Field(1, description="Share of the load; 0 drains (5.2 weight).")
    backup: Flag = Field(False, description="Used only when no other member is up (5.2 backup).")
    monitor_address: HostAddress | None = Field(None, description="Checked instead (5.2 addr).")
    monitor_port: Port | None = Field(None, description="Checked instead (5.2 port).")
    project_id: Text | None = Field(None, description="Whose it is; not interpreted.")
    type: PersistenceType | None = Field(None, description="Persistence it carried last.")
    cookie_name: CookieName | None = Field(None, description="Cookie it carried last.")
    healthmonitor: dict[str, Any] | None = Field(None, description="Monitor it carried last.")


class Peer(Resource):
    """One of the nodes that share stick tables: a ``peer`` line (HAProxy 2.6, 3.5)."""

    kind = "peers"
    id_field = "hostname"

    hostname: Token = Field(description="Identity, and the peer's name in HAProxy.")
    address: HostAddress = Field(description="Where it listens for the others.")
    port: Port = Field(1024, description="TCP port it listens on.")


class Quagga(Resource):
    """The BGP speaker of this node and the routers it speaks to (RFC 4271)."""

    kind = "quagga"
    id_field = ""
    derived = frozenset({"vips", "sessions"})

    hostname: Token = Field(description="The speaker's name.")
    inter_as_number: AsNumber = Field(description="Our AS.")
    vm_addr: RouterId = Field(description="Our router id (RFC 6286).")
    primary_gateway_addr: HostAddress = Field(description="The first router.")
    secondary_gateway_addr: HostAddress | None = Field(None, description="The second router.")
    router_as_number: AsNumber = Field(description="The AS of the routers.")
    drain: Flag = Field(False, description="Announce nothing: clients go to the other nodes.")

    def published(self, state: "State") -> dict[str, Any]:
        vips = vip_addresses(state)
        shown: dict[str, Any] = {"vip_addr": vips[0] if vips else None}
        return super().published(state) | shown | {"vips": [{"address": vip} for vip in vips]}

    @classmethod
    def faults(cls, values: Mapping[str, Any]) -> Iterator[Fault]:
        names = ("vm_addr", "primary_gateway_addr", "secondary_gateway_addr")
        for at, name in enumerate(names):
            for other in names[:at]:
                if values.get(name) is not None and values[name] == values.get(other):
                    yield Fault(f"/{name}", f"is the same as {other}")

    def warnings(self) -> Iterator[str]:
        yield (
            "routers share traffic among nodes of different AS numbers only with "
            "bgp bestpath as-path multipath-relax"
        )


class Vip(Resource):
    """An address that the speaker announces while this node serves it."""

    kind = "vips"
    id_field = "vip_addr"
    parent_field = "speaker"
    private = frozenset({"speaker"})
    derived = frozenset({"assigned", "served", "announced", "since", "reason"})

    vip_addr: HostAddress = Field(description="Identity: the address, announced as a host route.")
    speaker: Literal["quagga"] = Field(description="The speaker; it takes its VIPs with it.")


class Crontab(Resource):
    """The line of root's crontab that has ``check_vlb`` report on this node (crontab(5))."""

    kind = "crontab"
    id_field = ""

    agent_addr: HostName = Field(description="Who collects the reports.")
    agent_port: Port = Field(description="TCP port of the collector.")
    tenant_id: Token = Field(description="Whose node it is; part of the report.")
    vm_id: Token = Field(description="Which node it is; part of the report's URL.")
    schedule: Schedule = Field("* * * * *", description="When: five fields of crontab(5).")


def vip_addresses(state: "State") -> list[str]:
    """Return the addresses of the speaker's VIPs, in the order of numbers."""
    return sorted((vip.ref.id for vip in state.all(Vip.kind)), key=_number)


@lru_cache(maxsize=10_000)
def _number(address: str) -> tuple[int, int]:
    found = IPAddress(address)
    return found.version, int(found)


def _mode_faults(values: Mapping[str, Any]) -> Iterator[Fault]:
    mode = MODES.get(values.get("protocol", ""))
    protocol_mode = values.get("protocol_mode")
    if mode is not None and protocol_mode is not None and MODES[protocol_mode.upper()] != mode:
        yield Fault("/protocol_mode", f"must mean mode {mode}, as protocol does")
