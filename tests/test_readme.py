"""README.rst is executed: its bash blocks are one session, the blocks after them its output."""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import need
from tests.machine import Machine, free_port

README = Path(__file__).parents[1] / "README.rst"
PORTS = ("62000", "8080", "9001", "9002", "1024")
BLOCK = re.compile(r"^\.\. code-block:: (\w+)\n\n((?:    .*\n|\n)+)", re.MULTILINE)
ANYTHING = "…"
SHOWN = ("http", "json", "text")


@dataclass(frozen=True)
class Example:
    """Commands of the README, and what it shows as their output ('' when nothing)."""

    number: int
    commands: str
    shown: str

    @property
    def first_line(self) -> str:
        return self.commands.strip().splitlines()[0]


def examples(text: str) -> list[Example]:
    """Return the bash blocks of *text*, each with the block that follows it."""
    blocks = [(kind, re.sub("^    ", "", body, flags=re.M)) for kind, body in BLOCK.findall(text)]
    found: list[Example] = []
    for (kind, body), (after, shown) in zip(blocks, [*blocks[1:], ("", "")], strict=True):
        if kind == "bash":
            found.append(Example(len(found), body, shown if after in SHOWN else ""))
    return found


EXAMPLES = examples(README.read_text())


@dataclass
class Session:
    """The README executed by one bash: what each example printed, and what was left behind."""

    directory: Path
    ports: dict[str, str]
    outputs: list[str]
    status: int
    left: list[int]

    def local(self, text: str) -> str:
        """Return *text* of the README with the ports of this session."""
        return re.sub("|".join(PORTS), lambda found: self.ports[found[0]], text)


@pytest.fixture(scope="module")
def session() -> Iterator[Session]:
    """What becomes of somebody who types the README from its first line to its last."""
    need("haproxy")
    need("curl")
    with tempfile.TemporaryDirectory(prefix="kinx-") as directory:
        ports = {port: str(free_port()) for port in PORTS}
        found = Session(Path(directory), ports, [], -1, [])
        execute(found)
        yield found


def execute(session: Session) -> None:
    script = ["set -euo pipefail"]
    for example in EXAMPLES:
        output = session.directory / f"output-{example.number}"
        script.append(f"{{\n{session.local(example.commands)}}} > {output} 2>&1")
    programs = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    listen = f"127.0.0.1:{session.ports['62000']}"
    env = {**os.environ, "PATH": programs, "TMPDIR": str(session.directory), "no_proxy": "*"}
    shell = subprocess.Popen(
        ["bash", "-c", "\n".join(script)],
        env={**env, "KINX_AGENT_LISTEN": listen},
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        session.status = shell.wait(120)
    finally:
        session.left = end(session.directory, shell.pid)
    for example in EXAMPLES:
        output = session.directory / f"output-{example.number}"
        session.outputs.append(output.read_text() if output.exists() else "never executed")


def end(directory: Path, group: int) -> list[int]:
    """End what the session left, the processes of its *group* and HAProxy; return their ids."""
    left = [int(path.name) for path in Path("/proc").glob("[0-9]*") if is_of_session(path, group)]
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    for root in directory.glob("tmp.*"):
        machine = Machine(root=root)
        left += machine.haproxy_pids()
        machine.end()
    return left


def is_of_session(process: Path, session: int) -> bool:
    try:
        fields = (process / "stat").read_text().rpartition(")")[2].split()
    except OSError:  # it has ended
        return False
    return int(fields[3]) == session and fields[0] != "Z"


# --- what is compared -----------------------------------------------------------------------


def differences(shown: str, output: str) -> list[str]:
    """Return what *shown* says that *output* does not: lines, headers and members of JSON.

    Headers and members that are not shown may be there; "…" stands for anything.
    """
    found = []
    wanted, printed = parts(shown), parts(output)
    if len(wanted) != len(printed):
        found.append(f"{len(wanted)} parts are shown, {len(printed)} were printed")
    for one, other in zip(wanted, printed, strict=False):
        found += different(one, other)
    return found


def parts(text: str) -> list[Any]:
    """Return *text* as a list: JSON values, answers' heads as sets of lines, and other lines."""
    found: list[Any] = []
    decoder = json.JSONDecoder()
    rest = text.replace("\r", "").lstrip()
    while rest:
        if rest.startswith("{"):
            value, length = decoder.raw_decode(rest)
            found.append(value)
        elif rest.startswith("HTTP/"):
            length = (rest + "\n\n").index("\n\n")
            found.append(tuple(rest[:length].splitlines()))
        else:
            length = (rest + "\n").index("\n")
            found.append(" ".join(rest[:length].split()))
        rest = rest[length:].lstrip()
    return found


def different(wanted: Any, given: Any, where: str = "") -> list[str]:
    if isinstance(wanted, dict) and isinstance(given, dict):
        return [
            words
            for key, value in wanted.items()
            for words in different(value, given.get(key, "nothing"), f"{where}/{key}")
        ]
    if isinstance(wanted, list) and isinstance(given, list) and len(wanted) == len(given):
        pairs = enumerate(zip(wanted, given, strict=True))
        return [words for at, (a, b) in pairs for words in different(a, b, f"{where}/{at}")]
    if isinstance(wanted, tuple) and isinstance(given, tuple) and wanted[0] == given[0]:
        return [
            f"{line} is not in {given}"
            for line in wanted[1:]
            if not any(is_like(line, other) for other in given)
        ]
    return [] if is_like(wanted, given) else [f"{where}: {wanted!r} is shown for {given!r}"]


def is_like(wanted: Any, given: Any) -> bool:
    if isinstance(wanted, str) and ANYTHING in wanted:
        pattern = ".*".join(map(re.escape, wanted.split(ANYTHING)))
        return re.fullmatch(pattern, str(given), re.DOTALL) is not None
    return bool(wanted == given) and type(wanted) is type(given)


# --- the tests ------------------------------------------------------------------------------


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.first_line)
def test_a_command_of_the_readme_prints_what_the_readme_shows(
    session: Session, example: Example
) -> None:
    output = session.outputs[example.number]

    assert differences(session.local(example.shown), output) == [], output


def test_the_session_of_the_readme_ends_well_and_leaves_nothing_behind(session: Session) -> None:
    assert session.status == 0
    assert session.left == []
    assert list(session.directory.glob("tmp.*")) == []


@pytest.mark.parametrize("kind", ["loadbalancers", "listeners", "pools", "members"])
def test_the_readme_makes_each_kind(kind: str) -> None:
    assert any(f"/{kind} -d" in example.commands for example in EXAMPLES)


@pytest.mark.parametrize(
    "shown",
    [
        "HTTP/1.1 200 OK",
        "HTTP/1.1 201 CREATED\nETag: x",
        'HTTP/1.1 201 CREATED\n\n{"weight": "1"}',
        'HTTP/1.1 201 CREATED\n\n{"weight": 1, "name": ""}',
        'HTTP/1.1 201 CREATED\n\n{"of": {"list": [1, 3]}}',
        'HTTP/1.1 201 CREATED\n\n{"of": {"list": [1]}}',
        'HTTP/1.1 201 CREATED\n\n{"weight": 1}\n\nend',
        "",
    ],
)
def test_an_untrue_example_is_found(shown: str) -> None:
    output = 'HTTP/1.1 201 CREATED\r\nETag: "a"\r\n\r\n{"weight": 1, "of": {"list": [1, 2]}}\n'
    true = 'HTTP/1.1 201 CREATED\nETag: "…"\n\n{"weight": 1, "of": {"list": [1, 2]}}'

    assert differences(true, output) == []
    assert differences(shown, output) != []
