"""Who may do what: secrets by hash, roles, and patience with wrong guesses.

Every route but ``/healthz`` asks. This module must never keep or log a secret.
"""

import hashlib
import hmac
import secrets
import threading
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from flask import Flask, Response, g, request
from flask_httpauth import HTTPBasicAuth, HTTPTokenAuth
from netaddr import valid_ipv4, valid_ipv6

from kinx_loadbalancer_agent.api.problems import problem
from kinx_loadbalancer_agent.errors import Malformed, Unavailable
from kinx_loadbalancer_agent.system.clock import Clock

OPEN = frozenset({"/healthz"})
READING = frozenset({"GET", "HEAD", "OPTIONS"})
ROLES = ("read", "write")
MAX_WRONG = 10
WRONG_SECONDS = 60.0
SECRET_BYTES = 32
REALM = "kinx_loadbalancer_agent"


@dataclass(frozen=True)
class Credential:
    """A caller: the name, what it may do, the SHA-256 of its secret."""

    name: str
    role: str
    digest: str

    def __str__(self) -> str:
        return f"{self.name} {self.role} {self.digest}"


def digest(secret: str) -> str:
    """Return what is kept of *secret*, 256 random bits: no guess is faster than trying them."""
    return hashlib.sha256(secret.encode()).hexdigest()


def new_credential(name: str, role: str) -> tuple[Credential, str]:
    """Return a new credential, and its secret, which is kept nowhere."""
    secret = secrets.token_urlsafe(SECRET_BYTES)
    return Credential(name, role, digest(secret)), secret


def parse(text: str) -> tuple[Credential, ...]:
    """Return the credentials in *text*, one a line; a line that is none is passed over."""
    rows = (line.split() for line in text.splitlines())
    return tuple(Credential(*row) for row in rows if len(row) == 3 and row[1] in ROLES)


class Credentials:
    """The credentials in the file *path*, read again whenever it changes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[tuple[int, int, int], tuple[Credential, ...]] | None = None

    def all(self) -> tuple[Credential, ...]:
        """Return them; none where there is no file."""
        try:
            found = self._path.stat()
        except FileNotFoundError:
            return ()
        signature = (found.st_ino, found.st_mtime_ns, found.st_size)
        seen = self._seen
        if seen is None or seen[0] != signature:
            self._seen = seen = (signature, parse(self._path.read_text()))
        return seen[1]

    def find(self, secret: str, name: str | None = None) -> Credential | None:
        """Return whose *secret* it is, of *name* where one is given."""
        wanted = digest(secret)
        matches = [one for one in self.all() if hmac.compare_digest(one.digest, wanted)]
        return next((one for one in matches if name in (None, one.name)), None)


class WrongGuesses:
    """Wrong credentials by address, over the last minute."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._times: dict[str, list[float]] = {}

    def count(self, address: str) -> int:
        """Count one more from *address* and return how many there are."""
        now = self._clock.monotonic()
        with self._lock:
            self._times = {
                known: recent
                for known, times in self._times.items()
                if (recent := [at for at in times if now - at < WRONG_SECONDS])
            }
            times = self._times.setdefault(address, [])
            if len(times) <= MAX_WRONG:
                times.append(now)
            return len(times)


def register(app: Flask, credentials: Credentials, clock: Clock) -> None:
    """Make *app* ask every request who it is, before anything else is answered."""
    basic, bearer = HTTPBasicAuth(realm=REALM), HTTPTokenAuth("Bearer", realm=REALM)
    wrong = WrongGuesses(clock)

    def _by_name(name: str, secret: str) -> Credential | None:
        return _known(credentials.find(secret, name), given=bool(name or secret))

    def _by_secret(secret: str) -> Credential | None:
        return _known(credentials.find(secret), given=bool(secret))

    def _known(found: Credential | None, *, given: bool) -> Credential | None:
        g.is_wrong = given and found is None
        if found is not None:
            g.who, g.role = found.name, found.role
        return found

    def _refused(status: int) -> Response:
        if g.get("is_wrong") and wrong.count(request.remote_addr or "") > MAX_WRONG:
            headers = {"Retry-After": str(int(WRONG_SECONDS))}
            return problem(429, "too many wrong credentials from this address", headers=headers)
        return problem(status, "a name and its secret, or a bearer token, are required")

    basic.verify_password(_by_name)
    bearer.verify_token(_by_secret)
    basic.error_handler(_refused)
    bearer.error_handler(_refused)

    @app.before_request
    def _authenticate() -> Response | None:
        if request.path in OPEN:
            return None
        if is_local(request.environ):
            g.who, g.role = "local", "write"
            return None
        if not credentials.all():
            raise Unavailable(
                "no credential is set: run kinx_loadbalancer_agent credentials add NAME"
            )
        # Not login_required: it lets every OPTIONS request through.
        scheme = bearer if bearer.is_compatible_auth(request.headers) else basic
        if not scheme.authenticate(scheme.get_auth(), None):
            refused: Response = scheme.auth_error_callback(401)
            return refused
        if g.role != "write" and request.method not in READING:
            return problem(403, f"{g.who} may read, not write")
        return None


def expect_host(app: Flask, names: frozenset[str]) -> None:
    """Make *app* refuse requests for a host that is no address, not localhost, and not in *names*.

    A web page whose name was made to mean this node's address would be one (DNS rebinding).
    """
    known = {name.lower() for name in names} | {"localhost"}

    @app.before_request
    def _expect_host() -> None:
        if request.path in OPEN or is_local(request.environ):
            return
        name = urlsplit(f"//{request.host}").hostname or ""
        if name not in known and not (valid_ipv4(name) or valid_ipv6(name)):
            raise Malformed("Host must be an address of this node, or one of the setting hosts")


def is_local(environ: dict[str, object]) -> bool:
    """True when the request came through the Unix socket, whose mode is the permission."""
    family = getattr(environ.get("gunicorn.socket"), "family", None)
    return getattr(family, "name", "") == "AF_UNIX"
