"""YAML without surprises: PyYAML with the core schema of YAML 1.2.

``1e-4`` is a number, only ``true`` and ``false`` are booleans, ``010`` is ten, dates are text.
Duplicate keys, keys that are no text, anchors and tags are errors that name their line.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from pipeline.errors import UserError


def parse_yaml(text: str, where: str) -> object:
    """The values of a YAML text; ``where`` is named in errors, with the line.

    Raises:
        UserError: the text is not valid YAML, or holds what this loader refuses.
    """
    try:
        return yaml.load(text, Loader=_CoreLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f"{where}:{mark.line + 1}" if mark is not None and "\n" in text else where
        problem = (error.problem or error.context or "broken").split("\n")[0]
        raise UserError(line, f"not valid YAML here: {problem}.", "mend this line.") from None
    except (yaml.YAMLError, RecursionError) as error:
        problem = str(error).split("\n")[0]
        raise UserError(where, f"not valid YAML: {problem}.", "mend it.") from None


class _CoreLoader(yaml.SafeLoader):
    """SafeLoader with the scalars of YAML 1.2 and without duplicate keys, anchors and tags."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise _Refused("anchors and aliases are not supported", event.start_mark)
        if getattr(event, "tag", None):
            raise _Refused("tags such as !!str are not supported", event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        values: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key: object = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise _Refused(f"key {key!r} is not text: quote it", key_node.start_mark)
            if key in values:
                raise _Refused(f"key {key!r} is given twice", key_node.start_mark)
            values[key] = self.construct_object(value_node, deep=True)
        return values


class _Refused(yaml.MarkedYAMLError):
    def __init__(self, problem: str, mark: yaml.Mark) -> None:
        super().__init__(problem=problem, problem_mark=mark)


_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(
    r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
)


def _add_scalar(name: str, pattern: str, first: str) -> None:
    _CoreLoader.add_implicit_resolver(
        f"tag:yaml.org,2002:{name}", re.compile(rf"(?:{pattern})\Z"), list(first)
    )


_add_scalar("null", "~|null|Null|NULL|", "~nN\0")
_CoreLoader.yaml_implicit_resolvers[""] = [("tag:yaml.org,2002:null", re.compile(r"\Z"))]
_add_scalar("bool", "true|True|TRUE|false|False|FALSE", "tTfF")
_add_scalar("int", _INT.pattern, "-+0123456789")
_add_scalar("float", _FLOAT.pattern, "-+.0123456789")


def _construct_int(loader: _CoreLoader, node: yaml.ScalarNode) -> int:
    text = str(loader.construct_scalar(node))
    try:
        return int(text, 0) if text.startswith(("0o", "0x")) else int(text)
    except ValueError:  # Python converts at most 4,300 digits
        raise _Refused("this number is too long", node.start_mark) from None


def _construct_float(loader: _CoreLoader, node: yaml.ScalarNode) -> float:
    text = str(loader.construct_scalar(node)).lower()
    return float(text.replace(".inf", "inf").replace(".nan", "nan"))


def _construct_mapping(loader: _CoreLoader, node: yaml.MappingNode) -> dict[str, Any]:
    return loader.construct_mapping(node)


_CoreLoader.add_constructor("tag:yaml.org,2002:int", _construct_int)
_CoreLoader.add_constructor("tag:yaml.org,2002:float", _construct_float)
_CoreLoader.add_constructor("tag:yaml.org,2002:map", _construct_mapping)
