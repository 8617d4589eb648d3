"""The types of fields: each parses what a caller sent into a value that is right everywhere.

A type whose values can reach a configuration file cannot hold white space, quotes, ``#`` or a
newline. Faults are worded for the caller. This module must never know a resource.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Any

from crontab import CronSlices
from netaddr import INET_PTON, AddrFormatError, IPAddress
from pydantic import AfterValidator, BeforeValidator, Field, Strict
from pydantic_core import PydanticCustomError

TOKEN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,63}")
NUMBER = re.compile(r"-?(0|[1-9][0-9]{0,18})")
UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\u2028\u2029]")
HOST_LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
SCHEDULE = re.compile(r"[0-9A-Za-z*/,-]{1,60}( [0-9A-Za-z*/,-]{1,60}){4}")
RESERVED_AS = frozenset({23456, 65535})  # RFC 6793 (AS_TRANS), RFC 7300
MAX_STICK_ENTRIES = 4_294_967_295
MAX_STICK_SECONDS = 24 * 86_400
SIZE_UNITS = {"": 1, "k": 1024, "m": 1024**2, "g": 1024**3}
TIME_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}

# What a JSON schema says of rules that are code.
PRINTABLE = r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029]*$"
HOST = r"^[A-Za-z0-9:][A-Za-z0-9.:-]{0,252}$"
CODES = r"^[1-5][0-9]{2}(-[1-5][0-9]{2}|(,[1-5][0-9]{2})*)$"
ADDRESS_FORMATS = ({"format": "ipv4"}, {"format": "ipv6"})


def fault(detail: str) -> PydanticCustomError:
    """Return the error a field's parser raises; *detail* is shown to the caller."""
    return PydanticCustomError("field", "{detail}", {"detail": detail})


def _shown(**keywords: Any) -> Any:
    return Field(json_schema_extra=keywords)


def _number(value: Any) -> Any:
    if isinstance(value, str) and NUMBER.fullmatch(value):
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise fault("must be an integer, or a string of its digits")
    return value


def _matching(pattern: str, detail: str) -> tuple[AfterValidator, Any]:
    """Return what refuses, by *detail*, a text that is not all *pattern*, and what shows that."""

    def parse(value: str) -> str:
        if not re.fullmatch(pattern, value):
            raise fault(detail)
        return value

    return AfterValidator(parse), _shown(pattern=f"^{pattern}$")


def _at_most(limit: int, units: Mapping[str, int], words: str) -> AfterValidator:
    """Return what refuses digits with one of *units* that are above *limit*, *words* for people."""

    def parse(value: str) -> str:
        digits = value.rstrip("".join(units))
        if int(digits) * units[value.removeprefix(digits)] > limit:
            raise fault(f"must not be above {words}")
        return value

    return AfterValidator(parse)


def _text(value: str) -> str:
    if UNPRINTABLE.search(value):
        raise fault("must not hold control characters, surrogates or line separators")
    return value


def parse_address(value: str) -> str:
    """Return the address *value* as netaddr prints it.

    Only the full textual forms of RFC 4291 (no zone id) and of dotted decimal without leading
    zeros: HAProxy takes ``1.2.3`` and ``010.0.0.1`` for something else than they look.
    """
    try:
        return str(IPAddress(value, flags=INET_PTON))
    except (AddrFormatError, ValueError) as error:
        raise fault("must be an IPv4 or IPv6 address, without a zone id") from error


def _unicast(value: str) -> str:
    address = IPAddress(value)
    if int(address) == 0 or address.is_multicast() or value == "255.255.255.255":
        raise fault("must be the address of one host")
    return value


def _router_id(value: str) -> str:
    if ":" in value:
        raise fault("must be an IPv4 address: it is the router id")
    return value


def _host(value: str) -> str:
    """Return an address as it is printed, or a host name (RFC 1123, 2.1)."""
    if ":" in value or re.fullmatch(r"[0-9.]+", value):
        return _unicast(parse_address(value))
    if len(value) > 253 or not all(HOST_LABEL.fullmatch(label) for label in value.split(".")):
        raise fault("must be an address, or a host name of letters, digits, hyphens and dots")
    return value


def _as_number(value: int) -> int:
    if value in RESERVED_AS:
        raise fault(f"must not be the reserved AS number {value}")
    return value


MONTHS = ("", "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
NAMED = ((3, MONTHS), (4, DAYS))
"""What crontab(5) has names for, by field."""


def _schedule(value: str) -> str:
    # python-crontab cannot compare a name with a number, as in "mon-5".
    fields = value.lower().split(" ")
    for at, names in NAMED if SCHEDULE.fullmatch(value) else ():
        for number, name in enumerate(names):
            fields[at] = fields[at].replace(name, str(number)) if name else fields[at]
    if not SCHEDULE.fullmatch(value) or not CronSlices.is_valid(" ".join(fields)):
        raise fault("must be five fields of crontab(5), a space between them")
    return value


def _codes(value: str) -> str:
    codes = [int(digits) for digits in re.findall(r"\d+", value)]
    is_range = re.fullmatch(r"\d{3}-\d{3}", value, re.ASCII)
    is_list = re.fullmatch(r"\d{3}(,\d{3})*", value, re.ASCII)
    if not (is_range or is_list) or not all(100 <= code <= 599 for code in codes):
        raise fault('must be status codes from 100 to 599 as "200", "200,202" or "200-204"')
    if is_range and codes[0] > codes[1]:
        raise fault("must be a range whose first code is not above its last")
    return value


Flag = Annotated[bool, Strict()]
String = Annotated[str, Strict()]
Digits = Annotated[str, Field(pattern=f"^{NUMBER.pattern}$")]
Integer = Annotated[int, BeforeValidator(_number, json_schema_input_type=int | Digits)]

Token = Annotated[
    String,
    *_matching(
        TOKEN.pattern, "must be 1 to 64 of A-Z a-z 0-9 _ . : - and begin with a letter or digit"
    ),
]
BackendName = Annotated[str, Field(pattern=rf"^backend-{TOKEN.pattern}$")]
Text = Annotated[String, Field(max_length=255), AfterValidator(_text), _shown(pattern=PRINTABLE)]
Address = Annotated[String, AfterValidator(parse_address), _shown(anyOf=ADDRESS_FORMATS)]
HostAddress = Annotated[Address, AfterValidator(_unicast)]
RouterId = Annotated[HostAddress, AfterValidator(_router_id), _shown(format="ipv4")]
HostName = Annotated[String, AfterValidator(_host), _shown(pattern=HOST)]
AsNumber = Annotated[Integer, Field(ge=1, le=4_294_967_294), AfterValidator(_as_number)]
Schedule = Annotated[String, AfterValidator(_schedule), _shown(pattern=f"^{SCHEDULE.pattern}$")]
Port = Annotated[Integer, Field(ge=1, le=65535)]
Weight = Annotated[Integer, Field(ge=0, le=256)]
UrlPath = Annotated[
    String,
    *_matching(
        r"/[!$-&(-\[\]-~]{0,254}",
        "must begin with / and be at most 255 printable ASCII characters without space, "
        "quotes, backslash and #",
    ),
]
StatusCodes = Annotated[
    String, Field(max_length=255), AfterValidator(_codes), _shown(pattern=CODES)
]
StickSize = Annotated[
    String,
    *_matching("[1-9][0-9]{0,6}[kmg]?", "must be 1 to 9999999 with an optional unit k, m or g"),
    _at_most(MAX_STICK_ENTRIES, SIZE_UNITS, f"{MAX_STICK_ENTRIES} entries"),
]
StickExpire = Annotated[
    String,
    *_matching("[1-9][0-9]{0,6}[smhd]", "must be 1 to 9999999 with the unit s, m, h or d"),
    _at_most(MAX_STICK_SECONDS, TIME_UNITS, "24 days"),
]
CookieName = Annotated[
    String,
    *_matching(
        r"[!$%&*+.^_`|~0-9A-Za-z-]{1,64}",
        "must be 1 to 64 characters of an RFC 6265 token, without ' and #",
    ),
]
