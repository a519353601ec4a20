"""Settings from YAML and `--set key=value` into typed models; an unknown key is an error."""

import difflib
import types
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from vqtrt.errors import VqtrtError
from vqtrt.system.files import read_or_raise

_MAX_YAML_BYTES = 2**20
# PyYAML lets through what a date such as 2024-13-45 and a very deep nesting raise.
_NOT_YAML = (yaml.YAMLError, ValueError, RecursionError)
_NULL = ("", "null", "~")
"""What `--set` takes for None if a string is optional."""


class Settings(BaseModel):
    """Base of all settings: no unknown keys, no change after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    def to_yaml(self) -> str:
        """The text that `read_settings` reads back to equal settings."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


S = TypeVar("S", bound=BaseModel)


def find_recipe(folder: Path, recipe: str | Path) -> Path:
    """The YAML file that is meant: a recipe of the folder by its name, or a path."""
    if "/" in str(recipe) or Path(recipe).suffix in (".yaml", ".yml"):
        return Path(recipe)
    path = folder / f"{recipe}.yaml"
    if not path.is_file():
        known = ", ".join(recipe_names(folder))
        raise VqtrtError(f"no recipe {recipe!r}: choose one of {known}, or name a YAML file")
    return path


def recipe_names(folder: Path) -> list[str]:
    """Names of the recipes in a folder, sorted."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def read_settings(kind: type[S], path: Path, overrides: Iterable[str] = ()) -> S:
    """Read a YAML file as `kind`, with `key=value` overrides (`train.steps=100`)."""
    settings = read_yaml(path)
    for override in overrides:
        _set(kind, settings, override)
    return parse_settings(kind, settings, str(path))


def parse_settings(kind: type[S], settings: Mapping[str, Any], where: str) -> S:
    """Validate settings; `where` names them in the error."""
    try:
        return kind.model_validate(settings)
    except ValidationError as error:
        raise VqtrtError(f"{where}: {_first_problem(kind, error)}") from error


def read_yaml(path: Path) -> dict[str, Any]:
    """The settings in a file, not validated."""
    large = f"{path}: larger than {_MAX_YAML_BYTES} bytes: not a settings file"
    missing = f"{path}: no such file"
    content = read_or_raise(path, _MAX_YAML_BYTES, VqtrtError, missing=missing, large=large)
    try:
        settings = yaml.safe_load(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise VqtrtError(f"{path}: cannot be read ({error})") from error
    except _NOT_YAML as error:
        reason = " ".join(str(error).split())
        raise VqtrtError(f"{path}: not valid YAML ({reason})") from error
    if settings is None:
        return {}
    if not isinstance(settings, dict):
        raise VqtrtError(
            f"{path}: expected settings as `key: value`, found {type(settings).__name__}"
        )
    return settings


def _set(kind: type[BaseModel], settings: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise VqtrtError(f"--set {override!r}: expected key=value, such as train.steps=2000")
    *parents, last = key.split(".")
    table = settings
    for parent in parents:
        table = table.setdefault(parent, {})
        if not isinstance(table, dict):
            raise VqtrtError(f"--set {override!r}: {parent!r} is a value, not a group of settings")
    group = _group(kind, parents)
    field = group.model_fields.get(last) if group else None
    table[last] = _value(override, text, field.annotation if field else None)


def _value(override: str, text: str, annotation: Any) -> Any:
    """The value of a text for a setting of this type.

    A string is taken as it stands: a folder may be called 2024, or yes, and a regular expression
    may begin with a bracket. An optional string is None for `null`, `~` or nothing.
    """
    if _is_text(annotation):
        optional = types.NoneType in get_args(annotation)
        return None if optional and text in _NULL else text
    listed = get_origin(annotation) in (tuple, list) and all(
        part is Ellipsis or _is_text(part) for part in get_args(annotation)
    )
    try:
        # The base loader makes nothing but strings: an entry of a list of strings stays one.
        value = yaml.load(text, yaml.BaseLoader) if listed else yaml.safe_load(text)  # noqa: S506
    except _NOT_YAML:
        raise VqtrtError(f"--set {override!r}: {text!r} is not a valid YAML value") from None
    return _number(value) if isinstance(value, str) else value


def _is_text(annotation: Any) -> bool:
    """Whether a setting of this type is a string, or None."""
    if get_origin(annotation) in (types.UnionType, Union):
        parts = [part for part in get_args(annotation) if part is not types.NoneType]
        return bool(parts) and all(map(_is_text, parts))
    if get_origin(annotation) is Literal:
        return all(isinstance(value, str) for value in get_args(annotation))
    return annotation is str


def _number(text: str) -> str | float:
    """YAML 1.1 reads `1e-4` as text; everyone who types it means the number."""
    try:
        return float(text)
    except ValueError:
        return text


def _first_problem(kind: type[BaseModel], error: ValidationError) -> str:
    problem = error.errors()[0]
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        return f"unknown setting {key!r}{_suggestion(kind, problem['loc'])}"
    message = problem["msg"].removeprefix("Value error, ")
    return f"{key}: {message} (got {problem['input']!r})" if key else message


def _group(kind: type[BaseModel], location: Sequence[int | str]) -> type[BaseModel] | None:
    """The settings that stand at a place in the config, if there are such."""
    model = kind
    for part in location:
        field = model.model_fields.get(str(part))
        annotation = field.annotation if field else None
        if get_origin(annotation) is types.UnionType:
            annotation = get_args(annotation)[0]
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return None
        model = annotation
    return model


def _suggestion(kind: type[BaseModel], location: tuple[int | str, ...]) -> str:
    model = _group(kind, location[:-1])
    if model is None:
        return ""
    known = list(model.model_fields)
    close = difflib.get_close_matches(str(location[-1]), known, n=1)
    if close:
        return f"; did you mean {'.'.join(map(str, [*location[:-1], close[0]]))!r}?"
    return f"; known here: {', '.join(known)}"
