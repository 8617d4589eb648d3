"""The package as pip installs it: a wheel and an editable install work from anywhere."""

import ast
import configparser
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import need

CHECKOUT = Path(__file__).parents[1]
PACKAGE = "kinx_loadbalancer_agent"
COMES_WITH = {"pydantic_core": "pydantic", "werkzeug": "flask", "crontab": "python_crontab"}
"""What we import under another name than we ask for, or as a part of what we do ask for."""


@dataclass(frozen=True)
class Environment:
    """A virtual environment that sees the libraries of the one the tests run in."""

    path: Path

    def run(self, *words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
        """Run a program of the environment in *cwd*, as a user who has activated it would."""
        programs = f"{self.path / 'bin'}:{os.environ['PATH']}"
        env = {**os.environ, "PATH": programs, "VIRTUAL_ENV": str(self.path)}
        env.pop("PYTHONPATH", None)
        return subprocess.run(words, cwd=cwd, env=env, capture_output=True, text=True, timeout=120)

    def install(self, *words: str) -> None:
        pip = ("install", "--no-deps", *isolation(), *words)
        run_pip("--python", str(self.path / "bin/python"), *pip)


def run_pip(*words: str) -> None:
    argv = [sys.executable, "-m", "pip", "--disable-pip-version-check", *words]
    ended = subprocess.run(argv, capture_output=True, text=True, timeout=200)
    assert ended.returncode == 0, ended.stderr


def isolation() -> tuple[str, ...]:
    """Return how to build without the network, where setuptools is new enough for it."""
    found = int(importlib.metadata.version("setuptools").split(".")[0])
    required = re.search(r"setuptools>=(\d+)", (CHECKOUT / "pyproject.toml").read_text())
    assert required is not None
    return ("--no-build-isolation",) if found >= int(required[1]) else ()


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout: a build leaves things in the directory it builds."""
    copy = tmp_path_factory.mktemp("source") / "checkout"
    ignored = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "dist")
    shutil.copytree(CHECKOUT, copy, ignore=ignored)
    return copy


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("wheel")
    run_pip("wheel", "--no-deps", *isolation(), "--wheel-dir", str(directory), str(source))
    (found,) = directory.glob("*.whl")
    return found


@pytest.fixture
def root() -> Iterator[Path]:
    """A root with a short path, as Unix sockets want it."""
    with tempfile.TemporaryDirectory(prefix="kinx-") as directory:
        yield Path(directory)


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    found = Environment(tmp_path / "environment")
    argv = [sys.executable, "-m", "venv", "--without-pip", str(found.path)]
    subprocess.run(argv, check=True, timeout=60)
    (packages,) = found.path.glob("lib/python*/site-packages")
    # After its own packages; what is installed editable in ours is not seen through this.
    (packages / "libraries.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    return found


def test_the_wheel_holds_the_package_and_its_templates_and_nothing_else(wheel: Path) -> None:
    modules = {str(path.relative_to(CHECKOUT)) for path in (CHECKOUT / PACKAGE).rglob("*.py")}
    templates = {
        f"{PACKAGE}/{path.relative_to(CHECKOUT)}"
        for directory in ("templates", "etc")
        for path in (CHECKOUT / directory).rglob("*.*")
    }

    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}

    assert f"{PACKAGE}/templates/haproxy/global.cfg.j2" in templates
    assert names == modules | templates | {f"{PACKAGE}/py.typed"}


def test_an_installed_wheel_renders_what_haproxy_accepts(
    wheel: Path, environment: Environment, tmp_path: Path, root: Path
) -> None:
    need("haproxy")

    environment.install(str(wheel))

    where = environment.run(
        "python", "-c", f"import {PACKAGE}; print(*{PACKAGE}.__path__)", cwd=tmp_path
    )
    assert Path(where.stdout.strip()).is_relative_to(environment.path)
    checked = environment.run(PACKAGE, "check", "--root", str(root), cwd=tmp_path)
    assert (checked.returncode, checked.stderr) == (0, "")


def test_an_editable_install_renders_what_haproxy_accepts(
    source: Path, environment: Environment, tmp_path: Path, root: Path
) -> None:
    need("haproxy")

    environment.install("--editable", str(source))

    where = environment.run(
        "python", "-c", f"import {PACKAGE}; print(*{PACKAGE}.__path__)", cwd=tmp_path
    )
    assert Path(where.stdout.strip()) == source / PACKAGE
    checked = environment.run(PACKAGE, "check", "--root", str(root), cwd=tmp_path)
    assert (checked.returncode, checked.stderr) == (0, "")


def test_the_command_of_the_checkout_is_the_installed_one(
    wheel: Path, environment: Environment, tmp_path: Path
) -> None:
    command = CHECKOUT / "bin" / PACKAGE

    environment.install(str(wheel))

    ours = environment.run(str(command), "--version", cwd=tmp_path)
    installed = environment.run(PACKAGE, "--version", cwd=tmp_path)
    assert ours.returncode == 0, ours.stderr
    assert ours.stdout == installed.stdout
    assert len(command.read_text().splitlines()) == 3


def test_what_is_imported_is_asked_for_and_what_is_asked_for_is_imported() -> None:
    settings = configparser.ConfigParser()
    settings.read(CHECKOUT / "setup.cfg")
    lines = settings["options"]["install_requires"].split("\n")
    asked_for = {line.split(" ")[0].replace("-", "_") for line in lines if line}

    imported = set()
    for path in (CHECKOUT / PACKAGE).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                imported.add((node.module or "").split(".")[0])
    imported -= {*sys.stdlib_module_names, PACKAGE}

    assert {COMES_WITH.get(name, name) for name in imported} == asked_for
