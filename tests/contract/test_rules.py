"""Every sentence of the contract's section 1 has a test that names it: ``rules.toml``."""

import ast
import tomllib
from collections import Counter
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
TABLE = Path(__file__).with_name("rules.toml")
RULES: list[dict[str, Any]] = tomllib.loads(TABLE.read_text())["rule"]
SUBJECTS = [
    *("address", "auth", "bodies", "limits", "POST", "PUT = PATCH", "DELETE", "singletons"),
    *("references", "truth", "refusal", "idempotence", "errors", "codes", "concurrency", "dry run"),
    *("proof", "unknown members", "synonyms", "text", "ids", "numbers", "drift", "one document"),
    *("modes", "request id"),
]
"""The rows of the section, in its order."""


@cache
def functions(path: str) -> frozenset[str]:
    """Return the tests that a file defines; none where there is no file."""
    file = ROOT / path
    tree = ast.parse(file.read_text()) if file.is_file() else ast.Module([], [])
    names = (node.name for node in tree.body if isinstance(node, ast.FunctionDef))
    return frozenset(name for name in names if name.startswith("test_"))


def test_every_sentence_has_a_test() -> None:
    assert [rule["says"] for rule in RULES if not rule["tests"]] == []
    assert {frozenset(rule) for rule in RULES} == {frozenset(("subject", "says", "tests"))}


def test_every_test_that_is_named_is_there() -> None:
    named = {test.partition("::")[::2] for rule in RULES for test in rule["tests"]}

    missing = [(path, name) for path, name in sorted(named) if name not in functions(path)]

    assert missing == []


def test_no_sentence_and_no_test_of_a_sentence_is_there_twice() -> None:
    sentences = Counter((rule["subject"], rule["says"]) for rule in RULES)
    tests = Counter((rule["says"], test) for rule in RULES for test in rule["tests"])

    assert [found for found, times in (sentences + tests).items() if times > 1] == []


def test_the_subjects_are_the_rows_of_the_section_in_their_order() -> None:
    assert [subject for subject, _ in groupby(RULES, lambda rule: rule["subject"])] == SUBJECTS
