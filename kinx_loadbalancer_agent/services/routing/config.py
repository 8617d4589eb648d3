"""FRR's configuration as lines, each with those that it stands under; what to say to change it.

Ours are the speaker's own lines, every network that is announced, and all that bears our name;
what somebody else has there, as another neighbor, stays. Pure.
"""

import re
from collections.abc import Iterable, Iterator

Line = tuple[str, ...]
"""A line and, before it, the lines that it stands under."""

SPEAKER = "router bgp "
OURS = re.compile(r"\b(?:prefix-list|profile) klb\b")
PROFILE = ("bfd", "profile klb")
DEFAULTS = {
    "transmit-interval": "transmit-interval 300",
    "receive-interval": "receive-interval 300",
    "detect-multiplier": "detect-multiplier 3",
}
"""What is said of a profile for a value that goes: FRR 8.4 knows no "no" of them."""

FRAME = re.compile(r"!|end$|exit|Building configuration|Current configuration|$")
OF_HOST = re.compile(
    r"frr (version|defaults) |hostname |service |(no )?log |(no )?ip(v6)? forwarding"
)
"""What is the host's, or read at a start only."""

VALUED = re.compile(
    r"bgp router-id|timers bgp|coalesce-time|detect-multiplier|receive-interval|transmit-interval|"
    r"neighbor \S+ (remote-as|password|timers connect|bfd profile)"
)
"""What is set anew by its other value, and needs no "no" before."""

ANNOUNCING = ("network ", "redistribute ")


def lines(text: str) -> list[Line]:
    """Return the lines of a configuration, by indentation, in order."""
    found: list[Line] = []
    above: list[str] = []
    for line in text.splitlines():
        words = line.strip()
        if FRAME.match(words):
            continue
        above = [*above[: len(line) - len(line.lstrip(" "))], words]
        if not OF_HOST.match(above[0]):
            found.append(tuple(above))
    return found


def difference(wanted: Iterable[Line], running: Iterable[Line]) -> list[Line]:
    """Return what to say, "no" before what goes, so that a daemon runs *wanted*.

    What is announced ends first, what others name goes last.
    """
    asked, there = dict.fromkeys(wanted), dict.fromkeys(running)
    # "no neighbor X bfd" leaves the profile, which brings it back.
    leaving = sorted(_leaving(asked, there), key=lambda line: " bfd profile " not in line[-1])
    told = [line for line in leaving if line[0].startswith((SPEAKER, f"no {SPEAKER}"))]
    told += [line for line in asked if line not in there]
    return told + [line for line in leaving if line not in told]


def spoken(told: Iterable[Line]) -> list[str]:
    """Return *told* as a file of vtysh: with the lines that lead there and back."""
    said: list[str] = []
    at: Line = ()
    for line in told:
        above = line[:-1]
        shared = _shared(at, above)
        said += [_exit(one) for one in reversed(at[shared:])]
        said += [*above[shared:], line[-1]]
        at = line if _leads(line[-1]) else above
    return said + [_exit(one) for one in reversed(at)]


def withdrawal(speaker: str, prefixes: Iterable[str]) -> list[Line]:
    """Return what to say so that *speaker*, a ``router bgp`` line, announces *prefixes* no more."""
    return [(speaker, _family(prefix), f"no network {prefix}") for prefix in sorted(prefixes)]


def _leaving(asked: dict[Line, None], there: dict[Line, None]) -> Iterator[Line]:
    speakers = {line[0] for line in asked if line[0].startswith(SPEAKER)}
    ours = {line[0] for line in there if line[0].startswith(SPEAKER) and OURS.search(line[-1])}
    keys = {(line[:-1], key) for line in asked if (key := _key(line[-1]))}
    neighbors = {one for line in asked if (one := _neighbor(line[-1]))}
    marked = {one for line in there if OURS.search(line[-1]) and (one := _neighbor(line[-1]))}
    for line in there:
        above, words = line[:-1], line[-1]
        if line in asked or (above, _key(words)) in keys:
            continue
        if not above:
            other_speaker = words.startswith(SPEAKER) and " vrf " not in words
            if (other_speaker and (speakers or words in ours)) or OURS.search(words):
                yield (_no(words),)
        elif above[0] in speakers:
            neighbor = _neighbor(words)
            if neighbor in marked - neighbors:
                if "remote-as" in words:
                    yield (*above, f"no neighbor {neighbor}")
            elif (
                neighbor in neighbors
                or words.startswith(ANNOUNCING)
                or (_key(words) and not neighbor)
            ):
                yield (*above, _no(words))
        elif line == PROFILE:
            yield ("bfd", "no profile klb")
        elif above == PROFILE and PROFILE in asked:
            yield (*above, DEFAULTS.get(_key(words), _no(words)))


def _shared(one: Line, other: Line) -> int:
    """Return how many lines both begin with."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))


def _no(words: str) -> str:
    return words.removeprefix("no ") if words.startswith("no ") else f"no {words}"


def _key(words: str) -> str:
    found = VALUED.match(words)
    return found[0] if found else ""


def _neighbor(words: str) -> str:
    found = re.match(r"(?:no )?neighbor (\S+)", words)
    return found[1] if found else ""


def _family(prefix: str) -> str:
    return f"address-family ipv{6 if ':' in prefix else 4} unicast"


def _leads(words: str) -> bool:
    return words.startswith((SPEAKER, "address-family ", "profile ")) or words == "bfd"


def _exit(words: str) -> str:
    return "exit-address-family" if words.startswith("address-family") else "exit"
