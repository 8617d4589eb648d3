"""Every case of routing: the documents become exactly this file, and the real vtysh reads it."""

import subprocess
from pathlib import Path

import pytest

from kinx_loadbalancer_agent.errors import CheckRefused
from kinx_loadbalancer_agent.services.routing.service import MARK, Routing
from kinx_loadbalancer_agent.services.text import Templates
from kinx_loadbalancer_agent.settings import RoutingSettings
from kinx_loadbalancer_agent.system.clock import Deadline, SystemClock
from tests.conftest import need
from tests.golden.routing.cases import CASES, DIRECTORY, expected, rendered

QUAGGA = """\
hostname lbv-37f0c3aa-a754-4f2c-9712-e35422002cea
router bgp 50235
bgp router-id 10.40.252.235
redistribute static route-map bgp-access
neighbor 10.40.252.2 remote-as 60201
neighbor 10.40.252.3 remote-as 60201
network 1.201.0.47/32
route-map bgp-access permit 10
match ip address prefix-list pl-route
ip prefix-list pl-route seq 10 permit 0.0.0.0/0 ge 31
log file /var/log/quagga/bgpd.log
line vty
"""
"""The original's bgpd.conf, in its order, without the password it had for everybody."""
FRR_WITH_BFD = """\
frr defaults traditional
hostname lbv-37f0c3aa
no ip forwarding
no ipv6 forwarding
ip prefix-list klb-vips seq 5 permit 0.0.0.0/0 ge 32
ip prefix-list klb-none seq 5 deny any
router bgp 50235
 bgp router-id 10.40.252.235
 no bgp default ipv4-unicast
 coalesce-time 0
 timers bgp 3 9
 neighbor 10.40.252.2 remote-as 60201
 neighbor 10.40.252.2 timers connect 5
 neighbor 10.40.252.2 bfd
 neighbor 10.40.252.2 bfd profile klb
 neighbor 10.40.252.3 remote-as 60201
 neighbor 10.40.252.3 timers connect 5
 neighbor 10.40.252.3 bfd
 neighbor 10.40.252.3 bfd profile klb
 address-family ipv4 unicast
  network 1.201.0.47/32
  neighbor 10.40.252.2 activate
  neighbor 10.40.252.2 prefix-list klb-vips out
  neighbor 10.40.252.2 prefix-list klb-none in
  neighbor 10.40.252.3 activate
  neighbor 10.40.252.3 prefix-list klb-vips out
  neighbor 10.40.252.3 prefix-list klb-none in
 exit-address-family
exit
"""
PROFILE = """\
bfd
 profile klb
  receive-interval 100
  transmit-interval 100
 exit
exit
"""
"""What was run on FRR 8.4.4 with two routers: sessions up, routes announced, ECMP on both."""


def text(case: str) -> str:
    """Return the one file of *case*, without the line that says whose it is."""
    (content,) = expected(case).values()
    assert content.startswith(MARK)
    return content.removeprefix(MARK).decode()


def vtysh(path: Path) -> subprocess.CompletedProcess[str]:
    need("vtysh")
    check = ["vtysh", "-C", "-f", str(path)]
    return subprocess.run(check, capture_output=True, text=True, timeout=20)


@pytest.mark.parametrize("case", CASES)
def test_the_documents_become_exactly_this_file(case: str) -> None:
    files = rendered(case)

    assert files == expected(case)


@pytest.mark.parametrize("case", CASES)
def test_vtysh_accepts_the_file(case: str) -> None:
    (name,) = expected(case)

    ended = vtysh(DIRECTORY / case / name)

    assert ended.returncode == 0, ended.stdout + ended.stderr


@pytest.mark.parametrize("case", CASES)
def test_vtysh_refuses_the_file_with_a_word_too_many(case: str, tmp_path: Path) -> None:
    (content,) = expected(case).values()
    broken = content.replace(b" bgp router-id ", b" bgp router-id nonsense ")
    (tmp_path / "broken.conf").write_bytes(broken)

    ended = vtysh(tmp_path / "broken.conf")
    with pytest.raises(CheckRefused) as caught:
        Routing(RoutingSettings(), Templates()).check(broken, Deadline.after(SystemClock(), 10))

    assert ended.returncode == 2
    assert "bgp router-id nonsense" in caught.value.words
    assert str(caught.value).startswith("vtysh refuses")


def test_the_quagga_dialect_is_the_originals_text_to_the_letter() -> None:
    lines = [line.strip() for line in text("quagga").splitlines()]

    assert lines == QUAGGA.splitlines()


def test_frr_with_bfd_is_the_text_that_was_measured() -> None:
    assert text("frr-bfd") == FRR_WITH_BFD + PROFILE


def test_bfd_is_off_unless_the_settings_ask_for_it() -> None:
    without = [line for line in FRR_WITH_BFD.splitlines(keepends=True) if " bfd" not in line]

    assert text("frr") == "".join(without)


@pytest.mark.parametrize("case", [case for case in CASES if "password" not in case])
def test_no_password_is_rendered_that_no_setting_gives(case: str) -> None:
    assert "password" not in text(case)


@pytest.mark.parametrize("case", ["frr-password", "quagga-password"])
def test_the_password_of_the_settings_is_that_of_each_session_and_of_nothing_else(
    case: str,
) -> None:
    lines = [line.strip() for line in text(case).splitlines() if "password" in line]

    assert lines == [f"neighbor 10.40.252.{host} password s3cret.of:bgp" for host in (2, 3)]


def test_nothing_is_rendered_that_equals_frrs_default() -> None:
    assert "timers" not in text("frr-timers-as-frr-has-them")
    assert text("frr-bfd-as-frr-has-it").endswith("bfd\n profile klb\n exit\nexit\n")


def test_quagga_gets_nothing_that_only_frr_knows() -> None:
    assert text("quagga-without-what-it-lacks") == text("quagga")


def test_one_gateway_is_one_neighbor() -> None:
    neighbors = [line.split()[1] for line in text("frr-one-gateway").splitlines() if " nei" in line]

    assert set(neighbors) == {"10.40.252.2"}


def test_every_vip_is_a_host_route_of_its_family_in_the_order_of_numbers() -> None:
    networks = [
        line.split()[1] for line in text("frr-two-families").splitlines() if "network" in line
    ]

    ipv4 = ["1.201.0.5/32", "1.201.0.47/32", "192.0.2.1/32"]
    assert networks == [*ipv4, "2001:db8::5/128", "2001:db8::47/128"]


def test_each_family_has_filters_both_ways_for_each_neighbor() -> None:
    families = text("frr-two-families").split("address-family ")[1:]

    for family in (found for found in families if "unicast" in found):
        for neighbor in ("10.40.252.2", "10.40.252.3"):
            assert f"neighbor {neighbor} prefix-list klb-vips out\n" in family
            assert f"neighbor {neighbor} prefix-list klb-none in\n" in family
    assert "\nipv6 prefix-list klb-none seq 5 deny any\n" in text("frr-two-families")
