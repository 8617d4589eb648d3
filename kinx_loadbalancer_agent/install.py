"""The agent's node put in place, and taken away again, step by step.

What somebody else put where a file of ours goes is kept beside it. This module must never write
what HAProxy or FRR load: that is the engine's and the keepers'.
"""

import hashlib
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from kinx_loadbalancer_agent import errors, settings
from kinx_loadbalancer_agent.layout import (
    COMMANDS,
    DROP_IN,
    KEPT,
    LINKS,
    NAME,
    RUNNING,
    SERVES,
    UNIT,
    Layout,
    Row,
)
from kinx_loadbalancer_agent.model.state import State
from kinx_loadbalancer_agent.services.routing.service import MARK
from kinx_loadbalancer_agent.services.schedule import Schedule
from kinx_loadbalancer_agent.system import files, process
from kinx_loadbalancer_agent.system.clock import Deadline, SystemClock

ASIDE, EDITED = "before-kinx", "edited-kinx"
BEGUN = "begun"  # what is recorded of a file until all that it needs is done
SECONDS, APT_SECONDS = 120.0, 900.0


@dataclass(frozen=True)
class Step:
    """One thing to do, in words; without an *act* it is only said, without words only done.

    row: of which file it is a part; when one fails, the rest of that file is left for next time.
    """

    words: str
    act: Callable[[], object] | None = None
    row: str = ""


class Installation:
    """What is done to *node*. Each step is planned when its turn comes, after those before it."""

    def __init__(self, node: Layout) -> None:
        self._node = node
        self._settings = node.settings
        self._scripts = Path(sysconfig.get_path("scripts"))

    # --- install ----------------------------------------------------------------------------

    def install(self, *, packages: bool = False) -> Iterator[Step]:
        """Yield the steps to a node that the agent is at home on; none when it is."""
        yield from self._packages(packages)
        yield from self._links()
        state = self._settings.agent.state_directory
        for path, mode in ((state, 0o700), (settings.CONFIG.parent, 0o750)):
            directory = self._node.at(path)
            if not directory.is_dir():
                yield Step(f"make {directory}", partial(files.make_directory, directory, mode))
            elif directory.stat().st_mode & 0o777 & ~mode:
                words = f"protect {directory}, mode {mode:04o}"
                yield Step(words, partial(files.protect, directory, mode))
        conf_d, extra = self._settings.haproxy.conf_d, self._settings.haproxy.extra_config
        if extra != conf_d.with_name("haproxy.cfg"):
            yield from self._keep_aside(self._node.at(conf_d.with_name("haproxy.cfg")), ASIDE)
        if self._node.at(conf_d).is_dir() and not self._node.at(conf_d).is_symlink():
            yield Step(f"note: the agent will keep {conf_d} aside as {conf_d.name}.{ASIDE}")
        recorded = self._recorded()
        for row in self._node.rows():
            if row.is_wanted:
                yield from self._put(row, recorded.get(row.path))
            elif row.path in recorded and not row.stays:
                yield from self._take(row, recorded[row.path])

    def _packages(self, wanted: bool) -> Iterator[Step]:
        missing = self._node.missing_packages()
        command = f"apt-get install -y --no-install-recommends {' '.join(missing)}"
        if missing and wanted and self._node.is_live:
            words = ("env", "DEBIAN_FRONTEND=noninteractive", *command.split())
            yield Step(f"run {command}", partial(_run, words, APT_SECONDS))
        elif missing:
            yield Step(f"note: programs are missing; {command}, then install again")

    def _links(self) -> Iterator[Step]:
        for name in COMMANDS:
            link, target = self._node.at(LINKS / name), self._scripts / name
            if not self._node.at(target).exists():
                raise errors.ApplyError(f"cannot link {link}: there is no {self._node.at(target)}")
            if self._scripts == LINKS or (link.is_symlink() and link.readlink() == target):
                continue
            if not link.is_symlink():
                yield from self._keep_aside(link, ASIDE)
            yield Step(f"link {link} to {target}", partial(_link, link, target))

    def _put(self, row: Row, recorded: str | None) -> Iterator[Step]:
        at, content, name = self._node.at(row.path), self._node.content(row), str(row.path)
        present, wanted = _digest_of(at), _digest(content)
        is_right = present == wanted and at.stat().st_mode & 0o777 == row.mode
        is_kept = row.is_first and present is not None
        if is_kept or (is_right and recorded in (None, wanted)):
            return
        if present not in (None, wanted, recorded):
            yield from self._keep_aside(at, ASIDE)
        if not row.is_first:
            yield Step("", partial(self._remember, row.path, BEGUN), name)
        if not is_right:
            words = f"write {at}, mode {row.mode:04o}"
            yield Step(words, partial(_write, at, content, row.mode), name)
        for command in row.then:
            if present and command == "systemctl restart haproxy":
                yield Step(f"note: {command}, when that suits its clients")
            else:
                yield from self._run(command, name)
        if not row.is_first:
            yield Step("", partial(self._remember, row.path, wanted), name)

    # --- uninstall --------------------------------------------------------------------------

    def uninstall(self, *, purge: bool = False) -> Iterator[Step]:
        """Yield the steps that take the agent away and leave HAProxy serving.

        purge: also the state, the settings, the log, and what HAProxy and FRR are started by.
        """
        recorded = self._recorded()
        if not recorded:
            yield Step(f"note: {self._node.record} is gone: no service file is known to be ours")
        for row in self._node.rows():
            if purge or not row.stays:
                yield from self._take(row, recorded.get(row.path))
        yield from self._without_cron_line()
        for link in (self._node.at(LINKS / name) for name in COMMANDS):
            if link.is_symlink() and link.readlink().parent == self._scripts:
                yield _removal(link)
                yield from self._put_back(link)
        yield from self._purge() if purge else self._left()

    def _take(self, row: Row, recorded: str | None) -> Iterator[Step]:
        at = self._node.at(row.path)
        present = _digest_of(at)
        if present is None or not (recorded or row.is_first):
            return
        if row.path == UNIT:
            now = " --now" if self._node.is_live and self._node.has_systemd else ""
            yield from self._run(f"systemctl disable{now} {NAME}", "")
        if row.is_first or present in (recorded, _digest(self._node.content(row))):
            yield _removal(at)
        else:
            yield from self._keep_aside(at, EDITED)
        yield from self._put_back(at)
        if row.path == DROP_IN and not any(at.parent.iterdir()):
            yield _removal(at.parent)
        for command in row.then:
            if command.endswith((" daemon-reload", " update")):
                yield from self._run(command, "")
        if recorded:
            yield Step("", partial(self._remember, row.path, ""))

    def _without_cron_line(self) -> Iterator[Step]:
        crontab = self._node.at(self._settings.schedule.crontab)
        schedule = Schedule(self._settings.schedule.model_copy(update={"crontab": crontab}))
        deadline = Deadline.after(SystemClock(), SECONDS)

        def apply() -> None:
            schedule.apply(State(), schedule.observe(deadline), deadline)
            if not crontab.stat().st_size:
                files.remove(crontab)

        for words in schedule.plan(State(), schedule.observe(deadline)):
            yield Step(words, apply)

    def _left(self) -> Iterator[Step]:
        node, conf_d = self._node, self._node.at(self._settings.haproxy.conf_d)
        why = {node.at(row.path): row.stays for row in node.rows() if row.stays}
        why |= {conf_d: SERVES, node.speaker: SERVES, node.record.parent: KEPT}
        why[node.at(settings.CONFIG.parent)] = KEPT
        for path in (*why, conf_d.with_name("haproxy.cfg")):
            why[path.with_name(f"{path.name}.{ASIDE}")] = "it was there before"
        for path, because in why.items():
            if path.exists():
                yield Step(f"note: {path} stays: {because}")
        if node.has_systemd:
            yield Step("note: HAProxy goes on; its VIPs end with its next restart")
        else:
            yield Step("note: HAProxy goes on until a reboot; nothing starts it then")
        yield Step("note: uninstall --purge takes these too, and puts back what was kept aside")

    def _purge(self) -> Iterator[Step]:
        node, conf_d = self._node, self._node.at(self._settings.haproxy.conf_d)
        log, speaker, known = node.at(self._settings.agent.log), node.speaker, node.credentials
        gone = [node.at(self._settings.agent.state_directory), node.at(settings.CONFIG.parent)]
        gone += [known, known.with_name(f".{known.name}.lock")]
        gone += [conf_d.with_name(f"{conf_d.name}.{slot}") for slot in "ab"]
        gone += [conf_d] if conf_d.is_symlink() else []
        gone += [speaker] if speaker.exists() and speaker.read_bytes().startswith(MARK) else []
        for path in (*gone, *sorted(log.parent.glob(f"{log.name}.*"))):
            if path.exists() or path.is_symlink():
                yield _removal(path)
        for path in (conf_d, speaker, conf_d.with_name("haproxy.cfg")):
            yield from self._put_back(path)
        yield Step("note: HAProxy, FRR and the kernel go on as they are until they start again")

    # --- what both are made of ----------------------------------------------------------------

    def _recorded(self) -> dict[Path, str]:
        if not self._node.record.exists():
            return {}
        rows = (line.split("  ", 1) for line in self._node.record.read_text().splitlines())
        return {Path(path): digest for digest, path in rows}

    def _remember(self, path: Path, digest: str) -> None:
        known = {**self._recorded(), path: digest}
        rows = sorted((str(path), digest) for path, digest in known.items() if digest)
        text = "".join(f"{digest}  {path}\n" for path, digest in rows)
        files.write(self._node.record, text.encode(), mode=0o600, durable=True)

    def _run(self, command: str, row: str) -> Iterator[Step]:
        words = command.split()
        sign = RUNNING.get(words[0]) or RUNNING.get(" ".join(words[:2]), "/")
        # Links of a unit are written whether systemd runs or not.
        writes_links = words[1] in ("enable", "disable") and words[2] == NAME
        if writes_links:
            words[1:1], sign = ["--root", str(self._node.directory)], "/"
        if (self._node.is_live or writes_links) and Path(sign).exists():
            yield Step(f"run {' '.join(words)}", partial(_run, tuple(words), SECONDS), row)
        else:
            yield Step(f"note: left for when it runs: {command}")

    def _keep_aside(self, at: Path, suffix: str) -> Iterator[Step]:
        aside = at.with_name(f"{at.name}.{suffix}")
        if at.exists():
            yield Step(f"keep {at} aside as {aside.name}", partial(files.put_aside, at, aside))

    def _put_back(self, at: Path) -> Iterator[Step]:
        aside = at.with_name(f"{at.name}.{ASIDE}")
        if aside.exists():
            yield Step(f"put {aside.name} back as {at}", partial(files.move, aside, at))


def perform(steps: Iterator[Step], say: Callable[[str], object]) -> bool:
    """Do *steps*, saying each, and return whether all went well.

    A file of which a part fails is tried again by the next install; the others go on.
    """
    failed: set[str] = set()
    for step in steps:
        if step.row in failed:
            continue
        if step.words:
            say(step.words)
        try:
            if step.act is not None:
                step.act()
        except (errors.ApplyError, OSError) as error:
            if not step.row:
                raise
            say(str(error))
            failed.add(step.row)
    return not failed


def _removal(at: Path) -> Step:
    return Step(f"remove {at}", partial(files.remove, at))


def _run(words: tuple[str, ...], seconds: float) -> None:
    ended = process.run(words, seconds)
    if ended.returncode != 0:
        said = (ended.stderr.strip() or ended.stdout.strip())[-500:]
        raise errors.ApplyError(f"{' '.join(words)} ended with status {ended.returncode}: {said}")


def _write(at: Path, content: bytes, mode: int) -> None:
    files.make_directory(at.parent, 0o755)
    files.write(at, content, mode=mode, durable=True, owner_of=at.parent)


def _link(link: Path, target: Path) -> None:
    files.make_directory(link.parent, 0o755)
    files.point(link, str(target))


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _digest_of(path: Path) -> str | None:
    return _digest(path.read_bytes()) if path.is_file() else None
