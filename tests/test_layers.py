"""The layers of the package, read from its syntax trees: who may import what, and what happens
where.

Each rule takes one module and yields what breaks it; the self-tests give every rule a module that
does.
"""

import ast
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from kinx_loadbalancer_agent.model.kinds import KINDS

PACKAGE = "kinx_loadbalancer_agent"
ROOT = Path(__file__).parents[1] / PACKAGE
ALL = "*"

LAYERS: Mapping[str, tuple[str, ...]] = {
    "__init__": (),
    "__main__": ("cli",),
    "errors": (),
    "logs": ("system.files",),
    # A field's type is written once: a stick table's size is the same in a setting and a document.
    "settings": ("model.types", "errors"),
    "model": ("model", "errors"),
    "system": ("system", "errors"),
    "engine": ("engine", "model", "system", "errors"),
    # A service is configured by its section of the settings: a frozen value, read by others.
    "services": ("services", "engine.ports", "model", "system", "settings", "errors"),
    # Time is an argument: Clock and Deadline touch nothing, and whoever waits is given one.
    "api": ("api", "engine", "model", "errors", "system.clock"),
    "app": (ALL,),
    "status": ("model", "system", "errors"),
    "cli": (ALL,),
    # An installation is described beside the settings, and done by the services and system.
    "layout": ("settings",),
    "install": ("layout", "settings", "services", "model", "system", "errors"),
    "report": (ALL,),
}
"""What the modules of a layer may import of ours; ``__init__`` (the version) anybody may."""

ONLY_IN: Mapping[str, tuple[str, ...]] = {
    "flask": ("api", "app"),
    "flask_httpauth": ("api", "app"),
    "webob": ("api", "app"),
    "werkzeug": ("api", "app"),
    "gunicorn": ("app",),
    "subprocess": ("system",),
    "socket": ("system",),
    "fcntl": ("system",),
    "select": ("system",),
    "selectors": ("system",),
    "sqlite3": ("engine.store",),
    "jinja2": ("services.text",),
}
"""What others made, and the only layers that may import it."""

WRITING = frozenset(
    {"chmod", "hardlink_to", "link", "mkdir", "rename", "rmdir", "symlink", "symlink_to", "touch"}
    | {"unlink", "write_bytes", "write_text"}
)
WRITERS = ("system", "engine.store")
"""Methods that change the file system, and who may call them: the store owns its database."""

DEFINING = frozenset({"field", "float", "frozenset", "re.compile", "structlog.get_logger"})
"""Calls at import that only make a value, besides classes and the module's own functions."""

ALLOWED_LINES, MAX_LINES = 400, 500


@dataclass(frozen=True)
class Module:
    """A module of the package: its name without the package's, its text and its syntax."""

    name: str
    source: str

    @property
    def tree(self) -> ast.Module:
        return ast.parse(self.source)

    @property
    def layer(self) -> str:
        return self.name.split(".")[0]

    def at(self, node: ast.stmt | ast.expr, words: str) -> str:
        return f"{self.name}:{node.lineno} {words}"


Rule = Callable[[Module], Iterator[str]]


def modules() -> list[Module]:
    """Return every module of the package; a package is the module ``<name>.__init__``."""
    found = []
    for path in sorted(ROOT.rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        found.append(Module(name, path.read_text()))
    return found


MODULES = modules()
NAMES = frozenset(module.name.removesuffix(".__init__") for module in MODULES)
KIND_NAMES = frozenset(kind.name for kind in KINDS)


# --- the rules ------------------------------------------------------------------------------


def imports_of_other_layers(module: Module) -> Iterator[str]:
    """DESIGN, "Imports"."""
    allowed = (*LAYERS.get(module.layer, ()), "__init__")
    for node, name in imports(module):
        if is_ours(name):
            ours = name.removeprefix(PACKAGE).removeprefix(".") or "__init__"
            if not is_within(ours, allowed):
                yield module.at(node, f"imports {ours}")


def imports_out_of_place(module: Module) -> Iterator[str]:
    """Each library that acts on the world, or speaks HTTP, has its one place."""
    for node, name in imports(module):
        places = ONLY_IN.get(name.split(".")[0])
        if places is not None and not is_within(module.name, places):
            yield module.at(node, f"imports {name}, which is for {' and '.join(places)}")


def writes_out_of_place(module: Module) -> Iterator[str]:
    """Only ``system`` changes files, so that every change passes the one choke point."""
    if is_within(module.name, WRITERS):
        return
    system = {name.split(".")[-1] for _, name in imports(module) if f"{PACKAGE}.system." in name}
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Call):
            called = dotted(node.func)
            owner, _, method = called.rpartition(".")
            opens = method == "open" and is_for_writing(node, 0 if owner else 1)
            if opens or (method in WRITING and owner not in system):
                yield module.at(node, f"calls {called}")


def work_at_import(module: Module) -> Iterator[str]:
    """A module defines; it does nothing and keeps nothing. ``__main__`` is the one that starts."""
    if module.name == "__main__":
        return
    own = {found.name for found in module.tree.body if isinstance(found, ast.FunctionDef)}
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Global):
            yield module.at(node, "has a module-level variable that functions change")
    yield from _work(module, module.tree.body, own)


def _work(module: Module, body: list[ast.stmt], own: set[str]) -> Iterator[str]:
    for node in body:
        match node:
            case ast.Import() | ast.ImportFrom() | ast.Pass() | ast.Expr(ast.Constant()):
                continue
            case ast.If(test=ast.Name("TYPE_CHECKING")):
                continue
            case ast.ClassDef():
                yield from _work(module, node.body, own)
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                defaults = [*node.args.defaults, *filter(None, node.args.kw_defaults)]
                for default in defaults:
                    yield from _calls(module, default, own)
            case ast.Assign(value=value) | ast.AnnAssign(value=value):
                if value is not None:
                    yield from _calls(module, value, own)
            case _:
                yield module.at(node, f"runs {ast.unparse(node).splitlines()[0]!r} at import")


def _calls(module: Module, value: ast.expr, own: set[str]) -> Iterator[str]:
    """Yield the calls in *value* that may do more than make a value."""
    for node in ast.walk(value):
        if isinstance(node, ast.Call):
            called = dotted(node.func)
            is_class = called.split(".")[-1].lstrip("_")[:1].isupper()
            is_text = isinstance(node.func, ast.Attribute) and isinstance(
                node.func.value, ast.Constant
            )
            if not (is_class or is_text or called in DEFINING or called in own):
                yield module.at(node, f"calls {called} at import")


def comparisons_with_a_kind(module: Module) -> Iterator[str]:
    """What is true of one kind is a row of a table, never a branch."""
    for node in ast.walk(module.tree):
        compared: list[ast.expr] = []
        if isinstance(node, ast.Compare):
            compared = [node.left, *node.comparators]
        if isinstance(node, ast.MatchValue):
            compared = [node.value]
        # A container of names is one comparison each: kind in ("pools", "members").
        for one in [part for whole in compared for part in _elements(whole)]:
            if isinstance(one, ast.Constant) and one.value in KIND_NAMES:
                yield module.at(one, f"compares with the kind {one.value!r}")


def _elements(node: ast.expr) -> list[ast.expr]:
    return node.elts if isinstance(node, ast.Tuple | ast.List | ast.Set) else [node]


def too_many_lines(module: Module) -> Iterator[str]:
    """A module longer than 400 lines usually holds two subjects (a warning); over 500 it does."""
    lines = len(module.source.splitlines())
    if lines > MAX_LINES:
        yield f"{module.name} has {lines} lines"
    elif lines > ALLOWED_LINES:
        warnings.warn(f"{module.name} has {lines} lines", stacklevel=1)


# --- reading syntax -------------------------------------------------------------------------


def imports(module: Module) -> Iterator[tuple[ast.stmt, str]]:
    """Yield each import of *module* with the full name of what it imports."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node, alias.name
        elif isinstance(node, ast.ImportFrom):
            source = node.module or ""
            if node.level:
                base = [PACKAGE, *module.name.split(".")][: -node.level]
                source = ".".join([*base, *filter(None, [source])])
            for alias in node.names:
                full = f"{source}.{alias.name}"
                is_module = full.removeprefix(f"{PACKAGE}.") in NAMES
                yield node, full if is_module else source


def is_ours(name: str) -> bool:
    return name == PACKAGE or name.startswith(f"{PACKAGE}.")


def is_within(name: str, places: tuple[str, ...]) -> bool:
    return any(place in (name, ALL) or name.startswith(f"{place}.") for place in places)


def dotted(node: ast.expr) -> str:
    """Return ``a.b.c`` for an attribute or a name; '' stands for any other expression in it."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def is_for_writing(node: ast.Call, at: int) -> bool:
    """True when *node*, an ``open`` whose mode is argument *at*, opens for writing."""
    modes = [word.value for word in node.keywords if word.arg == "mode"] + node.args[at : at + 1]
    return any(
        isinstance(mode, ast.Constant) and not set("wax+").isdisjoint(str(mode.value))
        for mode in modes
    )


# --- the package keeps them -----------------------------------------------------------------

RULES: tuple[Rule, ...] = (
    imports_of_other_layers,
    imports_out_of_place,
    writes_out_of_place,
    work_at_import,
    comparisons_with_a_kind,
    too_many_lines,
)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: str(rule.__name__))
def test_no_module_has(rule: Rule) -> None:
    found = [words for module in MODULES for words in rule(module)]

    assert found == []


def test_every_module_belongs_to_a_layer() -> None:
    assert {module.layer for module in MODULES} == set(LAYERS)


# --- the rules can be broken ----------------------------------------------------------------

BROKEN: tuple[tuple[Rule, str, str], ...] = (
    (imports_of_other_layers, "api.x", f"from {PACKAGE}.services.text import Templates"),
    (imports_of_other_layers, "api.x", f"from {PACKAGE} import services"),
    (imports_of_other_layers, "api.x", f"import {PACKAGE}.services.haproxy.shape"),
    (imports_of_other_layers, "api.x", "from ..services.haproxy import shape"),
    (imports_of_other_layers, "api.x", f"from {PACKAGE}.system import files"),
    (imports_of_other_layers, "api.documents.x", "def f():\n    from ...services import text"),
    (imports_of_other_layers, "engine.x", f"from {PACKAGE}.api import auth"),
    (imports_of_other_layers, "engine.x", f"from {PACKAGE}.settings import Settings"),
    (imports_of_other_layers, "services.x", f"from {PACKAGE}.engine.engine import Engine"),
    (imports_of_other_layers, "services.x", f"from {PACKAGE}.engine import store"),
    (imports_of_other_layers, "model.x", f"from {PACKAGE}.system.clock import Clock"),
    (imports_of_other_layers, "system.x", f"from {PACKAGE}.model.kinds import Kinds"),
    (imports_of_other_layers, "errors", f"from {PACKAGE} import settings"),
    (imports_of_other_layers, "newcomer", f"from {PACKAGE} import errors"),
    (imports_out_of_place, "engine.x", "from flask import request"),
    (imports_out_of_place, "cli", "import werkzeug.exceptions"),
    (imports_out_of_place, "services.x", "import subprocess"),
    (imports_out_of_place, "api.x", "from socket import AF_UNIX"),
    (imports_out_of_place, "engine.engine", "import sqlite3"),
    (imports_out_of_place, "services.haproxy.view", "import jinja2"),
    (writes_out_of_place, "services.x", "def f(path):\n    path.write_text('')"),
    (writes_out_of_place, "services.x", "import os\ndef f():\n    os.rename('a', 'b')"),
    (writes_out_of_place, "api.x", "def f():\n    open('a', 'w')"),
    (writes_out_of_place, "api.x", "def f():\n    open('a', mode='ab')"),
    (writes_out_of_place, "api.x", "def f(path):\n    path.open('wb')"),
    (work_at_import, "model.x", "print('here')"),
    (work_at_import, "model.x", "import os\nHOME = os.getcwd()"),
    (work_at_import, "model.x", "STREAM = open('/etc/passwd')"),
    (work_at_import, "model.x", "for number in range(3):\n    pass"),
    (work_at_import, "model.x", "try:\n    import x\nexcept ImportError:\n    x = None"),
    (work_at_import, "model.x", "class A:\n    now = time.time()"),
    (work_at_import, "model.x", "import time\ndef f(at=time.time()):\n    pass"),
    (work_at_import, "model.x", "n = 0\ndef f():\n    global n\n    n += 1"),
    (comparisons_with_a_kind, "engine.x", "def f(kind):\n    return kind == 'pools'"),
    (comparisons_with_a_kind, "api.x", "def f(kind):\n    return kind.name in ('a', 'members')"),
    (
        comparisons_with_a_kind,
        "api.x",
        "def f(k):\n    match k:\n        case 'pools':\n            1",
    ),
    (too_many_lines, "model.x", "\n" * (MAX_LINES + 1)),
)


@pytest.mark.parametrize(("rule", "name", "source"), BROKEN)
def test_a_rule_finds_what_breaks_it(rule: Rule, name: str, source: str) -> None:
    found = list(rule(Module(name, source)))

    assert len(found) == 1


def test_a_module_that_grows_long_is_named() -> None:
    with pytest.warns(UserWarning, match="x has 401 lines"):
        assert list(too_many_lines(Module("model.x", "\n" * (ALLOWED_LINES + 1)))) == []


KEPT = f'''"""A module that keeps every rule."""

import re
from typing import TYPE_CHECKING

import structlog
from {PACKAGE} import __version__, errors
from . import ports
from {PACKAGE}.system import files
from {PACKAGE}.model.types import Token

if TYPE_CHECKING:
    from {PACKAGE}.model.state import State

log = structlog.get_logger()
NAME = re.compile("a")
TABLE = {{"pools": frozenset({{"b"}})}}


def made(text: str = " ".join(("a", "b")), wait: float = float("inf")) -> str:
    files.link(text, text)
    with open(text) as stream:
        return stream.read().replace("a", "b") if text == "pool" else TABLE["pools"]


class Value:
    """A value."""

    other = made("a")
'''


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: str(rule.__name__))
def test_a_rule_leaves_a_good_module_alone(rule: Rule) -> None:
    assert list(rule(Module("engine.x", KEPT))) == []
