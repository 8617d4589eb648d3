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

from kinx_loadbalancer_agent.engine.ports import Part
from kinx_loadbalancer_agent.errors import CannotBind, CheckRefused, Fault
from kinx_loadbalancer_agent.model.rules import endpoint
from kinx_loadbalancer_agent.settings import HaproxySettings
from kinx_loadbalancer_agent.system import process, sockets
from kinx_loadbalancer_agent.system.clock import Deadline

Endpoint = sockets.Endpoint

ALERT = re.compile(r"\[ALERT\]\s+\(\d+\) : (?:config : )?(.*)")
PARSING = re.compile(r"[Pp]arsing \[(?P<file>[^\]]+):\d+\]")
WILDCARDS = ("0.0.0.0", "::")
SUMMARIES = ("Error(s) found in", "Fatal errors found")


def configuration(settings: HaproxySettings, staged: Path, deadline: Deadline) -> None:
    """Ask HAProxy to check the fragments in *staged*, and the operator's own file after them.

    Raises CheckRefused with HAProxy's words and the fragments they name.
    """
    extra = settings.extra_config
    argv = [settings.program, "-c", "-f", str(staged), *(("-f", str(extra)) if extra else ())]
    ended = process.run(argv, deadline.remaining())
    if ended.returncode == 0:
        return
    alerts = [match[1] for line in ended.stderr.splitlines() if (match := ALERT.match(line))]
    words = [alert for alert in alerts if not alert.startswith(SUMMARIES)] or alerts
    named = [Path(match["file"]) for word in words if (match := PARSING.search(word))]
    fragments = frozenset(file.name for file in named if file.parent == staged)
    text = "; ".join(words).replace(f"{staged}{os.sep}", "") or ended.stderr.strip()[-500:]
    raise CheckRefused(text or f"exit status {ended.returncode}", fragments)


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
    held_ports = {port for _, port in held}
    reasons, waiting = {}, []
    for name, part in parts.items():
        if part.bind is None or part.bind in held:
            continue
        address, port = part.bind
        pointer, why = part.bind_at[1], ""
        if address in WILDCARDS or sockets.is_local(address):
            error = sockets.bind_error(part.bind)
            if error and error.errno == errno.EADDRINUSE and port in held_ports:
                # Our own worker may hold the port on another address that overlaps.
                error = sockets.bind_error(part.bind, share_port=True)
            why = os.strerror(error.errno or 0).lower() if error else ""
        elif not (is_trial and address in assigned):
            pointer, why = part.bind_at[0], "the address is not on this host"
            waiting += [name] if address in assigned else []
        if why:
            detail = f"cannot bind {endpoint(address, port)}: {why}"
            reasons[name] = Fault(pointer, detail, is_conflict=True)
    if reasons:
        raise CannotBind(reasons, frozenset(waiting))
