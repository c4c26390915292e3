"""Strict configuration: dataclasses are the schema, YAML files and ``key=value`` overrides fill them.

Every dataclass used here checks its units and ranges in ``__post_init__``; an unknown key or a value of the wrong type
is a :class:`~phaseveil.errors.ConfigError`, never ignored. Files may come from strangers: of YAML, only plain mappings,
lists and values are taken. Aliases (which can stand for 10⁹ values), tags (which name types) and interpolations (which
read the environment) are refused before anything is built from them.
"""

import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from phaseveil.errors import ConfigError

Schema = TypeVar("Schema")

MAX_BYTES = 1 << 20  # of a configuration file
MAX_DEPTH = 16  # mappings and lists inside each other

_KEY = re.compile(rf"\w+((\.\w+)|(\[\w+\])){{0,{MAX_DEPTH}}}")
# What is refused here, and what Python says of numbers with too many digits (ValueError) or too large for a float.
_UNUSABLE = (OmegaConfBaseException, YAMLError, ValueError, OverflowError)


def load_config(schema: type[Schema], source: str | Path | None = None, overrides: Sequence[str] = ()) -> Schema:
    """Build a ``schema`` dataclass from its defaults, a YAML file and overrides, in this order.

    Args:
        schema: Dataclass that lists every key with its type and default.
        source: YAML file, or the name of a preset under ``phaseveil/configs`` such as ``camera/base``; defaults alone
            where ``None``.
        overrides: Dotted ``key=value`` strings.

    Raises:
        ConfigError: The file is missing or not YAML, a key is unknown, or a value has the wrong type or range.
    """
    try:
        parts = [_load(preset_path(source))] if source is not None else []
        parts.append(_overrides(overrides))
        return _build(schema, *parts)
    except _UNUSABLE as error:
        raise ConfigError(f"{source or schema.__name__}: {_one_line(error)}") from error


def from_mapping(schema: type[Schema], values: Mapping[str, Any]) -> Schema:
    """Build a ``schema`` dataclass from plain values, as strictly as :func:`load_config`.

    Raises:
        ConfigError: A key is unknown, or a value has the wrong type or range.
    """
    try:
        _require_plain(dict(values))
        return _build(schema, OmegaConf.create(dict(values)))
    except _UNUSABLE as error:
        raise ConfigError(f"{schema.__name__}: {_one_line(error)}") from error


def to_mapping(config: Any) -> dict[str, Any]:
    """Plain nested dict of a configuration dataclass, for checkpoints and logs."""
    return OmegaConf.to_container(OmegaConf.structured(config), enum_to_str=True)  # type: ignore[return-value]


def preset_path(source: str | Path) -> Path:
    """Path of a YAML file or of a packaged preset.

    Raises:
        ConfigError: Neither exists.
    """
    if Path(source).is_file():
        return Path(source)
    folder = Path(str(resources.files("phaseveil"))) / "configs"
    preset = (folder / f"{source}.yaml").resolve()
    if preset.is_relative_to(folder.resolve()) and preset.is_file():
        return preset
    names = sorted(str(p.relative_to(folder).with_suffix("")) for p in folder.rglob("*.yaml"))
    raise ConfigError(f"{source}: no such config file or preset; presets are {', '.join(names)}")


def _build(schema: type[Schema], *parts: DictConfig) -> Schema:
    """Defaults and parts, later ones first, checked and made into the dataclass."""
    try:
        merged = OmegaConf.merge(OmegaConf.structured(schema), *parts)
    except TypeError as error:  # what OmegaConf raises where a list is wanted and a mapping given
        raise ValueError(f"{error}; a list stands where a mapping belongs, or the other way round") from error
    _require_plain(OmegaConf.to_container(merged, resolve=False, enum_to_str=True))
    return OmegaConf.to_object(merged)  # type: ignore[return-value]


def _load(path: Path) -> DictConfig:
    """A YAML file whose root is a mapping."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"larger than {MAX_BYTES >> 10} KiB; this is no configuration")
        text = path.read_text("utf-8")
    except OSError as error:
        raise ValueError(f"cannot be read ({error.strerror or error}); check its permissions") from error
    _require_plain_yaml(text)
    root = next((event for event in yaml.parse(text, yaml.SafeLoader) if isinstance(event, yaml.NodeEvent)), None)
    if root is None or (isinstance(root, yaml.ScalarEvent) and not root.value):
        return OmegaConf.create()
    if not isinstance(root, yaml.MappingStartEvent):
        raise ValueError("must be a mapping, lines of 'key: value'")
    loaded = OmegaConf.load(io.StringIO(text))
    assert isinstance(loaded, DictConfig)
    return loaded


def _overrides(overrides: Sequence[str]) -> DictConfig:
    """``key=value`` strings as a configuration, their values as plain as a file's."""
    for override in overrides:
        key, _, value = override.partition("=")
        if not _KEY.fullmatch(key.strip()):
            raise ValueError(f"{key[:100]!r} is no key; overrides are like sensor.bits=8")
        _require_plain_yaml(value)
    return OmegaConf.from_dotlist(list(overrides))


def _require_plain_yaml(text: str) -> None:
    """Refuse what YAML offers beyond plain values, before anything is built from it.

    Raises:
        ValueError: Aliases, tags, interpolations, or too many levels.
        YAMLError: Not YAML.
    """
    depth = 0
    for event in yaml.parse(text, yaml.SafeLoader):  # in pure Python: libyaml's own recursion can overflow the stack
        if isinstance(event, yaml.AliasEvent):
            raise ValueError("YAML aliases (*name) are not taken; write the value out")
        if getattr(event, "tag", None) is not None:
            raise ValueError("YAML tags (!name) are not taken; write a plain value")
        if isinstance(event, yaml.ScalarEvent):
            _refuse_interpolation(event.value)
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise ValueError(f"nested more than {MAX_DEPTH} levels deep")


def _require_plain(values: Any) -> None:
    """Refuse values that no configuration has a use for.

    Raises:
        ValueError: NaN, infinity, an interpolation, or too many levels.
    """
    for name, value, depth in _leaves(values):
        if depth > MAX_DEPTH:
            raise ValueError(f"nested more than {MAX_DEPTH} levels deep")
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{name} must be a finite number, got {value}")
        if isinstance(value, str):
            _refuse_interpolation(value)


def _leaves(values: Any, name: str = "value", depth: int = 0) -> Iterator[tuple[str, Any, int]]:
    """Values with the key that they lie under and their depth; what lies too deep is given as it is."""
    if depth > MAX_DEPTH or not isinstance(values, dict | list):
        yield name, values, depth
        return
    for key, value in values.items() if isinstance(values, dict) else ((name, value) for value in values):
        yield from _leaves(value, str(key), depth + 1)


def _refuse_interpolation(value: str) -> None:
    if "${" in value:
        raise ValueError("interpolations (${…}) are not taken; write the value out")


def _one_line(error: Exception) -> str:
    """First line of a library's error message, with the key it speaks of."""
    message = (str(error).strip() or type(error).__name__).splitlines()[0]
    if isinstance(error, yaml.MarkedYAMLError) and error.problem and error.problem_mark:
        message = f"{error.problem} in line {error.problem_mark.line + 1}"
    message = message if len(message) <= 300 else message[:299] + "…"
    key = getattr(error, "full_key", None)
    return f"{message} (key {key})" if key and str(key) not in message else message
