"""The API as a dict that follows its answers, against a real agent, HAProxy, and restarts.

After each step GET, the running HAProxy, frr.conf and the crontab are what the answers said.
"""

import contextlib
import http.client
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from kinx_loadbalancer_agent.model.resources import Ref
from tests.contract import judge
from tests.fuzz.caller import Caller
from tests.fuzz.conftest import law
from tests.fuzz.steps import PICKS, Step, keeps_backend_names, making, steps
from tests.fuzz.strategies import LOOPBACK, NEAR, PORTS, Body, Documents
from tests.machine import Machine, wait_until

DOCUMENTS = Documents(
    addresses=LOOPBACK, fields={"protocol_port": PORTS, "port": PORTS, "vip_address": NEAR}
)
FOREIGN = "# not ours\n@daily true\n5 4 * * * echo '%' # check_vlb\n"
SPEAKER, CRONTAB = Ref("quagga", "", "quagga"), Ref("crontab", "", "crontab")


class Node(RuleBasedStateMachine):
    """A node, empty at first, that callers change and operators restart."""

    machine: Machine

    def __init__(self) -> None:
        super().__init__()
        self.caller = Caller(self.machine)
        self.changes = 0

    def teardown(self) -> None:
        self.caller.clear()
        self.caller.hang_up()

    # --- what happens -----------------------------------------------------------------------

    @initialize(made=making(DOCUMENTS, most=2))
    def begin(self, made: list[Step]) -> None:
        for step in made:
            self.change(step)

    @rule(step=steps(DOCUMENTS).filter(keeps_backend_names))
    def change(self, step: Step) -> None:
        reply = self.caller.take(step)
        self.changes += reply is not None and reply.status < 300

    @rule(pick=PICKS)
    def repeat(self, pick: int) -> None:
        """Send what GET shows to where it is shown: nothing changes."""
        shown = sorted(self.caller.shown().items())
        if shown:
            ref, body = shown[pick % len(shown)]
            reply = self.caller.put(ref, body)
            assert reply.status in (200, 202)
            assert reply.json["applied"]["by"] == "none"

    @precondition(lambda self: self.changes > 4)
    @rule(sent=st.sampled_from((signal.SIGTERM, signal.SIGKILL, signal.SIGHUP)))
    def restart(self, sent: signal.Signals) -> None:
        assert self.machine.process is not None
        (worker,) = self.machine.worker_pids()
        self.caller.hang_up()
        if sent == signal.SIGHUP:
            self.machine.process.send_signal(sent)
        else:
            self.machine.stop(sent)
        wait_until(lambda: not Path(f"/proc/{worker}").exists(), 30)
        if sent != signal.SIGHUP:
            self.machine.start(ready=False)
        wait_until(self.is_back, 20)
        self.changes = 0

    def is_back(self) -> bool:
        """Say whether the node may get work again, or would but for a drain that was asked for."""
        if not self.caller.there.get(SPEAKER, {}).get("drain"):
            return self.machine.is_ready()
        with contextlib.suppress(OSError, http.client.HTTPException):
            faults = self.machine.get("/readyz").json["errors"]
            return [fault["detail"][:22] for fault in faults] == ["nothing is announced, "]
        return False

    # --- what holds -------------------------------------------------------------------------

    @invariant()
    def get_shows_what_was_answered(self) -> None:
        shown = self.caller.shown()
        own = {ref: self.caller.own(ref, shown[ref]) for ref in shown}
        assert own == self.caller.there

    @invariant()
    def haproxy_is_what_the_api_says(self) -> None:
        judge.assert_haproxy_agrees(self.machine)

    @invariant()
    def the_crontab_has_our_line_and_no_other_changed(self) -> None:
        wanted, line = self.caller.there.get(CRONTAB), ""
        if wanted is not None:
            line = f"{wanted['schedule']} /usr/local/bin/check_vlb --root {self.machine.root}\n"
        becomes(lambda: crontab(self.machine).read_text(), FOREIGN + line)

    @invariant()
    def the_speaker_is_the_resource(self) -> None:
        speaker = self.caller.there.get(SPEAKER)
        vips = [ref.id for ref in self.caller.there if ref.kind == "vips"]
        vips = [] if speaker and speaker["drain"] else vips
        becomes(lambda: spoken(self.machine), wanted_words(speaker, vips))


def becomes(found: Callable[[], object], wanted: object) -> None:
    """Assert that what is *found* is what is *wanted*; keepers get some time for it."""
    try:
        wait_until(lambda: found() == wanted, 5)
    except AssertionError:
        assert found() == wanted


def crontab(machine: Machine) -> Path:
    return machine.root / "var/spool/cron/crontabs/root"


def spoken(machine: Machine) -> set[str]:
    """Return the lines of frr.conf that say who speaks to whom of what."""
    path = machine.root / "etc/frr/frr.conf"
    lines = path.read_text().splitlines() if path.exists() else []
    said = ("hostname ", "router bgp ", " bgp router-id ", "  network ")
    return {line.strip() for line in lines if line.startswith(said) or " remote-as " in line}


def wanted_words(speaker: Body | None, vips: list[str]) -> set[str]:
    if speaker is None:
        return set()
    gateways = filter(None, (speaker["primary_gateway_addr"], speaker["secondary_gateway_addr"]))
    return {
        f"hostname {speaker['hostname']}",
        f"router bgp {speaker['inter_as_number']}",
        f"bgp router-id {speaker['vm_addr']}",
        *(f"neighbor {one} remote-as {speaker['router_as_number']}" for one in gateways),
        *(f"network {vip}/{128 if ':' in vip else 32}" for vip in vips),
    }


@pytest.mark.timeout(3600)
def test_a_node_is_what_its_answers_said_whatever_happens(machine: Machine) -> None:
    crontab(machine).parent.mkdir(parents=True)
    crontab(machine).write_text(FOREIGN)
    this = type("Node", (Node,), {"machine": machine})

    run_state_machine_as_test(
        this, settings=settings(law(10, 300, Phase.generate), stateful_step_count=15)
    )

    assert list(machine.fragments()) == ["00-global.cfg"]
    assert crontab(machine).read_text() == FOREIGN
