"""Configs from YAML files, with dotted overrides and one line for every mistake."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from pipeline.config import RunConfig
from pipeline.errors import UserError
from pipeline.strict_yaml import parse_yaml

SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")

Location = tuple[str | int, ...]


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """The checked config of a YAML file; ``name`` defaults to the file's stem.

    Args:
        path: the YAML file.
        overrides: ``section.key=value`` texts; values are read as YAML.

    Raises:
        UserError: the file cannot be read or is no YAML mapping, a key is unknown or duplicated,
            a value is of the wrong type or impossible.
    """
    values = _read_yaml(Path(path))
    raw_texts: dict[Location, str] = {}
    for override in overrides:
        location, text = _split_override(override)
        _set(values, location, parse_yaml(text, override), override)
        raw_texts[location] = text
    config = _validate(values, raw_texts, str(path))
    name = config.name if config.name is not None else Path(path).stem
    if SAFE_NAME.fullmatch(name) is None:
        raise UserError(
            f"{path}: name",
            f"must be a folder name of letters, digits, '.', '_' and '-', got {name!r}.",
            "set name=… to such a name.",
        )
    _check_judges(config, str(path))
    return config.model_copy(update={"name": name})


def _check_judges(config: RunConfig, where: str) -> None:
    """Raises UserError if a judge cannot judge this data: before any work, not after training."""
    label_judge = config.label.judge if config.label.source == "scripted" else None
    for section, judge in (("label", label_judge), ("compare", config.compare.judge)):
        if judge == "tinyworld" and config.data.tinyworld is None:
            problem, fix = "judges only the embedded world, got", f"set {section}.judge=overlap."
        elif judge == "overlap" and config.data.tinyworld is not None:
            problem, fix = "needs data.instructions, got", f"set {section}.judge=tinyworld."
        else:
            continue
        raise UserError(f"{where}: {section}.judge", f"{problem} {judge!r}.", fix)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise UserError(path, f"cannot be read ({reason}).", "check the path.") from None
    except UnicodeDecodeError as error:
        problem = f"is not UTF-8 (byte {error.start})."
        raise UserError(path, problem, "save it as UTF-8.") from None
    values = parse_yaml(text, str(path))
    if not isinstance(values, dict):
        raise UserError(
            path,
            f"must hold keys and values, got {_brief(values)}.",
            "start from a file in configs/.",
        )
    return cast("dict[str, Any]", values)


# --- overrides ----------------------------------------------------------------------------------


def _split_override(override: str) -> tuple[Location, str]:
    key, equals, text = override.partition("=")
    parts = key.split(".")
    if not equals or not all(parts):
        raise UserError(
            override, "is no override of a config key.", "write it as section.key=value."
        )
    return tuple(int(part) if part.isdecimal() else part for part in parts), text


def _set(values: dict[str, Any], location: Location, value: object, override: str) -> None:
    """Sets a value in nested mappings and lists; mappings that are missing are made."""
    inner: Any = values
    for depth, part in enumerate(location[:-1]):
        child: Any = _child(inner, part)
        if child is None and isinstance(inner, dict):
            child = {}
            cast("dict[str, Any]", inner)[str(part)] = child
        if not isinstance(child, dict | list):
            path = ".".join(str(piece) for piece in location[: depth + 1])
            raise UserError(override, f"{path} holds no keys to set.", "check the key.")
        inner = cast(Any, child)
    last = location[-1]
    if isinstance(inner, dict):
        cast("dict[str, Any]", inner)[str(last)] = value
    elif _child(inner, last) is not None:
        inner[last] = value
    else:
        raise UserError(override, f"there is no entry {last} to set.", "check the number.")


def _child(inner: Any, part: str | int) -> Any:
    if isinstance(inner, dict):
        return cast("dict[str, Any]", inner).get(str(part))
    entries = cast("list[Any]", inner)
    return entries[part] if isinstance(part, int) and part < len(entries) else None


# --- values -------------------------------------------------------------------------------------


def _validate(
    values: dict[str, Any], raw_texts: dict[Location, str], where: str, retry: bool = True
) -> RunConfig:
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        errors = error.errors()
    # `name=2024` on a command line means the text 2024, which nobody should have to quote twice.
    texts = [e["loc"] for e in errors if e["type"] == "string_type" and e["loc"] in raw_texts]
    if texts and retry:
        for location in texts:
            _set(values, location, raw_texts[location], where)
        return _validate(values, raw_texts, where, retry=False)
    unknown = [e for e in errors if e["type"] == "extra_forbidden"]
    raise _user_error((unknown or errors)[0], where) from None


def _user_error(error: ErrorDetails, where: str) -> UserError:
    location, kind = error["loc"], error["type"]
    if kind == "extra_forbidden":
        return _unknown_key(location, where)
    path = ".".join(str(part) for part in location)
    place = f"{where}: {path}" if path else where
    if kind == "missing":
        return UserError(place, "is required.", f"add {path}.")
    fix = f"change {path or 'the config'}."
    message = error["msg"].removeprefix("Value error, ").removeprefix("Input ")
    if kind == "value_error":
        return UserError(place, f"{message}.", fix)
    if kind == "model_type":
        message = "should hold keys and values"
    return UserError(place, f"{message}, got {_brief(error['input'])}.", fix)


def _unknown_key(location: Location, where: str) -> UserError:
    path = ".".join(str(part) for part in location)
    known = _keys_at(RunConfig, location[:-1])
    close = difflib.get_close_matches(str(location[-1]), known, n=1, cutoff=0.6)
    parent = ".".join(str(part) for part in location[:-1])
    if close:
        meant = f"{parent}.{close[0]}" if parent else close[0]
        return UserError(f"{where}: {path}", "is no known key.", f"did you mean {meant}?")
    return UserError(
        f"{where}: {path}", "is no known key.", f"remove it; known here: {', '.join(known)}."
    )


def _keys_at(model: type[BaseModel], location: Location) -> list[str]:
    """The keys of the section that a location leads to."""
    for part in location:
        if isinstance(part, int):
            continue
        inner = _section_in(model.model_fields[part].annotation)
        if inner is None:
            return []
        model = inner
    return list(model.model_fields)


def _section_in(annotation: Any) -> type[BaseModel] | None:
    """The section class inside an annotation such as ``list[CorpusSource]`` or ``X | None``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    inner = (_section_in(part) for part in get_args(annotation))
    return next((section for section in inner if section is not None), None)


def _brief(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:59] + "…"
