"""Wait for the end of a process, or for a bell. Nothing else in the package waits for either."""

import contextlib
import os
import select


class Watch:
    """One process that is not ours to wait for, and a bell that any thread may ring."""

    def __init__(self) -> None:
        self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._poll = select.poll()
        self._poll.register(self._bell, select.POLLIN)
        self._pid = 0
        self._process = -1

    def follow(self, pid: int) -> None:
        """Wait for the end of process *pid* from now on, and of no other."""
        if pid == self._pid:
            return
        self._leave()
        self._pid = pid
        with contextlib.suppress(OSError):  # it has ended; or no more can be opened
            self._process = os.pidfd_open(pid)
            self._poll.register(self._process, select.POLLIN)

    def ring(self) -> None:
        """End the wait of the other thread, or its next one."""
        os.eventfd_write(self._bell, 1)

    def wait(self, seconds: float) -> bool:
        """Wait for process or bell, at most *seconds*; return whether the process has ended."""
        ready = {descriptor for descriptor, _ in self._poll.poll(1000 * seconds)}
        if self._bell in ready:
            os.eventfd_read(self._bell)
        has_ended = self._process in ready
        if has_ended:
            self._leave()
        return has_ended

    def _leave(self) -> None:
        if self._process >= 0:
            self._poll.unregister(self._process)
            os.close(self._process)
        self._process = -1
