"""etc/agent.toml names every setting, with its true default."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from pydantic.fields import FieldInfo

from kinx_loadbalancer_agent import settings

FILE = Path(__file__).parents[1] / "etc/agent.toml"
LINES = FILE.read_text().splitlines()
KEY = re.compile(r"#([a-z_]+ = .*)")

SECTIONS = {name: declared.annotation for name, declared in settings.Settings.model_fields.items()}
FIELDS: list[tuple[str, str, FieldInfo]] = [
    (section, key, declared)
    for section, model in SECTIONS.items()
    if model is not None
    for key, declared in model.model_fields.items()
]


def uncommented() -> str:
    """Return the file as it is when every key is taken out of its comment."""
    return "\n".join(KEY.sub(r"\1", line) for line in LINES)


def comment_of(key: str) -> str:
    """Return what the file says above *key*, and above the keys right before it."""
    at = next(number for number, line in enumerate(LINES) if line.startswith(f"#{key} = "))
    start = max(number for number, line in enumerate(LINES[:at]) if not line)
    return " ".join(line.removeprefix("# ") for line in LINES[start:at] if not KEY.match(line))


def test_the_file_as_it_is_changes_nothing_but_who_cron_is_to_report_for() -> None:
    plain = settings.load(environment={})

    with_file = settings.load(FILE, environment={})

    command = f"{plain.schedule.command} --config {FILE}"
    schedule = plain.schedule.model_copy(update={"command": command})
    assert with_file == plain.model_copy(update={"schedule": schedule})


def test_the_file_names_exactly_the_settings_there_are() -> None:
    named = tomllib.loads(uncommented())

    assert {section: list(keys) for section, keys in named.items()} == {
        section: [key for owner, key, _ in FIELDS if owner == section] for section in SECTIONS
    }


def test_the_file_with_every_key_taken_out_of_its_comment_can_be_used(tmp_path: Path) -> None:
    file = tmp_path / "agent.toml"
    file.write_text(uncommented())

    found = settings.load(file, environment={})

    assert found.agent.node_name == "lb-1"
    assert str(found.haproxy.extra_config) == "/etc/haproxy/extra.cfg"


@pytest.mark.parametrize(
    ("section", "key", "declared"), FIELDS, ids=[f"{section}.{key}" for section, key, _ in FIELDS]
)
def test_a_key_is_shown_with_its_default_and_explained(
    section: str, key: str, declared: FieldInfo
) -> None:
    shown: Any = tomllib.loads(uncommented())[section][key]
    comment = comment_of(key)

    if declared.default_factory or declared.default is None:  # no default that TOML could show
        assert "Default: " in comment
    else:
        assert shown == (str(declared.default) if isinstance(shown, str) else declared.default)
    bounds = [getattr(rule, side, None) for rule in declared.metadata for side in ("ge", "le")]
    choices = getattr(declared.annotation, "__args__", ())
    words = [str(word) for word in (*bounds, *choices) if isinstance(word, int | str)]
    assert [word for word in words if word not in comment] == []
    assert len(comment) > 20
