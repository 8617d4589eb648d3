"""A ``haproxy`` whose ``-c`` takes as long as a test says, so that a test decides what waits."""

import os
import stat
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.machine import wait_until

# `read` of a pipe that nobody writes: a shell that is killed in it leaves no `sleep` behind.
SCRIPT = """\
#!/bin/bash
[ "$1" = -c ] && echo >> {count}
if [ "$1" = -c ] && [ -s {slow} ]; then
    seconds=$(<{slow})
    touch {begun}
    exec 3<>{pipe}
    read -r -t "$seconds" -u 3
    exec 3>&-
fi
exec haproxy "$@"
"""


class SlowChecks:
    """The program, in *directory*; quick until ``take`` is called."""

    def __init__(self, directory: Path) -> None:
        self._slow, self._begun = directory / "slow", directory / "begun"
        self._program, pipe = directory / "haproxy", directory / "pipe"
        self._count = directory / "count"
        self._count.touch()
        text = SCRIPT.format(slow=self._slow, begun=self._begun, pipe=pipe, count=self._count)
        self._program.write_text(text)
        self._program.chmod(self._program.stat().st_mode | stat.S_IXUSR)
        os.mkfifo(pipe)

    @property
    def environment(self) -> dict[str, str]:
        """What makes the agent use it."""
        return {"KINX_HAPROXY_PROGRAM": str(self._program)}

    @property
    def count(self) -> int:
        """How many checks there were."""
        return len(self._count.read_text())

    def take(self, seconds: float) -> None:
        """Let every check that begins from now on take *seconds* longer."""
        self._begun.unlink(missing_ok=True)
        self._slow.write_text(str(seconds) if seconds else "")

    def wait_for_one(self) -> None:
        """Wait until a slow check has begun."""
        wait_until(self._begun.exists)

    def one_batch(
        self, opener: Callable[[], Any], calls: Sequence[Callable[[], Any]]
    ) -> tuple[Any, list[Any]]:
        """Make *calls*, in this order, while the agent is busy with the slow *opener*.

        They wait together and are one batch afterwards. Returns all answers.
        """
        with ThreadPoolExecutor(1 + len(calls)) as pool:
            self.take(0.5 + 0.02 * len(calls))
            first = pool.submit(opener)
            self.wait_for_one()
            self.take(0)
            waiting = []
            for call in calls:
                waiting.append(pool.submit(call))
                time.sleep(0.01)
            assert not first.done(), "the opener was answered before all others were sent"
            return first.result(), [one.result() for one in waiting]
