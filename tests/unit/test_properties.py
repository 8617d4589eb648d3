"""Laws of what reaches a configuration: what goes in comes out as one word, or not at all."""

import shlex
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kinx_loadbalancer_agent.errors import Refusal
from kinx_loadbalancer_agent.services.haproxy.view import Renderer
from kinx_loadbalancer_agent.services.text import Templates
from tests.golden.cases import NODE
from tests.unit.desired import Desired

NASTY = " \t\r\n\v\f\0\x1b\x7f\x85\u2028\u3000'\"#\\$%{}[]();,=/?&!*|<>é٣"
WORDS = st.text(st.sampled_from(NASTY + "aZ09._:-"), max_size=12)
TOKENS = st.from_regex(r"[A-Za-z0-9][\w.:-]{0,9}", fullmatch=True)


class Field(NamedTuple):
    """Something a caller fills in: values it may take, a plain one, and where it ends up."""

    likely: st.SearchStrategy[str]
    plain: str
    line: str


FIELDS = {
    "listener": Field(TOKENS, "x", "frontend {}"),
    "pool": Field(TOKENS, "x", "backend backend-{}"),
    "member": Field(TOKENS, "x", "server {} 192.0.2.7:80 weight 1"),
    "address": Field(st.ip_addresses(v=4).map(str), "192.0.2.8", "server m {}:80 weight 1"),
    "stick_size": Field(
        st.from_regex(r"[1-9][0-9]{0,3}[kmg]?"),
        "1k",
        "stick-table type ip size {} expire 1d",
    ),
    "stick_expire": Field(
        st.from_regex(r"[1-9][0-9]?[smhd]"), "1d", "stick-table type ip size 1k expire {}"
    ),
    "cookie_name": Field(
        st.from_regex(r"[A-Za-z!$%&*+.^_`|~-]{1,9}"), "x", "stick match req.cook({})"
    ),
    "url_path": Field(st.from_regex(r"/[ -~]{0,12}"), "/", "option httpchk GET {}"),
    "expected_codes": Field(
        st.from_regex(r"[1-5][0-9]{2}([,-][1-5][0-9]{2})?"), "200", "http-check expect status {}"
    ),
}


def sent(**said: str) -> Desired:
    """Return a state made of what is *said*; raises a Refusal where that is not taken."""
    desired = Desired()
    desired.post(
        "listeners",
        {
            "id": said.get("listener", "li"),
            "protocol": "HTTP",
            "protocol_port": 80,
            "vip_address": "192.0.2.1",
        },
    )
    pool = said.get("pool", "po")
    body: dict[str, Any] = {"id": pool, "protocol": "HTTP", "lb_algorithm": "ROUND_ROBIN"}
    if said.keys() & {"stick_size", "stick_expire"}:
        stick = {"stick_size": "1k", "stick_expire": "1d"} | said
        body |= stick
    if "cookie_name" in said:
        body["session_persistence"] = {"type": "APP_COOKIE"} | said
    desired.post("pools", body)
    member = {"id": said.get("member", "m"), "address": said.get("address", "192.0.2.7")}
    desired.post("members", member | {"protocol_port": 80}, pool)
    if said.keys() & {"url_path", "expected_codes"}:
        monitor = {"type": "HTTP", "delay": 3, "timeout": 2}
        desired.post("healthmonitors", monitor | said, id=pool)
    return desired


def lines(desired: Desired) -> list[str]:
    """Return every line of the configuration."""
    target = Renderer(desired.kinds, Templates(), NODE).render(desired.state)
    text = "".join(part.content.decode() for part in target.parts.values())
    return [line.strip(" ") for line in text.split("\n")]


@pytest.mark.parametrize("name", FIELDS)
@given(data=st.data())
def test_a_value_is_refused_or_is_one_word_of_one_line(name: str, data: st.DataObject) -> None:
    field = FIELDS[name]
    value = data.draw(field.likely | WORDS)

    try:
        found = lines(sent(**{name: value}))
    except Refusal:
        return

    wanted = field.line.format(value).split(" ")
    words = [shlex.split(line, comments=True) for line in found]  # splits as HAProxy does
    assert wanted in [line[: len(wanted)] for line in words]
    assert len(found) == len(lines(sent(**{name: field.plain})))
    assert "".join(found).isprintable()


@given(text=st.text(max_size=255))
def test_free_text_comes_back_as_it_was_and_is_in_no_line(text: str) -> None:
    desired = sent()
    before = lines(desired)

    try:
        desired.put("listeners", "li", {"name": text, "description": text})
    except Refusal:
        assert not text.isprintable()
        return

    assert desired.get("listeners", "li")["name"] == text
    assert lines(desired) == before
