"""vtysh(1): the only way to the routing daemons. It never decides what is said."""

import re
from collections.abc import Sequence
from pathlib import Path

from kinx_loadbalancer_agent.errors import CheckRefused, Unreachable
from kinx_loadbalancer_agent.system import files, process
from kinx_loadbalancer_agent.system.clock import Deadline

REFUSED = re.compile(r"line (?P<line>\d+): % (?P<words>[^:]*): *(?P<text>.*)")
CANNOT_CONNECT = 1
PATIENCE_SECONDS = 2.0


class Vtysh:
    """The daemons whose VTY sockets are in *sockets*; None: in FRR's own directory.

    history: where vtysh keeps what it was asked; by default it would be where people have theirs.
    Every method raises ProgramMissing without vtysh, ProgramTimedOut when a daemon is silent.
    """

    def __init__(self, sockets: Path | None, history: Path) -> None:
        self._at = ("-H", str(history), *(("--vty_socket", str(sockets)) if sockets else ()))

    def check(self, content: bytes, deadline: Deadline) -> None:
        """Ask whether *content* is syntax; raises CheckRefused with the first line that is none.

        bgpd's own ``-C`` ends with 0 whatever it reads (measured on 8.4.4 and 10.3).
        """
        ended = self._run(("-C",), content, deadline)
        if ended.returncode != 0:
            said = ended.stdout + ended.stderr
            first = REFUSED.search(said)
            words = f"{first['words'].split('[')[0].lower()}: {first['text']}" if first else said
            raise CheckRefused(words.strip()[-500:], program="vtysh")

    def ask(self, daemon: str, questions: Sequence[str], deadline: Deadline) -> str:
        """Return what *daemon* answers to *questions*; raises Unreachable if it does not run."""
        words = [word for question in questions for word in ("-c", question)]
        argv = ["vtysh", "-d", daemon, *words, *self._at]
        ended = process.run(argv, self._patience(deadline))
        if ended.returncode != 0:
            raise Unreachable(daemon, (ended.stderr or ended.stdout).strip()[-200:])
        return ended.stdout

    def load(self, daemon: str, lines: Sequence[str], deadline: Deadline) -> str:
        """Have *daemon* carry out the configuration *lines*; return what it has to say.

        A line that is refused does not keep it from the next ones: look at what is there then.
        Raises Unreachable if it does not run.
        """
        content = "".join(f"{line}\n" for line in lines).encode()
        ended = self._run(("-d", daemon), content, deadline)
        if ended.returncode == CANNOT_CONNECT:
            raise Unreachable(daemon, ended.stderr.strip()[-200:])
        return ended.stderr.strip()

    def _run(self, words: Sequence[str], content: bytes, deadline: Deadline) -> process.Completed:
        with files.scratch() as directory:
            path = directory / "frr.conf"
            files.write(path, content, mode=0o600)
            argv = ["vtysh", *words, "-f", str(path), *self._at]
            return process.run(argv, self._patience(deadline))

    def _patience(self, deadline: Deadline) -> float:
        return deadline.remaining(PATIENCE_SECONDS)
