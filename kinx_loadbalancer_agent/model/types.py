"""The types of fields: each parses what a caller sent into a value that is right everywhere.

A type whose values can reach a configuration file cannot hold white space, quotes, ``#`` or a
newline. Faults are worded for the caller. This module must never know a resource.
"""

import re
from collections.abc import Callable
from typing import Annotated, Any

from netaddr import INET_PTON, AddrFormatError, IPAddress
from pydantic import AfterValidator, BeforeValidator, Field, Strict
from pydantic_core import PydanticCustomError

TOKEN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,63}")
NUMBER = re.compile(r"-?(0|[1-9][0-9]{0,18})")
UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\u2028\u2029]")
MAX_STICK_ENTRIES = 4_294_967_295
MAX_STICK_SECONDS = 24 * 86_400
SIZE_UNITS = {"": 1, "k": 1024, "m": 1024**2, "g": 1024**3}
TIME_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def fault(detail: str) -> PydanticCustomError:
    """Return the error a field's parser raises; *detail* is shown to the caller."""
    return PydanticCustomError("field", "{detail}", {"detail": detail})


def _number(value: Any) -> Any:
    if isinstance(value, str) and NUMBER.fullmatch(value):
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise fault("must be an integer, or a string of its digits")
    return value


def _matching(pattern: str, detail: str) -> Callable[[str], str]:
    compiled = re.compile(pattern)

    def parse(value: str) -> str:
        if not compiled.fullmatch(value):
            raise fault(detail)
        return value

    return parse


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


def _codes(value: str) -> str:
    codes = [int(digits) for digits in re.findall(r"\d+", value)]
    is_range = re.fullmatch(r"\d{3}-\d{3}", value, re.ASCII)
    is_list = re.fullmatch(r"\d{3}(,\d{3})*", value, re.ASCII)
    if not (is_range or is_list) or not all(100 <= code <= 599 for code in codes):
        raise fault('must be status codes from 100 to 599 as "200", "200,202" or "200-204"')
    if is_range and codes[0] > codes[1]:
        raise fault("must be a range whose first code is not above its last")
    return value


def _stick_size(value: str) -> str:
    match = re.fullmatch(r"([1-9][0-9]{0,6})([kmg]?)", value)
    if not match:
        raise fault("must be 1 to 9999999 with an optional unit k, m or g")
    if int(match[1]) * SIZE_UNITS[match[2]] > MAX_STICK_ENTRIES:
        raise fault(f"must not be above {MAX_STICK_ENTRIES} entries")
    return value


def _stick_expire(value: str) -> str:
    match = re.fullmatch(r"([1-9][0-9]{0,6})([smhd])", value)
    if not match:
        raise fault("must be 1 to 9999999 with the unit s, m, h or d")
    if int(match[1]) * TIME_UNITS[match[2]] > MAX_STICK_SECONDS:
        raise fault("must not be above 24 days")
    return value


Flag = Annotated[bool, Strict()]
String = Annotated[str, Strict()]
Integer = Annotated[int, BeforeValidator(_number, json_schema_input_type=int | str)]

Token = Annotated[
    String,
    AfterValidator(
        _matching(
            TOKEN.pattern,
            "must be 1 to 64 of A-Z a-z 0-9 _ . : - and begin with a letter or digit",
        )
    ),
    Field(json_schema_extra={"pattern": f"^{TOKEN.pattern}$"}),
]
BackendName = Annotated[str, Field(pattern=rf"^backend-{TOKEN.pattern}$")]
Text = Annotated[String, Field(max_length=255), AfterValidator(_text)]
Address = Annotated[String, AfterValidator(parse_address)]
HostAddress = Annotated[Address, AfterValidator(_unicast)]
Port = Annotated[Integer, Field(ge=1, le=65535)]
Weight = Annotated[Integer, Field(ge=0, le=256)]
UrlPath = Annotated[
    String,
    AfterValidator(
        _matching(
            r"/[!$-&(-\[\]-~]{0,254}",
            "must begin with / and be at most 255 printable ASCII characters without space, "
            "quotes, backslash and #",
        )
    ),
]
StatusCodes = Annotated[String, Field(max_length=255), AfterValidator(_codes)]
StickSize = Annotated[String, AfterValidator(_stick_size)]
StickExpire = Annotated[String, AfterValidator(_stick_expire)]
CookieName = Annotated[
    String,
    AfterValidator(
        _matching(
            r"[!$%&*+.^_`|~0-9A-Za-z-]{1,64}",
            "must be 1 to 64 characters of an RFC 6265 token, without ' and #",
        )
    ),
]
