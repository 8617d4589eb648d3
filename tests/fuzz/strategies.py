"""Strategies from the table of kinds: documents that break none of their own rules.

What a document may say follows from the fields of its kind's model and their types, so that a new
kind has its strategies as soon as it has its row.
"""

import string
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from ipaddress import IPv4Address, IPv6Address
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from hypothesis import strategies as st
from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from kinx_loadbalancer_agent.model import export
from kinx_loadbalancer_agent.model.kinds import Kind, Kinds
from kinx_loadbalancer_agent.model.resources import Resource

Strategy = st.SearchStrategy
Body = dict[str, Any]
Element = Callable[[str], Strategy[Any]]
"""What stands for a document of a kind in a larger one."""

ALSO = {"quagga": ("vips",)}
"""Kinds whose documents name a resource of another one too (CONTRACT, section 2)."""

# --- strings that some type takes ----------------------------------------------------------------

ALPHANUMERIC = string.ascii_letters + string.digits
COOKIE = ALPHANUMERIC + "!$%&*+.^_`|~-"
PATH = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in "\"'\\#")
PRINTED = st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp"))
PROTOCOLS = ("HTTP", "http", "Tcp", "HTTPS", "TERMINATED_HTTPS")
TIMES = ("*", "*/5", "1-5", "1,3,5", "2", "6")
MIDNIGHTS = ("0 0 * * *", "0 * * * *", "0 0 1 * *", "0 0 * * 0", "0 5 1-31 * 1", "59 23 31 12 6")


def _text(alphabet: str, most: int = 12) -> Strategy[str]:
    return st.text(st.sampled_from(alphabet), max_size=most)


def _joined(*parts: Strategy[Any]) -> Strategy[str]:
    return st.tuples(*parts).map(lambda found: "".join(map(str, found)))


Looks = tuple[tuple[tuple[str, ...], Strategy[str]], ...]
TOKENS = _joined(st.sampled_from(ALPHANUMERIC), _text(ALPHANUMERIC + "_.:-") | _text(".:", 63))
LABELS = _joined(st.sampled_from(ALPHANUMERIC), _text(ALPHANUMERIC + "-"), st.just("0"))
CODES = st.integers(100, 599).map(str)
LOOKS: Looks = (
    (("a", "a:b_c"), TOKENS),
    (("a-1.b",), st.lists(LABELS, min_size=1, max_size=4).map(".".join)),
    (("!", "$"), st.text(st.sampled_from(COOKIE), min_size=1, max_size=64)),
    (("/",), _joined(st.just("/"), _text(PATH) | _text(PATH, 254))),
    (("200",), CODES),
    (("200", "200,202"), st.lists(CODES, min_size=1, max_size=5).map(",".join)),
    (("200-204",), st.lists(CODES, min_size=2, max_size=2).map(sorted).map("-".join)),
    (("9999999",), st.integers(1, 9_999_999).map(str)),
    (("1k", "4095m"), _joined(st.integers(1, 4095), st.sampled_from("km"))),
    (("1s", "24d"), _joined(st.integers(1, 24), st.sampled_from("smhd"))),
    (("1s", "2073600s"), st.integers(1, 2_073_600).map("{}s".format)),
    (("* * * * *",), st.lists(st.sampled_from(TIMES), min_size=5, max_size=5).map(" ".join)),
    (MIDNIGHTS, st.sampled_from(MIDNIGHTS)),
    (PROTOCOLS, st.sampled_from(PROTOCOLS)),
    (("free text",), st.text(PRINTED, max_size=20) | _text("\U0001f600\u00e9 x", 255)),
)
"""How strings look that callers send, each with examples: a type takes the looks it accepts."""
ADDRESSES: Looks = (
    (("192.0.2.1",), st.integers(2**24, 224 * 2**24 - 1).map(IPv4Address).map(str)),
    (("2001:db8::1", "::1"), st.integers(1, 255 * 2**120 - 1).map(IPv6Address).map(str)),
    (("0.0.0.0", "::"), st.sampled_from(("0.0.0.0", "::"))),
)
ADDRESS = st.one_of(*(look for _, look in ADDRESSES))
NEAR = _joined(st.just("127.77."), st.integers(1, 254), st.just("."), st.integers(1, 254))
LOOPBACK: Looks = ((("127.77.0.1",), NEAR),)
PORTS = st.integers(10_000, 32_000)
NAMES = st.sampled_from(("a", "b", "c", "backend-a"))
"""What is called how: so few that documents meet. A backend and a frontend may share a name."""

# --- documents -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Documents:
    """Documents of *kinds*.

    names: what resources are called, and referred to by.
    addresses: what stands wherever an address does.
    fields: strategies of fields by name, where that of their type will not do.
    """

    kinds: Kinds = field(default_factory=Kinds)
    names: Strategy[str] = NAMES
    addresses: Looks = ADDRESSES
    fields: Mapping[str, Strategy[Any]] = field(default_factory=dict)

    def valid(self, name: str) -> Strategy[Body]:
        """Return documents of the kind *name* for a POST."""
        kind = self.kinds[name]
        hidden = {*kind.model.private, kind.model.parent_field}
        parts = {
            member: (declared.is_required(), self._field(kind, member, declared))
            for member, declared in kind.model.model_fields.items()
            if member not in hidden
        }
        agreed = _dictionaries(parts).map(lambda body: agreeing(kind.model, body)).filter(bool)
        return merged(agreed, *(self.valid(other) for other in ALSO.get(name, ())))

    def partial(self, name: str) -> Strategy[Body]:
        """Return some members of valid documents."""
        left_out = st.sets(st.sampled_from(sorted(self.kinds[name].model.model_fields)))
        return st.builds(without, self.valid(name), left_out)

    def changes(self, name: str) -> Strategy[Body]:
        """Return what a PUT may say: some members, but no other identity."""
        said_by_others = {self.kinds[other].model.id_field for other in ALSO.get(name, ())}
        fixed = self.kinds[name].fixed | said_by_others
        return self.partial(name).map(lambda body: without(body, fixed))

    def nested(self, name: str, element: Element) -> Strategy[Any]:
        """Return an *element* of the kind *name* that holds what it owns."""
        inside = {
            child.nested_as: (
                st.none() | self.nested(child.name, element)
                if child.named_by
                else st.lists(self.nested(child.name, element), max_size=3)
            )
            for child in self.kinds.owned_by(self.kinds[name])
        }
        return merged(element(name), st.fixed_dictionaries({}, optional=inside))

    def tree(self, name: str, element: Element) -> Strategy[Any]:
        """Return a resource of the kind *name* with what it owns and what belongs to it."""
        held = {
            kind.name: st.lists(self.nested(kind.name, element), max_size=2)
            for kind, _ in self.kinds.held_by(self.kinds[name])
        }
        return merged(self.nested(name, element), st.fixed_dictionaries({}, optional=held))

    def node(self, element: Element) -> Strategy[Body]:
        """Return whole nodes, as ``PUT /api/state`` takes them."""
        return st.fixed_dictionaries(
            {
                kind.name: (
                    st.none() | self.nested(kind.name, element)
                    if kind.is_singleton
                    else st.lists(self.nested(kind.name, element), max_size=2)
                )
                for kind in export.top(self.kinds)
            }
        )

    # --- fields -----------------------------------------------------------------------------

    def _field(self, kind: Kind, name: str, declared: FieldInfo) -> Strategy[Any]:
        accepts = acceptor(type_of(declared))
        if name in self.fields:
            return self.fields[name].filter(accepts)
        names = {kind.model.id_field, *(reference.field for reference in kind.references)}
        if name in names and accepts("a"):
            return self.names if declared.is_required() else st.none() | self.names
        if f"{name}s" in {other.name for other in self.kinds}:
            identity = {self.kinds[f"{name}s"].model.id_field}
            return st.none() | self.partial(f"{name}s").map(lambda body: without(body, identity))
        return self.of(type_of(declared))

    def of(self, type_: Any) -> Strategy[Any]:
        """Return values of the type *type_* of a field, as JSON has them."""
        base, constraints = type_, []
        if get_origin(type_) is Annotated:
            base, *constraints = get_args(type_)
        accepts = acceptor(type_)
        if base in (None, type(None)):
            return st.none()
        if base is bool:
            return st.booleans()
        if base is str:
            return self._strings(type_).filter(accepts)
        if base is int:
            return st.integers(*_bounds(constraints)).filter(accepts)
        if constraints:
            return self.of(base).filter(accepts)
        if get_origin(base) is Literal:
            return st.sampled_from(get_args(base))
        if get_origin(base) in (Union, UnionType):
            return st.one_of(*map(self.of, get_args(base)))
        if get_origin(base) is tuple:
            return st.lists(self.of(get_args(base)[0]), max_size=3)
        assert issubclass(base, BaseModel), f"no strategy for {type_}: add one"
        return _dictionaries(
            {
                name: (declared.is_required(), self.of(type_of(declared)))
                for name, declared in base.model_fields.items()
            }
        )

    def _strings(self, type_: Any) -> Strategy[str]:
        accepts = acceptor(type_)
        known = (*LOOKS, *self.addresses)
        looks = [look for examples, look in known if all(map(accepts, examples))]
        pattern = TypeAdapter(type_).json_schema().get("pattern")
        if not looks and pattern:
            looks = [st.from_regex(pattern)]
        assert looks, f"no look of a string is a {type_}: add one"
        return st.one_of(*looks)


def without(body: Body, names: Any) -> Body:
    """Return the members of *body* but those of these *names*."""
    return {name: body[name] for name in body if name not in names}


def merged(*bodies: Strategy[Any]) -> Strategy[Any]:
    """Return the members of all *bodies*; the first alone where it is no object."""
    return st.tuples(*bodies).map(
        lambda found: (
            {name: each[name] for each in found for name in each}
            if isinstance(found[0], dict)
            else found[0]
        )
    )


def agreeing(model: type[Resource], body: Body) -> Body:
    """Return *body* without the optional members that others forbid; {} where that ends."""

    def faults(members: Body) -> int:
        parsed = {name: _adapters(model)[name].validate_python(members[name]) for name in members}
        return len(list(model.faults(parsed)))

    while wrong := faults(body):
        optional = [name for name in body if not model.model_fields[name].is_required()]
        rests = [without(body, {name}) for name in optional]
        body = next((rest for rest in rests if faults(rest) < wrong), {})
    return body


# --- types ---------------------------------------------------------------------------------------


def type_of(declared: FieldInfo) -> Any:
    """Return the type of a field with its constraints."""
    if not declared.metadata:
        return declared.annotation
    return Annotated[declared.annotation, *declared.metadata]


@cache
def acceptor(type_: Any) -> Callable[[Any], bool]:
    """Return whether a value is one of the type *type_*."""
    adapter = TypeAdapter(type_)

    def accepts(value: Any) -> bool:
        try:
            adapter.validate_python(value)
        except ValidationError:
            return False
        return True

    return accepts


@cache
def _adapters(model: type[Resource]) -> dict[str, TypeAdapter[Any]]:
    return {name: TypeAdapter(type_of(found)) for name, found in model.model_fields.items()}


def _bounds(constraints: Iterable[Any]) -> tuple[int | None, int | None]:
    """Return the least and the most that *constraints* allow, or one more."""
    flat = [each for one in constraints for each in getattr(one, "metadata", (one,))]
    least = [getattr(each, name) for each in flat for name in ("ge", "gt") if hasattr(each, name)]
    most = [getattr(each, name) for each in flat for name in ("le", "lt") if hasattr(each, name)]
    return (least or [None])[0], (most or [None])[0]


def _dictionaries(parts: Mapping[str, tuple[bool, Strategy[Any]]]) -> Strategy[Body]:
    required = {name: part for name, (is_required, part) in parts.items() if is_required}
    optional = {name: part for name, (is_required, part) in parts.items() if not is_required}
    return st.fixed_dictionaries(required, optional=optional)
