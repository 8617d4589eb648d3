"""Clients that ask one listener over and over, in a process of their own: it measures HAProxy.

``python -m tests.bench.load PORT CLIENTS [--close]``: until its input ends, then it prints what
the clients saw. With ``--close`` each request has a connection of its own.
"""

import contextlib
import http.client
import json
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.integration.traffic import process_of

PAUSE_SECONDS = 0.001


@dataclass
class Load:
    """What the clients saw; closed: connections that were to be kept and were not."""

    requests: int = 0
    failed: int = 0
    closed: int = 0
    failures: list[str] = field(default_factory=list)


@contextlib.contextmanager
def load(port: int, clients: int, *, keep_alive: bool = True) -> Iterator[Load]:
    """Load *port* for the block; it begins after each client's first answer. Filled afterwards."""
    words = (str(port), str(clients), *(() if keep_alive else ("--close",)))
    with process_of("tests.bench.load", *words) as process:
        seen = Load()
        yield seen
        said, _ = process.communicate(timeout=20)
        vars(seen).update(json.loads(said))


class Client(threading.Thread):
    """One client; it waits for its answer before it goes on."""

    def __init__(
        self, port: int, begun: threading.Barrier, ended: threading.Event, *, keep_alive: bool
    ) -> None:
        super().__init__()
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        self._headers = {} if keep_alive else {"Connection": "close"}
        self._begun, self._ended, self._keep_alive = begun, ended, keep_alive
        self.seen = Load()

    def run(self) -> None:
        self._ask()
        self._begun.wait()
        while not self._ended.wait(PAUSE_SECONDS):
            self._ask()

    def _ask(self) -> None:
        self.seen.requests += 1
        try:
            self._connection.request("GET", "/", headers=self._headers)
            answer = self._connection.getresponse()
            answer.read()
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            self._fail(repr(error))
            self.seen.closed += self._keep_alive
            return
        if answer.status != 200:
            self._fail(f"status {answer.status}")
        if not self._keep_alive:
            self._connection.close()
        elif answer.will_close:
            self.seen.closed += 1

    def _fail(self, why: str) -> None:
        self.seen.failed += 1
        self.seen.failures.append(why)


def main(port: int, count: int, *, keep_alive: bool) -> None:
    begun, ended = threading.Barrier(count + 1), threading.Event()
    clients = [Client(port, begun, ended, keep_alive=keep_alive) for _ in range(count)]
    for client in clients:
        client.start()
    begun.wait()
    print("begun", flush=True)
    sys.stdin.read()
    ended.set()
    whole = Load()
    for client in clients:
        client.join()
        whole.requests += client.seen.requests
        whole.failed += client.seen.failed
        whole.closed += client.seen.closed
        whole.failures += client.seen.failures
    whole.failures = whole.failures[:5]
    print(json.dumps(vars(whole)))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), keep_alive="--close" not in sys.argv)
