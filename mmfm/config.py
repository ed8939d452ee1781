"""Typed configuration: dataclasses from YAML, with dotted overrides and errors that help.

Every part of mmfm owns one dataclass with its settings. `load(cls, path, overrides)` reads a YAML
file that holds only what differs from the defaults, applies overrides such as ``optim.lr=3e-4``,
and returns a `cls`. Anything wrong is a `ConfigError` that names the YAML path, the value and the
nearest valid name.

A field annotated `Annotated[Any, Component("mmfm.encoders")]` holds the settings of an exchangeable
part: its YAML has a key ``type`` that names a module below that package (``vision_transformer``)
or, with a dot in it, any importable module (``my_package.my_encoder``), and the module's `Config`
dataclass holds the other keys.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import importlib.util
import math
import pkgutil
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

import pydantic
import yaml

T = TypeVar("T")


class ConfigError(ValueError):
    """A configuration that can't be used; the message says where, what and what to do."""


@dataclasses.dataclass(frozen=True)
class Component:
    """Marks a field whose YAML key ``type`` names a module below `package`; `default` is used
    without one.
    """

    package: str
    default: str | None = None


def load(cls: type[T], path: str | Path, overrides: Sequence[str] = ()) -> T:
    """Read the YAML file at `path`, apply dotted `overrides` (``key.sub=value``) and return a
    `cls`.
    """
    return from_dict(cls, read_yaml(path, overrides))


def read_yaml(path: str | Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The mapping in the YAML file at `path` with `overrides` applied, not yet checked against a
    class.
    """
    path = Path(path)
    if not path.is_file():
        near = difflib.get_close_matches(path.name, _names(path.parent), n=1, cutoff=0.5)
        hint = f" Did you mean {path.parent / near[0]}?" if near else ""
        raise ConfigError(f"there is no configuration file {path}.{hint}")
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from None
    raw = {} if raw is None else raw
    if not isinstance(raw, dict):
        raise ConfigError(f"{path} must hold a mapping at its top, not {type(raw).__name__}")
    apply_overrides(raw, overrides)
    return raw


def apply_overrides(raw: dict[str, Any], overrides: Iterable[str]) -> None:
    """Set ``a.b=value`` in the nested mapping `raw`, in place; the value is read as YAML."""
    for item in overrides:
        key, equals, text = item.partition("=")
        if not equals or not key.strip("."):
            raise ConfigError(f"override {item!r} must look like key.sub=value")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            problem = getattr(error, "problem", None) or str(error)
            raise ConfigError(
                f"override {item!r}: the value is not valid YAML ({problem}); if it is text, quote "
                f"it: '{key}=\"{text}\"'"
            ) from None
        node = raw
        *parents, last = key.split(".")
        for depth, part in enumerate(parents):
            child = node.get(part)
            if child is None:
                child = node[part] = {}
            if not isinstance(child, dict):
                where = ".".join(parents[: depth + 1])
                raise ConfigError(f"override {item!r}: {where} is {child!r}, not a mapping")
            node = child
        node[last] = value


def from_dict(cls: type[T], raw: Mapping[str, Any], path: str = "") -> T:
    """Check `raw` against the dataclass `cls` and build it; `path` is the YAML path for
    messages.
    """
    if not isinstance(raw, Mapping):
        raise ConfigError(f"{path or 'the configuration'} must be a mapping, not {raw!r}")
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}  # type: ignore[arg-type]
    hints = get_type_hints(cls, include_extras=True)
    for key in raw:
        if key not in fields:
            raise ConfigError(f"unknown key {_join(path, str(key))}{nearest(str(key), fields)}")
    values = {k: _convert(v, hints[k], _join(path, k)) for k, v in raw.items()}
    for name, field in fields.items():
        required = (
            field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        )
        if required and name not in values:
            raise ConfigError(f"{_join(path, name)} is required and has no default")
    try:
        return cls(**values)
    except ConfigError:
        raise
    except ValueError as error:  # from __post_init__: add where it was
        raise ConfigError(f"{path}: {error}" if path else str(error)) from None


def to_dict(config: Any) -> Any:
    """The plain mapping from which `from_dict` builds an equal config; components carry their
    ``type``.
    """
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        hints = get_type_hints(type(config), include_extras=True)
        return {
            f.name: _dump(getattr(config, f.name), hints[f.name])
            for f in dataclasses.fields(config)
            if f.init
        }
    return config


def dump(config: Any) -> str:
    """`config` as YAML text, complete with every default."""
    return yaml.safe_dump(to_dict(config), sort_keys=False, allow_unicode=True, width=100)


def component(raw: Mapping[str, Any], marker: Component, path: str = "") -> Any:
    """The `Config` of the module that ``raw["type"]`` names, with the other keys of `raw`."""
    if not isinstance(raw, Mapping):
        raise ConfigError(f"{path} must be a mapping with a key 'type', not {raw!r}")
    kind = raw.get("type", marker.default)
    if not isinstance(kind, str):
        names = ", ".join(_modules(marker.package))
        raise ConfigError(f"{path}.type is required: one of {names}, or a dotted module name")
    module_name = kind if "." in kind else f"{marker.package}.{kind}"
    if not _importable(module_name):
        raise ConfigError(
            f"{path}.type: no module {kind!r}{nearest(kind, _modules(marker.package))}"
        )
    module = importlib.import_module(module_name)
    cls = getattr(module, "Config", None)
    if not dataclasses.is_dataclass(cls):
        raise ConfigError(f"{path}.type: module {module_name} has no dataclass named Config")
    rest = {k: v for k, v in raw.items() if k != "type"}
    return from_dict(typing.cast(type, cls), rest, path)


def component_type(config: Any, package: str) -> str:
    """The ``type`` that names the module of `config`: short below `package`, dotted elsewhere."""
    module = type(config).__module__
    prefix = package + "."
    short = module[len(prefix) :] if module.startswith(prefix) else module
    return module if "." in short else short


def _convert(value: Any, hint: Any, path: str) -> Any:
    origin = get_origin(hint)
    if origin is Annotated:
        base, *extras = get_args(hint)
        for marker in extras:
            if isinstance(marker, Component):
                optional = type(None) in get_args(base)
                return None if value is None and optional else component(value, marker, path)
        return _convert(value, base, path)
    if dataclasses.is_dataclass(hint):
        return from_dict(typing.cast(type, hint), {} if value is None else value, path)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in get_args(hint):
            return None
        inner = [a for a in get_args(hint) if a is not type(None)]
        if len(inner) == 1:
            return _convert(value, inner[0], path)
    if origin is dict and get_args(hint)[1] is not Any:
        if not isinstance(value, Mapping):
            raise ConfigError(f"{path} must be a mapping, not {value!r}")
        inner_hint = get_args(hint)[1]
        # A null entry takes a named part out: objectives.masked_audio=null.
        return {
            str(k): _convert(v, inner_hint, _join(path, str(k)))
            for k, v in value.items()
            if v is not None
        }
    return _scalar(value, hint, path)


def _scalar(value: Any, hint: Any, path: str) -> Any:
    if isinstance(value, bool) and hint in (int, float):
        raise ConfigError(f"{path} = {value!r}: a number is needed")
    try:
        found = pydantic.TypeAdapter(hint).validate_python(value)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        where = ".".join([path, *(str(p) for p in first["loc"] if isinstance(p, int))])
        if first["type"] == "list_type" and isinstance(value, str | int | float):
            raise ConfigError(f"{where} = {value!r}: a list is needed, [{value}]") from None
        raise ConfigError(f"{where} = {value!r}: {first['msg']}") from None
    if isinstance(found, float) and not math.isfinite(found):
        raise ConfigError(f"{path} = {value!r}: a finite number is needed")
    return found


def _dump(value: Any, hint: Any) -> Any:
    if get_origin(hint) is Annotated:
        for marker in get_args(hint)[1:]:
            if isinstance(marker, Component) and value is not None:
                return {"type": component_type(value, marker.package), **to_dict(value)}
        return _dump(value, get_args(hint)[0])
    if dataclasses.is_dataclass(value):
        return to_dict(value)
    if isinstance(value, dict):
        inner = get_args(hint)[1] if get_args(hint) else Any
        return {k: _dump(v, inner) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_dump(v, Any) for v in value]
    return str(value) if isinstance(value, Path) else value


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def nearest(name: str, valid: Iterable[str]) -> str:
    """The end of a message about an unknown `name`: what was meant, perhaps, and all that is
    valid.
    """
    valid = list(valid)
    near = difflib.get_close_matches(name, valid, n=1, cutoff=0.4)
    hint = f"; did you mean {near[0]!r}?" if near else ";"
    return f"{hint} Valid: {', '.join(valid)}" if valid else ""


def _modules(package: str) -> list[str]:
    found = importlib.import_module(package)
    names = [m.name for m in pkgutil.iter_modules(found.__path__) if not m.name.startswith("_")]
    return [n for n in names if n != "base"]


def _importable(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ImportError as error:
        # A package that lacks some other library says so itself.
        if error.name is not None and not f"{module}.".startswith(f"{error.name}."):
            raise
        return False


def _names(folder: Path) -> list[str]:
    return [p.name for p in folder.iterdir()] if folder.is_dir() else []
