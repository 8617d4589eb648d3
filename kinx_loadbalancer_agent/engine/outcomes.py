"""What is true of the proxy after a batch, as conditions. It decides nothing."""

from collections.abc import Collection, Iterable
from pathlib import Path

from kinx_loadbalancer_agent.engine.conditions import Conditions
from kinx_loadbalancer_agent.engine.ports import Applied, Observation, Part, Target
from kinx_loadbalancer_agent.engine.store import Store
from kinx_loadbalancer_agent.errors import StateError, StateFull
from kinx_loadbalancer_agent.model.rules import endpoint
from kinx_loadbalancer_agent.system import files

MIN_FREE_BYTES = 4 * 2**20
NEEDED_BYTES = 2**20  # what was made live and cannot be stored has to be put back
SPACE, KEPT = "SpaceLeft", "StateKept"
HEALTHY, RUNNING, BOUND, APPLIED = "WorkerHealthy", "HaproxyRunning", "ListenersBound", "Applied"


def concluded(
    conditions: Conditions, applied: Applied, target: Target, left_out: Collection[Part]
) -> None:
    """State what is true now that *target*, without *left_out*, is *applied*."""
    for claim in target.claims:
        conditions.state(claim)
    if applied.is_live and not conditions.holds(HEALTHY):
        conditions.set(HEALTHY, "True", "Answers", "no process had to be replaced")
    _running(conditions, applied.pid if applied.is_live else None, applied.because)
    if left_out:
        conditions.set(BOUND, "False", "CannotBind", cannot_bind(left_out), "error")
    else:
        conditions.set(BOUND, "True", "Bound", "every listener can be bound")
    if applied.is_live:
        conditions.set(APPLIED, "True", "Live", "HAProxy runs what was asked for")
    else:
        conditions.set(APPLIED, "False", "HaproxyNotRunning", applied.because, "error")


def cannot_bind(left_out: Iterable[Part]) -> str:
    """Return in words what is left out, and where it was to listen."""
    names = sorted(f"{one.owner} at {endpoint(*one.bind)}" for one in left_out if one.bind)
    return f"cannot bind, left out until it can: {', '.join(names)}"


def left(conditions: Conditions, observation: Observation, words: str) -> None:
    """State what is true where something is not as it should be, and is left so for *words*."""
    conditions.set(APPLIED, "False", "Held", words, "warning")
    _running(conditions, observation.worker_pid if observation.is_running else None, words)


def stored(conditions: Conditions, store: Store) -> None:
    """State whether *store* has what it was given, and space for a change."""
    try:
        store.verify()
    except StateError as error:
        conditions.set(KEPT, "False", "StateUnusable", str(error), "error")
    else:
        conditions.set(KEPT, "True", "Kept", f"{store.path} has every change")
    directory = store.path.parent
    free = files.free_bytes(directory)
    if free < MIN_FREE_BYTES:
        words = f"{free // 2**20} MiB are free for {directory}"
        advice = f"{words}; changes get 507 when it is full: free some space"
        conditions.set(SPACE, "False", "DiskFull", advice, "error")
    else:
        conditions.set(SPACE, "True", "Free", f"there is space for changes in {directory}")


def need_space(directory: Path) -> None:
    """Raise StateFull where *directory* has less space than it takes to go back."""
    if directory.exists() and files.free_bytes(directory) < NEEDED_BYTES:
        raise StateFull(f"no space is left for {directory}: free some; nothing was kept")


def _running(conditions: Conditions, pid: int | None, why_not: str) -> None:
    if pid is not None:
        conditions.set(RUNNING, "True", "Answers", f"worker {pid} answers")
    else:
        words = f"{why_not}; if it does not come back by itself: systemctl start haproxy"
        conditions.set(RUNNING, "False", "NotRunning", words, "error")
