"""YAML 1.2's core schema, by examples from its specification and by PyYAML's known traps."""

from __future__ import annotations

import math

import pytest

from pipeline.errors import UserError
from pipeline.strict_yaml import parse_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 0.0001),
        ("1E4", 10000.0),
        (".5", 0.5),
        ("3.", 3.0),
        ("-0.5e+2", -50.0),
        ("12", 12),
        ("+12", 12),
        ("010", 10),
        ("0o14", 12),
        ("0x1F", 31),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("on", "on"),
        ("off", "off"),
        ("yes", "yes"),
        ("No", "No"),
        ("1_000", "1_000"),
        ("1:30", "1:30"),
        ("2024-01-02", "2024-01-02"),
        ("1e", "1e"),
        ("'1e-4'", "1e-4"),
        ("[1, a, 2.5]", [1, "a", 2.5]),
        ("{on: {a: }}", {"on": {"a": None}}),
    ],
)
def test_scalars_are_those_of_yaml_1_2(text: str, value: object) -> None:
    parsed = parse_yaml(text, "x")
    assert parsed == value
    assert type(parsed) is type(value)


def test_infinity_and_nan_are_floats() -> None:
    assert parse_yaml("-.inf", "x") == -math.inf
    nan = parse_yaml(".nan", "x")
    assert isinstance(nan, float)
    assert math.isnan(nan)


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("a: 1\nb: 2\na: 3\n", 3, "'a' is given twice"),
        ("a:\n  b: 1\n  b: 1\n", 3, "'b' is given twice"),
        ("a: &x 1\nb: *x\n", 1, "anchors"),
        ("a: 1\nb: *x\n", 2, "anchors"),
        ("a: 1\nb: !!python/object:os.system x\n", 2, "tags"),
        ("1: a\n2: b\n", 1, "quote it"),
        ("a: [1\nb: 2\n", 2, "expected"),
        ("a: 1\n\tb: 2\n", 2, "cannot start any token"),
    ],
)
def test_what_is_refused_names_its_line(text: str, line: int, words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        parse_yaml(text, "c.yaml")
    assert caught.value.where == f"c.yaml:{line}"


def test_merge_keys_have_no_magic() -> None:
    assert parse_yaml("<<: {a: 1}", "x") == {"<<": {"a": 1}}
