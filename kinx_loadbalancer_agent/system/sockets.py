"""Ask a Unix socket, try a TCP address, list what listens. Nothing else opens a socket."""

import contextlib
import socket
import struct
import time
from collections import Counter
from collections.abc import Collection, Iterable
from pathlib import Path

import psutil
from netaddr import IPAddress

from kinx_loadbalancer_agent.errors import NotProven, TimedOut, Unreachable
from kinx_loadbalancer_agent.system import effects

Endpoint = tuple[str, int]

NETLINK_ROUTE, NLM_F_REQUEST, RTM_NEWROUTE, RTM_GETROUTE = 0, 1, 24, 26  # linux/rtnetlink.h
RTA_DST, RTN_LOCAL = 1, 2
KERNEL_SECONDS = 1.0

MAX_ANSWER = 256 * 1024 * 1024
LISTEN = "0A"  # include/net/tcp_states.h


def ask(path: Path, command: str, timeout_seconds: float, *, effect: str | None = None) -> str:
    """Send *command* to the Unix socket *path* and return the whole answer.

    effect: the name of the step when the command changes something.
    The sending side is closed after the command: HAProxy's master CLI keeps the connection open
    for ever otherwise (measured on 2.6.12).
    Raises Unreachable if nobody listens or the peer hangs up, TimedOut after *timeout_seconds*.
    """
    step = effects.step(effect) if effect else contextlib.nullcontext()
    with step, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
        limit = time.monotonic() + timeout_seconds
        peer.settimeout(timeout_seconds)
        try:
            peer.connect(str(path))
            peer.sendall(command.encode() + b"\n")
            peer.shutdown(socket.SHUT_WR)
            answer = bytearray()
            while block := peer.recv(65536):
                answer += block
                if len(answer) > MAX_ANSWER:
                    raise Unreachable(str(path), f"its answer is above {MAX_ANSWER} bytes")
                peer.settimeout(max(0.001, limit - time.monotonic()))
        except (TimeoutError, BlockingIOError) as error:  # the latter: its backlog is full
            raise TimedOut(str(path), timeout_seconds) from error
        except OSError as error:
            raise Unreachable(str(path), error.strerror or str(error)) from error
    return answer.decode(errors="replace")


def bind_error(endpoint: Endpoint, *, share_port: bool = False) -> OSError | None:
    """Return what keeps this process from binding *endpoint*, None when nothing does.

    share_port: True tries with SO_REUSEPORT, the way a new HAProxy worker binds beside the old.
    Nothing listens meanwhile, so no client ever connects to the attempt.
    """
    address, port = endpoint
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as attempt:
            attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if share_port:
                attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            attempt.bind((address, port))
    except OSError as error:
        return error
    return None


def listening() -> Counter[Endpoint]:
    """Return how many sockets LISTEN on each address and port of this network namespace.

    The kernel lists listening sockets before all others, so that a look costs the same on a node
    with a hundred thousand connections. Source: proc(5), /proc/net/tcp and /proc/net/tcp6;
    addresses are in host byte order.
    """
    found: Counter[Endpoint] = Counter()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(FileNotFoundError), open(table) as lines:  # no IPv6 in the kernel
            next(lines)
            for line in lines:
                _, local, _, state, _ = line.split(maxsplit=4)
                if state != LISTEN:
                    break
                address, port = local.split(":")
                found[_address(address), int(port, 16)] += 1
    return found


def not_local(addresses: Collection[str]) -> list[str]:
    """Return those of *addresses* that the kernel does not take for its own, sorted.

    Those of interfaces are read at once: a question for each of 1000 costs 19 ms.
    """
    found = psutil.net_if_addrs() if addresses else {}
    present = {one.address for several in found.values() for one in several}
    return sorted(one for one in set(addresses) - present if not is_local(one))


def is_local(address: str) -> bool:
    """True when the kernel's routing table takes *address* for one of its own (rtnetlink(7))."""
    packed = IPAddress(address).packed
    family = socket.AF_INET if len(packed) == 4 else socket.AF_INET6
    route = struct.pack("=8BI", family, 8 * len(packed), 0, 0, 0, 0, 0, 0, 0)
    attribute = struct.pack("=HH", 4 + len(packed), RTA_DST) + packed
    length = 16 + len(route) + len(attribute)
    header = struct.pack("=IHHII", length, RTM_GETROUTE, NLM_F_REQUEST, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_ROUTE) as kernel:
        kernel.settimeout(KERNEL_SECONDS)
        kernel.send(header + route + attribute)
        answer = kernel.recv(65536)
    (kind,) = struct.unpack_from("=H", answer, 4)
    return kind == RTM_NEWROUTE and answer[16 + 7] == RTN_LOCAL


def is_unix(connection: socket.socket) -> bool:
    """True when *connection* came through a Unix socket."""
    return connection.family == socket.AF_UNIX


def limit_reads(connection: socket.socket, seconds: float) -> None:
    """Make the kernel end every read of *connection* after *seconds*, blocking or not.

    Source: socket(7), SO_RCVTIMEO; unlike a timeout of Python's it survives ``setblocking``.
    """
    whole = int(seconds)
    value = struct.pack("@ll", whole, int(1_000_000 * (seconds - whole)))
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, value)


def held_by(pids: Iterable[int]) -> frozenset[Endpoint]:
    """Return the addresses and ports that *pids* listen on; one that has ended has none.

    Raises NotProven if that is not for us to see: "nothing" would be a lie.
    """
    found = []
    for pid in pids:
        try:
            found += psutil.Process(pid).net_connections(kind="tcp")
        except psutil.NoSuchProcess:
            continue
        except psutil.AccessDenied as error:
            words = "what it listens on cannot be seen without CAP_SYS_PTRACE"
            raise NotProven(f"process {pid}: {words}") from error
    listens = (one.laddr for one in found if one.status == psutil.CONN_LISTEN)
    return frozenset((str(IPAddress(at.ip)), at.port) for at in listens)


def _address(digits: str) -> str:
    words = [bytes.fromhex(digits[at : at + 8])[::-1] for at in range(0, len(digits), 8)]
    return socket.inet_ntop(socket.AF_INET if len(words) == 1 else socket.AF_INET6, b"".join(words))
