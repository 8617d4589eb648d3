"""What can be proven of a configuration before HAProxy is touched.

``haproxy -c`` on the staged directory, and for each new address and port whether it is of this
host and free: 2.6 accepts an address it cannot bind in ``-c``, and in a reload stops serving every
listener for two seconds over it (measured).
"""

import errno
import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path

from netaddr import IPAddress

from kinx_loadbalancer_agent.engine.ports import Part
from kinx_loadbalancer_agent.errors import CannotBind, CheckRefused, Fault
from kinx_loadbalancer_agent.model.rules import endpoint
from kinx_loadbalancer_agent.system import process, sockets
from kinx_loadbalancer_agent.system.clock import Deadline

Endpoint = sockets.Endpoint

ALERT = re.compile(r"\[ALERT\]\s+\(\d+\) : (?:config : )?(.*)")
PARSING = re.compile(r"[Pp]arsing \[(?P<file>[^\]]+):\d+\]")
SUMMARIES = ("Error(s) found in", "Fatal errors found")


def configuration(program: str, staged: Path, extra: Path | None, deadline: Deadline) -> None:
    """Ask HAProxy to check the fragments in *staged*, and *extra* after them.

    Raises CheckRefused with HAProxy's words and the fragments they name.
    """
    argv = [program, "-c", "-f", str(staged), *(("-f", str(extra)) if extra else ())]
    ended = process.run(argv, deadline.remaining())
    if ended.status == 0:
        return
    alerts = [match[1] for line in ended.stderr.splitlines() if (match := ALERT.match(line))]
    words = [alert for alert in alerts if not alert.startswith(SUMMARIES)] or alerts
    named = [Path(match["file"]) for word in words if (match := PARSING.search(word))]
    fragments = frozenset(file.name for file in named if file.parent == staged)
    text = "; ".join(words).replace(f"{staged}{os.sep}", "") or ended.stderr.strip()[-500:]
    raise CheckRefused(text or f"exit status {ended.status}", fragments)


def addresses(
    parts: Mapping[str, Part],
    held: Collection[Endpoint],
    assigned: Collection[str] = (),
    *,
    is_trial: bool = False,
) -> None:
    """Prove that HAProxy can bind what *parts* ask for, beside *held*, which it has bound.

    assigned: addresses that this node assigns; in a trial they count as being there.
    Raises CannotBind with every one that it could not.
    """
    new = {name: part for name, part in parts.items() if part.bind and part.bind not in held}
    held_ports = {port for _, port in held}
    reasons, waiting = {}, []
    for name, part in new.items():
        assert part.bind is not None
        address, port = part.bind
        at_address, at_port = part.bind_at
        where = endpoint(address, port)
        if not _is_wildcard(address) and not sockets.is_local(address):
            if address in assigned and is_trial:
                continue
            waiting += [name] if address in assigned else []
            detail = f"cannot bind {where}: the address is not on this host"
            reasons[name] = Fault(at_address, detail, is_conflict=True)
            continue
        error = sockets.bind_error((address, port))
        if error and error.errno == errno.EADDRINUSE and port in held_ports:
            # Our own worker may hold the port on another address that overlaps.
            error = sockets.bind_error((address, port), share_port=True)
        if error:
            detail = f"cannot bind {where}: {os.strerror(error.errno or 0).lower()}"
            reasons[name] = Fault(at_port, detail, is_conflict=True)
    if reasons:
        raise CannotBind(reasons, frozenset(waiting))


def _is_wildcard(address: str) -> bool:
    return int(IPAddress(address)) == 0
