"""The speaker's configuration: what to say so that a daemon that runs one runs another."""

from typing import cast

import pytest

from kinx_loadbalancer_agent.services.routing import config, facts
from kinx_loadbalancer_agent.services.routing.gate import Gate
from kinx_loadbalancer_agent.services.routing.service import Routing, Seen
from kinx_loadbalancer_agent.services.text import Templates
from kinx_loadbalancer_agent.settings import RoutingSettings
from kinx_loadbalancer_agent.system.clock import Deadline, SystemClock
from tests.conftest import need
from tests.unit.desired import Desired

SPEAKER = {
    "hostname": "lbv-1",
    "inter_as_number": 50235,
    "vm_addr": "10.40.252.235",
    "primary_gateway_addr": "10.40.252.2",
    "router_as_number": 60201,
    "vip_addr": "1.201.0.47",
}
SHOWN = """\
Building configuration...

Current configuration:
!
frr version 8.4.4
frr defaults traditional
hostname vm
no ip forwarding
no ipv6 forwarding
service integrated-vtysh-config
!
router bgp 50235
 bgp router-id 10.40.252.235
 no bgp default ipv4-unicast
 coalesce-time 0
 timers bgp 3 9
 neighbor 10.40.252.2 remote-as 60201
 neighbor 10.40.252.2 timers connect 5
 !
 address-family ipv4 unicast
  network 1.201.0.47/32
  neighbor 10.40.252.2 activate
  neighbor 10.40.252.2 prefix-list klb-none in
  neighbor 10.40.252.2 prefix-list klb-vips out
 exit-address-family
exit
!
ip prefix-list klb-vips seq 5 permit 0.0.0.0/0 ge 32
ip prefix-list klb-none seq 5 deny any
!
end
"""
"""What FRR 8.4.4 shows of the speaker SPEAKER (show running-config)."""

BGP, FAMILY = "router bgp 50235", "address-family ipv4 unicast"
OUT = ["exit-address-family", "exit"]


def file(*vips: str, settings: RoutingSettings | None = None, **members: object) -> str:
    """Return the file of SPEAKER with other *members* and more *vips*."""
    desired = Desired()
    desired.post("quagga", SPEAKER | members)
    for vip in vips:
        desired.post("vips", {"vip_addr": vip}, "quagga")
    return Routing(settings or RoutingSettings(), Templates()).render(desired.state).decode()


def said(wanted: str, shown: str = SHOWN) -> list[str]:
    return config.spoken(config.difference(config.lines(wanted), config.lines(shown)))


def test_to_a_daemon_that_runs_it_nothing_is_said() -> None:
    assert said(file()) == []


def test_a_vip_that_comes_is_one_line() -> None:
    assert said(file("1.201.0.48")) == [BGP, FAMILY, "network 1.201.0.48/32", *OUT]


def test_a_vip_that_goes_is_one_line() -> None:
    shown = SHOWN.replace("  network", "  network 192.0.2.7/32\n  network")

    assert said(file(), shown) == [BGP, FAMILY, "no network 192.0.2.7/32", *OUT]


def test_what_ends_is_said_before_what_begins() -> None:
    told = said(file(vip_addr="1.201.0.48"))

    assert told == [BGP, FAMILY, "no network 1.201.0.47/32", "network 1.201.0.48/32", *OUT]


def test_what_somebody_else_has_there_stays_but_what_he_announces() -> None:
    shown = SHOWN.replace(
        " !\n",
        " bgp log-neighbor-changes\n neighbor 192.0.2.1 remote-as 7\n !\n",
        1,
    ).replace("  network", "  redistribute static\n  neighbor 192.0.2.1 activate\n  network")
    shown = shown.replace("ip prefix", "ip prefix-list theirs seq 5 permit any\nip prefix", 1)

    assert said(file(), shown) == [BGP, FAMILY, "no redistribute static", *OUT]


def test_another_gateway_takes_the_place_of_the_one_before() -> None:
    told = said(file(primary_gateway_addr="10.40.252.3"))

    assert told[:2] == [BGP, "no neighbor 10.40.252.2"]
    assert "neighbor 10.40.252.3 remote-as 60201" in told
    assert not any("10.40.252.2" in line for line in told[2:])


def test_a_value_is_set_anew_without_a_no() -> None:
    told = said(file(settings=RoutingSettings(timers="1 3", connect=2), router_as_number=7))

    assert told == [
        BGP,
        *("timers bgp 1 3", "neighbor 10.40.252.2 remote-as 7"),
        *("neighbor 10.40.252.2 timers connect 2", "exit"),
    ]


def test_a_value_that_becomes_the_default_goes() -> None:
    told = said(file(settings=RoutingSettings(timers="60 180", connect=120)))

    assert told == [BGP, "no timers bgp 3 9", "no neighbor 10.40.252.2 timers connect 5", "exit"]


def test_what_was_typed_for_a_gateway_of_ours_goes() -> None:
    shown = SHOWN.replace(" !\n", " neighbor 10.40.252.2 shutdown\n !\n", 1)

    assert said(file(), shown) == [BGP, "no neighbor 10.40.252.2 shutdown", "exit"]


def test_another_as_is_another_speaker() -> None:
    told = said(file(inter_as_number=64512))

    assert told[:2] == ["no router bgp 50235", "router bgp 64512"]
    assert "network 1.201.0.47/32" in told
    assert not any("prefix-list klb-vips seq" in line for line in told)


def test_without_a_speaker_nothing_of_ours_is_left() -> None:
    shown = SHOWN.replace("ip prefix", "ip prefix-list theirs seq 5 permit any\nip prefix", 1)

    assert said("", shown) == [
        "no router bgp 50235",
        "no ip prefix-list klb-vips seq 5 permit 0.0.0.0/0 ge 32",
        "no ip prefix-list klb-none seq 5 deny any",
    ]


def test_without_a_speaker_somebody_elses_is_left_alone() -> None:
    theirs = "router bgp 7\n bgp router-id 192.0.2.1\nexit\nend\n"

    assert said("", theirs) == []


@pytest.mark.parametrize("shown", ["", SHOWN])
def test_vtysh_takes_what_is_said(shown: str) -> None:
    need("vtysh")
    settings = RoutingSettings(password="secret", bfd="100x3")
    told = said(file("2001:db8::47", "1.201.0.48", settings=settings), shown)

    content = "".join(f"{line}\n" for line in told).encode()
    Routing(settings, Templates()).check(content, Deadline.after(SystemClock(), 10))


def test_bfdd_is_told_of_profiles_alone() -> None:
    settings = RoutingSettings(bfd="100x3")
    routing = Routing(settings, Templates(), gate=cast(Gate, object()))
    wanted = file(settings=settings)
    lists = "ip prefix-list klb-vips seq 5 permit 0.0.0.0/0 ge 32\n"
    bfd = "bfd\n profile klb\n  transmit-interval 100\n exit\nexit\n"
    seen = Seen(b"", facts.Speaker(wanted, frozenset(), {}), lists + bfd, "")

    told = routing.difference(wanted.encode(), seen)

    assert told == {"bgpd": [], "bfdd": [("bfd", "profile klb", "receive-interval 100")]}


def test_what_a_profile_no_longer_says_is_said_to_be_the_default() -> None:
    shown = "bfd\n profile klb\n  transmit-interval 100\n  detect-multiplier 5\n exit\nexit\nend\n"
    wanted = "bfd\n profile klb\n  transmit-interval 50\n exit\nexit\n"

    told = said(wanted, shown)

    assert told == [
        *("bfd", "profile klb", "transmit-interval 50"),
        *("detect-multiplier 3", "exit", "exit"),
    ]
    assert said("", shown) == ["bfd", "no profile klb", "exit"]


def test_the_profile_of_a_gateway_goes_before_its_bfd() -> None:
    shown = SHOWN.replace(
        " !\n", " neighbor 10.40.252.2 bfd\n neighbor 10.40.252.2 bfd profile klb\n !\n", 1
    )

    told = said(file(), shown)

    assert told == [
        BGP,
        *("no neighbor 10.40.252.2 bfd profile klb", "no neighbor 10.40.252.2 bfd", "exit"),
    ]


def test_a_description_that_sounds_like_ours_is_somebody_elses() -> None:
    theirs = " neighbor 192.0.2.9 remote-as 7\n neighbor 192.0.2.9 description uplink klb\n"
    shown = SHOWN.replace(" !\n", f"{theirs} !\n", 1)

    assert said(file(), shown) == []


def test_a_password_of_others_is_shown_to_nobody() -> None:
    routing = Routing(RoutingSettings(), Templates())

    shown = routing.readable(b" neighbor 192.0.2.9 password top secret\n")

    assert shown == " neighbor 192.0.2.9 password ...\n"


def test_a_session_tells_why_it_is_not_there() -> None:
    answer = """{"routes": {"1.201.0.47/32": [{"valid": true}], "192.0.2.7/32": [{}]}}
        {} {"10.40.252.2": {"bgpState": "Established", "bgpTimerUpMsec": 61999,
            "addressFamilyInfo": {"ipv4Unicast": {"sentPrefixCounter": 1}}},
            "10.40.252.3": {"bgpState": "Active", "bgpTimerUpMsec": 5,
            "lastResetDueTo": "Hold Timer Expired"}}"""

    found = facts.speaker(SHOWN + answer)

    assert (found.prefixes, found.is_heard) == ({"1.201.0.47/32"}, True)
    assert found.sessions["10.40.252.2"] == ("10.40.252.2", "Established", 61, 1, None)
    down = ("10.40.252.3", "Active", None, 0, "Hold Timer Expired")
    assert found.sessions["10.40.252.3"] == down
