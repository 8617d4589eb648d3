"""Programs of ``bin/``, run as at a terminal."""

import contextlib
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path


@contextlib.contextmanager
def foreground(
    argv: Sequence[str | Path], output: Path, env: Mapping[str, str], cwd: Path | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A program for the time of the block, in a process group of its own; it prints to *output*."""
    with output.open("wb") as stream:
        found = subprocess.Popen(
            argv,
            env=env,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            start_new_session=True,
            preexec_fn=_listen_to_ctrl_c,
        )
    try:
        yield found
    finally:
        if found.poll() is None:
            found.terminate()
            found.wait(30)


def _listen_to_ctrl_c() -> None:
    """A shell's background job ignores it, and so would all that it starts."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
