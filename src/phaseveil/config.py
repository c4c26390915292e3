"""Strict configuration: dataclasses are the schema, YAML files and ``key=value`` overrides fill them.

Every dataclass used here checks its units and ranges in ``__post_init__``; an unknown key or a value of the wrong type
is a :class:`~phaseveil.errors.ConfigError`, never ignored.
"""

from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from phaseveil.errors import ConfigError

Schema = TypeVar("Schema")


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
        config = OmegaConf.structured(schema)
        if source is not None:
            config = OmegaConf.merge(config, OmegaConf.load(preset_path(source)))
        config = OmegaConf.merge(config, OmegaConf.from_dotlist(list(overrides)))
        return OmegaConf.to_object(config)  # type: ignore[return-value]
    except (OmegaConfBaseException, YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{source or schema.__name__}: {_one_line(error)}") from error


def from_mapping(schema: type[Schema], values: Mapping[str, Any]) -> Schema:
    """Build a ``schema`` dataclass from plain values, as strictly as :func:`load_config`.

    Raises:
        ConfigError: A key is unknown, or a value has the wrong type or range.
    """
    try:
        return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), dict(values)))  # type: ignore[return-value]
    except OmegaConfBaseException as error:
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


def _one_line(error: Exception) -> str:
    """First line of a library's error message, with the key it speaks of."""
    message = str(error).strip().splitlines()[0]
    key = getattr(error, "full_key", None)
    return f"{message} (key {key})" if key and str(key) not in message else message
