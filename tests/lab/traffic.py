"""Clients and back ends: who asked when, and which node answered.

``python -m tests.lab.traffic ask ADDRESS PORT RATE`` opens RATE new connections a second, on
schedule whether the others were answered or not, until its input ends; one line for each request.
``python -m tests.lab.traffic answer PORT ADDRESS...``: back ends, that answer each request with the
address it came from: the node's. All times are seconds of time.time, as are the routers'.
"""

import asyncio
import contextlib
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.lab.network import Namespace

CHECKOUT = Path(__file__).parents[2]
COMMAND = (sys.executable, "-m", "tests.lab.traffic")
RATE = 200
PATIENCE_SECONDS = 1.5
LAST_SECONDS = 20.0
SLOW_SECONDS = 0.25
LATE_SECONDS = 0.05  # what a router tells of its kernel may be that old
REQUEST = b"GET / HTTP/1.1\r\nHost: lab\r\nConnection: close\r\n\r\n"


@dataclass(frozen=True)
class Request:
    """One request on a connection of its own; node: who answered, '' when it was lost."""

    begun: float
    ended: float
    node: str
    why_lost: str

    @property
    def is_slow(self) -> bool:
        """Return whether it was answered, but late: its connection was tried again."""
        return bool(self.node) and self.ended - self.begun > SLOW_SECONDS


@dataclass
class Seen:
    """What the clients saw; complete when their block has ended."""

    requests: list[Request] = field(default_factory=list)

    @property
    def lost(self) -> list[Request]:
        """Return those that were refused, reset, not answered in time or answered wrongly."""
        return [request for request in self.requests if not request.node]

    @property
    def slow(self) -> list[Request]:
        """Return those that were answered, but late."""
        return [request for request in self.requests if request.is_slow]

    def lost_apart_from(self, changes: Sequence[float]) -> list[Request]:
        """Return those that were lost, without those under way when a route changed.

        Their next packet reaches another node, whatever the nodes do.
        """
        return [
            one
            for one in self.lost
            if not any(one.begun - LATE_SECONDS < at < one.ended + LATE_SECONDS for at in changes)
        ]

    def moved(self, node: str, since: float, back: float) -> float:
        """Return when the last request began that met *node*, which something befell at *since*.

        That is one that was lost, that had to try again, or that *node* answered, until it gets
        clients again, at *back*.
        """
        until = back - LATE_SECONDS
        hit = [one.begun for one in self.requests if one.is_slow or one.node in ("", node)]
        return max([since, *(begun for begun in hit if since <= begun < until)])

    def shares(self) -> Counter[str]:
        """Return how many each node answered."""
        return Counter(request.node for request in self.requests if request.node)


@contextlib.contextmanager
def traffic(client: Namespace, address: str, port: int) -> Iterator[Seen]:
    """Have *client* ask for the time of the block."""
    seen = Seen()
    argv = [*COMMAND, "ask", address, str(port), str(RATE)]
    pipe = subprocess.PIPE
    with client.start(argv, cwd=CHECKOUT, stdin=pipe, stdout=pipe, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "begun\n"
            yield seen
            said, _ = process.communicate(timeout=LAST_SECONDS)
            seen.requests += [Request(*json.loads(line)) for line in said.splitlines()]
        finally:
            process.kill()


async def _ask(address: str, port: int) -> Request:
    begun = time.time()
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            reader, writer = await asyncio.open_connection(address, port)
            try:
                writer.write(REQUEST)
                head, _, body = (await reader.read()).partition(b"\r\n\r\n")
            finally:
                writer.transport.abort()
    except OSError as error:  # TimeoutError is one
        return Request(begun, time.time(), "", type(error).__name__)
    status = head.partition(b"\r\n")[0].decode()
    if " 200 " in status and body:
        return Request(begun, time.time(), body.decode(), "")
    return Request(begun, time.time(), "", status or "empty answer")


async def _ask_on_schedule(address: str, port: int, rate: int) -> None:
    loop = asyncio.get_running_loop()
    ended = loop.run_in_executor(None, sys.stdin.read)
    asked: list[asyncio.Task[Request]] = []
    print("begun", flush=True)
    first = loop.time()
    while not ended.done():
        asked.append(asyncio.create_task(_ask(address, port)))
        await asyncio.sleep(max(0.0, first + len(asked) / rate - loop.time()))
    for request in await asyncio.gather(*asked):
        print(json.dumps([request.begun, request.ended, request.node, request.why_lost]))


async def _answer(port: int, addresses: list[str]) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        body = writer.get_extra_info("peername")[0].encode()
        with contextlib.suppress(asyncio.IncompleteReadError, OSError):
            while True:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        writer.close()

    server = await asyncio.start_server(serve, addresses, port, backlog=512)
    await server.serve_forever()


if __name__ == "__main__":
    if sys.argv[1] == "ask":
        asyncio.run(_ask_on_schedule(sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
    else:
        asyncio.run(_answer(int(sys.argv[2]), sys.argv[3:]))
