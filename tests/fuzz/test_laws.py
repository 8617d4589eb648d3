"""Laws of the way from documents to configurations, over states that nobody thought of.

KINX_FUZZ_EXAMPLES=10000 has the real ``haproxy -c`` and ``vtysh -C`` check some thousand of them.
"""

import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from hypothesis import Phase, given
from hypothesis import strategies as st
from pydantic import Field

from kinx_loadbalancer_agent.api.documents import tree
from kinx_loadbalancer_agent.errors import Fault, Refusal
from kinx_loadbalancer_agent.model import export
from kinx_loadbalancer_agent.model.intents import Folded
from kinx_loadbalancer_agent.model.kinds import KINDS, Kind, Kinds, Reference
from kinx_loadbalancer_agent.model.resources import Ref, Resource
from kinx_loadbalancer_agent.model.types import HostAddress, Text, Token
from kinx_loadbalancer_agent.services.haproxy.view import Renderer
from kinx_loadbalancer_agent.services.routing.service import Routing
from kinx_loadbalancer_agent.services.text import Templates
from kinx_loadbalancer_agent.settings import RoutingSettings
from kinx_loadbalancer_agent.system.clock import Deadline, SystemClock
from tests.conftest import need
from tests.fuzz.caller import Caller
from tests.fuzz.conftest import law, tried
from tests.fuzz.hostile import MEANINGLESS, SYNONYMS
from tests.fuzz.steps import Step, can_be_told, parent, paths, pointing, posts, told
from tests.fuzz.strategies import (
    ADDRESS,
    LOOPBACK,
    NEAR,
    PORTS,
    TOKENS,
    Body,
    Documents,
    agreeing,
    without,
)
from tests.fuzz.tokens import said, sections, words
from tests.golden.cases import NODE
from tests.machine import running
from tests.unit.desired import ALWAYS, Desired

pytestmark = pytest.mark.timeout(3600)

Files = Mapping[str, bytes]

MEETING = Documents(fields={"vip_address": ADDRESS})
"""Documents that name each other, mostly."""
APART = Documents(names=TOKENS, fields={"vip_address": ADDRESS})
"""Documents with any name there may be."""
PATHS = paths(MEETING) | paths(APART)
TEMPLATES = Templates()
EXPECTED = (
    "since it has no log address.",  # a process without root has no /dev/log to name
    "kinx.state': No such file or directory",  # it is there from the first load on
)


# --- the strategies ------------------------------------------------------------------------------


class Invented(Resource):
    """A kind that nobody thought of."""

    kind = "inventions"

    id: Token
    colour: Literal["red", "green"]
    code: Annotated[str, Field(pattern=r"^[a-f]{3}-\d$")]
    size: Annotated[int, Field(gt=3, lt=6)] = 4
    address: HostAddress | None = None
    pool_id: Token | None = None
    tags: tuple[Text, ...] = ()

    @classmethod
    def faults(cls, values: Mapping[str, Any]) -> Iterator[Fault]:
        if values.get("size") == 5 and values["colour"] == "red":
            yield Fault("/size", "is too much")


@tried(20, 1000, data=st.data())
def test_an_invented_kind_has_its_strategies_at_once(data: st.DataObject) -> None:
    row = Kind(
        model=Invented, collection="/api/x", references=(Reference("pool_id", "pools", owns=True),)
    )
    documents = Documents(Kinds((*KINDS, row)))

    right = data.draw(documents.valid("inventions"))
    whole = data.draw(documents.nested("pools", documents.valid))

    Desired(kinds=documents.kinds).post("inventions", {**right, "pool_id": None})
    assert right.get("pool_id") in ("a", "b", "c", "backend-a", None)
    assert isinstance(whole.get("inventions", []), list)


# --- paths from state to state -------------------------------------------------------------------


def take(desired: Desired, step: Step) -> Folded | None:
    """Carry out *step*; None where it is refused, or about nothing that is there."""
    kind, there = desired.kinds[step.kind], list(desired.state.all(step.kind))
    ref = there[step.pick % len(there)].ref if there else None
    body = pointing(kind, step, desired.ids)
    try:
        if step.verb == "POST":
            return desired.post(kind.name, body, parent(kind, step, desired.ids))
        if ref is not None and step.verb == "PUT":
            return desired.put(kind.name, ref.id, body, ref.parent)
        if ref is not None:
            return desired.delete(kind.name, ref.id, ref.parent, cascade=step.pick % 2 == 0)
    except Refusal:
        pass
    return None


def along(steps: list[Step]) -> Iterator[tuple[Desired, Step]]:
    """Yield the state after each of *steps* that was taken; it is the same object, changed."""
    desired = Desired()
    for step in steps:
        if take(desired, step) is not None:
            yield desired, step


def after(steps: list[Step]) -> Desired:
    """Return the state that *steps* lead to."""
    found = Desired()
    for step in steps:
        take(found, step)
    return found


def rendered(desired: Desired, local_peer: str = "", kept: Renderer | None = None) -> Files:
    """Return the configuration of the state, made anew or by a renderer that is *kept*."""
    renderer = kept or Renderer(desired.kinds, TEMPLATES, NODE)
    target = renderer.render(desired.state, local_peer=local_peer)
    return {name: part.content for name, part in target.parts.items()}


def local_peers(desired: Desired) -> list[str]:
    """Return what the local peer may be: none, or the first that there is."""
    return ["", *desired.ids("peers")[:1]]


# --- what is admitted is accepted ----------------------------------------------------------------


def test_haproxy_accepts_every_admitted_state_without_a_warning() -> None:
    need("haproxy")
    checked: set[bytes] = set()

    @tried(10, 600, steps=PATHS)
    def is_accepted(steps: list[Step]) -> None:
        for desired, _ in along(steps):
            for local_peer in local_peers(desired):
                files = rendered(desired, local_peer)
                if files["00-global.cfg"] not in checked:  # which has the digest of all
                    assert complaints(files) == []
                    checked.add(files["00-global.cfg"])

    is_accepted()

    print(f"\n{len(checked)} different admitted states, none refused by haproxy -c")
    assert len(checked) >= 50


def complaints(files: Files) -> list[str]:
    """Return what ``haproxy -c`` has against *files*."""
    with tempfile.TemporaryDirectory() as directory:
        for name, content in files.items():
            Path(directory, name).write_bytes(content)
        check = ["haproxy", "-c", "-f", directory]
        ended = subprocess.run(check, capture_output=True, timeout=20)
    lines = ended.stderr.decode(errors="replace").splitlines()
    loud = [line for line in lines if line.startswith(("[ALERT]", "[WARNING]"))]
    found = [line for line in loud if not line.endswith(EXPECTED)]
    return found or (lines if ended.returncode else [])


SPEAKERS = [
    RoutingSettings(dialect=dialect, bfd=bfd, password=password, timers=timers, connect=connect)
    for dialect in ("frr", "quagga")
    for bfd, password, timers, connect in (
        ("off", None, "3 9", 5),
        ("100x3", "p.%=+-", "60 180", 120),
        ("300x255", "0", "1 65535", 65535),
    )
]


def test_vtysh_accepts_every_admitted_speaker_in_both_dialects() -> None:
    need("vtysh")
    clock, checked = SystemClock(), set()
    making = st.tuples(
        st.lists(posts(APART, "quagga"), min_size=1, max_size=1),
        st.lists(posts(APART, "vips"), max_size=4),
    )

    @tried(10, 400, steps=making.map(lambda two: two[0] + two[1]))
    def is_accepted(steps: list[Step]) -> None:
        for desired, _ in along(steps):
            for settings in SPEAKERS:
                routing = Routing(settings, TEMPLATES)
                content = routing.render(desired.state)
                if content not in checked:
                    routing.check(content, Deadline.after(clock, 20))
                    checked.add(content)

    is_accepted()

    print(f"\n{len(checked)} different admitted speakers, none refused by vtysh -C")
    assert len(checked) >= 50
    assert b"" not in checked


# --- fields in, tokens out -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("  bind\t*:80  # all", ["bind", "*:80"]),
        (r"a\ b \#c d\\ \"e\' f#g", ["a b", "#c", "d\\", "\"e'", "f"]),
        (r"\x41\t'B \n#'\"C\"", ['A\tB \\n#"C"']),
        ("""a"b 'c' #d"'e "f"' '' "\\\\" g""", ["ab 'c' #de \"f\"", "", "\\", "g"]),
    ],
)
def test_words_are_those_of_the_manual(line: str, expected: list[str]) -> None:
    assert words(line) == expected


@tried(30, 1000, steps=PATHS)
def test_what_fields_say_is_what_haproxy_reads_and_nothing_else(steps: list[Step]) -> None:
    empty = sections(rendered(Desired()))
    for desired, _ in along(steps):
        for local_peer in local_peers(desired):
            found = sections(rendered(desired, local_peer))

            common = {name: found.pop(name) for name in empty}
            assert found == dict(said(desired, local_peer))
            for name, directives in common.items():
                added = [one for one in directives if one not in empty[name]]
                assert len(directives) == len(empty[name])
                assert {one[0] for one in added} <= {"description", "localpeer"}
            assert ["localpeer", local_peer or NODE.node_name] in common["global",]


# --- the same again ------------------------------------------------------------------------------


@tried(40, 1000, steps=PATHS, data=st.data())
def test_the_same_document_in_other_words_changes_nothing(
    steps: list[Step], data: st.DataObject
) -> None:
    for desired, step in along([one for one in steps if one.verb == "POST"]):
        before, parent_id = desired.state, parent(desired.kinds[step.kind], step, desired.ids)
        again = data.draw(st.builds(reworded, *[st.just(desired), st.just(step), st.randoms()]))

        repeated = desired.post(step.kind, again, parent_id)

        assert (repeated.status, repeated.changes) == (200, ())
        assert desired.state == before


def reworded(desired: Desired, step: Step, random: Any) -> Body:
    """Return the document of *step* as another caller may write it."""
    kind = desired.kinds[step.kind]
    fields = kind.model.model_fields
    unsaid = {name for name in fields if not fields[name].is_required() and random.random() < 0.3}
    body = without(pointing(kind, step, desired.ids), unsaid)
    own = {name: body[name] for name in body if name in fields}
    found = without(body, own.keys() - agreeing(kind.model, own).keys())
    for synonym, name in SYNONYMS.items():
        if name in found and synonym not in fields and random.random() < 0.5:
            found[synonym] = found.pop(name)
    if "vip_address" in found and step.kind == "loadbalancers" and random.random() < 0.5:
        found["vip"] = {"ip_address": found.pop("vip_address"), "subnet_id": "a"}
    for name in MEANINGLESS:
        if name not in {*fields, *SYNONYMS, *found} and random.random() < 0.2:
            found[name] = random.choice(("a", None, 1))
    if step.kind == "healthmonitors" and random.random() < 0.5:
        found = {"id": found.pop("pool_id"), "healthmonitor": found}
    return {name: _respelled(value) for name, value in found.items()}


def _respelled(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _respelled(inner) for name, inner in value.items()}
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


@tried(30, 1000, steps=PATHS)
def test_a_put_of_what_get_shows_changes_nothing(steps: list[Step]) -> None:
    desired = after(steps)
    before, files, tags = desired.state, rendered(desired), etags(desired)

    for ref in tags:
        same = desired.put(ref.kind, ref.id, desired.get(*shown_at(ref)), ref.parent)
        assert (same.status, same.changes) == (200, ())

    assert desired.state == before
    assert etags(desired) == tags
    assert rendered(desired) == files


def shown_at(ref: Ref) -> tuple[str, str, str]:
    return ref.kind, ref.id, ref.parent


def etags(desired: Desired) -> dict[Ref, str]:
    """Return the ETag of everything there is."""
    there = [one.ref for kind in desired.kinds for one in desired.state.all(kind.name)]
    return {ref: desired.etag(*shown_at(ref)) for ref in there}


# --- the way does not matter ---------------------------------------------------------------------


@tried(30, 1000, steps=PATHS)
def test_what_is_rendered_on_the_way_is_what_is_rendered_anew(steps: list[Step]) -> None:
    kept = Renderer(Desired().kinds, TEMPLATES, NODE)

    for desired, _ in along(steps):
        for local_peer in local_peers(desired):
            assert rendered(desired, local_peer, kept) == rendered(desired, local_peer)


@tried(30, 1000, steps=PATHS)
def test_another_node_given_what_get_shows_ends_with_the_same_files(steps: list[Step]) -> None:
    desired = after([step for step in steps if can_be_told(step)])
    other = Desired()

    for kind, parent_id, body in told(desired.kinds, everything(desired)):
        other.post(kind, body, parent_id)

    assert rendered(other) == rendered(desired)
    assert etags(other) == etags(desired)


def everything(desired: Desired) -> list[tuple[str, str, Body]]:
    """Return all that GET shows: kind, parent, resource."""
    refs = etags(desired)
    return [(ref.kind, ref.parent, desired.get(*shown_at(ref))) for ref in refs]


def test_another_real_node_given_what_get_shows_ends_with_the_same_files() -> None:
    need("haproxy")
    documents = Documents(
        addresses=LOOPBACK, fields={"protocol_port": PORTS, "port": PORTS, "vip_address": NEAR}
    )
    sizes = []

    @law(2, 60, Phase.generate)
    @given(steps=paths(documents, most=1))
    def ends_the_same(steps: list[Step]) -> None:
        with running() as machine:
            caller = Caller(machine)
            for step in filter(can_be_told, steps):
                caller.take(step)
            shown, files = caller.shown(), machine.fragments()
            caller.hang_up()
        machine.root.mkdir()

        with running(root=machine.root) as other:
            caller = Caller(other)
            resources = [(ref.kind, ref.parent, shown[ref]) for ref in shown]
            for kind, parent_id, body in told(caller.kinds, resources):
                assert caller.post(kind, parent_id, body).status in (200, 201, 202)
            found, present = caller.shown(), other.fragments()
            caller.hang_up()

        assert present == files
        assert {ref: caller.own(ref, found[ref]) for ref in found} == {
            ref: caller.own(ref, shown[ref]) for ref in shown
        }
        sizes.append(len(shown))

    ends_the_same()

    assert max(sizes) >= 10


@tried(30, 1000, steps=PATHS, others=PATHS)
def test_a_node_rebuilt_from_an_export_is_the_same_whatever_it_held(
    steps: list[Step], others: list[Step]
) -> None:
    desired, empty, other = after(steps), Desired(), after(others)
    exported = export.whole(desired.state, desired.kinds)

    for node in (empty, other):
        rebuild(node, exported)

    for node in (empty, other):
        assert export.whole(node.state, node.kinds) == exported
        assert export.digest(node.state, node.kinds) == export.digest(desired.state, desired.kinds)
        assert etags(node) == etags(desired)
    if all(map(can_be_told, steps)):
        assert rendered(empty) == rendered(desired)


@tried(30, 1000, steps=PATHS)
def test_a_state_put_where_it_comes_from_changes_nothing(steps: list[Step]) -> None:
    desired = after(steps)

    same = rebuild(desired, export.whole(desired.state, desired.kinds))

    assert same.changes == ()


def rebuild(desired: Desired, exported: Body) -> Folded:
    """PUT a whole node."""
    documents = {kind.name: desired._document(kind.name) for kind in desired.kinds}
    gathering = tree.Gathering(desired.kinds, documents, is_whole=True)
    return desired._fold(tree.state(gathering, desired.kinds, exported), ALWAYS)
