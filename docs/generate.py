"""Write the pages of docs/reference/ from the code: run by `make docs`.

`python docs/generate.py --check` writes nothing, and fails if a page is not what the code says.
"""

import ast
import enum
import importlib
import inspect
import json
import pkgutil
import re
import sys
import textwrap
import types
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer
from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel
from pydantic.fields import FieldInfo

import vqtrt
from vqtrt.cli import app

REFERENCE = Path(__file__).parent / "reference"
SETTINGS = "vqtrt.config"
"""The module, or the package, whose models are the settings."""
TITLES = {
    "image": "Images",
    "speech": "Speech",
    "pixelcnn": "PixelCNN prior",
    "wavenet": "WaveNet prior",
}
"""Headings of the settings, by the `kind` of the model or prior that they are of."""

CLI_HEAD = """\
# Command line

Every command with its options. `make docs` writes this page from the code.
"""
SETTINGS_HEAD = """\
# Settings

Every key of a recipe and of `--set KEY=VALUE`. `make docs` writes this page from the code.
"""

MODULES_HEAD = """\
# Modules

Every module of the package, with the first lines of its docstring. `make docs` writes this page \
from the code; [Architecture](../architecture.md) says how the folders fit together.
"""

PYTHON_HEAD = """\
# Python reference

The public names of `vqtrt` with their docstrings. [Python](../python.md) shows how to use them.
"""


def python_page() -> str:
    """The page of the public names, which mkdocstrings fills in; errors come last."""
    names = [name for name in vqtrt.__all__ if not name.startswith("_")]
    names.sort(key=lambda name: (name.endswith("Error"), name))
    shown = [*(f"vqtrt.{name}" for name in names), "vqtrt.jobs.files.FileOptions"]
    return "\n".join([PYTHON_HEAD, *(f"::: {name}" for name in shown), ""])


# The modules


def modules_page() -> str:
    """The page of all modules, a table a folder, by the first line of their docstrings."""
    package = Path(vqtrt.__file__).parent
    parts = [MODULES_HEAD]
    for folder in [package, *sorted(path for path in package.rglob("*") if path.is_dir())]:
        files = sorted(folder.glob("*.py"))
        if not files:
            continue
        name = folder.relative_to(package.parent).as_posix()
        about = {path.name: _first_lines(path) for path in files}
        own = about.pop("__init__.py", "")
        parts.append(f"## {name}/\n")
        if own and folder != package:
            parts.append(f"{own}\n")
        rows = [(f"`{file}`", text) for file, text in about.items()]
        parts.append(_table(("module", "about"), rows))
    return "\n".join(parts)


def _first_lines(path: Path) -> str:
    """The first paragraph of a module's docstring."""
    text = ast.get_docstring(ast.parse(path.read_text())) or ""
    return _escaped(text.partition("\n\n")[0].replace("\n", " "))


# The command line


def cli_page() -> str:
    """The page of all commands."""
    program = typer.main.get_command(app)
    return "\n".join([CLI_HEAD, *_commands(program, "vqtrt")])


def _commands(group: Any, path: str) -> Iterator[str]:
    for name, command in sorted(group.commands.items()):
        full = f"{path} {name}"
        if hasattr(command, "commands"):
            yield from _commands(command, full)
            continue
        arguments = [_argument(p) for p in command.params if p.param_type_name == "argument"]
        yield f"## {full}\n"
        yield f"{_escaped(inspect.cleandoc(command.help))}\n"
        yield f"```text\n{' '.join([full, *arguments, '[OPTIONS]'])}\n```\n"
        signature = inspect.signature(command.callback).parameters
        rows = [_option(p, signature[p.name].annotation) for p in command.params if not p.hidden]
        yield _table(("name", "type", "default", "meaning"), rows)


def _argument(parameter: Any) -> str:
    """An argument in the usage line: in brackets if it may be left out."""
    name = str(parameter.metavar or parameter.name).upper()
    name = name if parameter.required else f"[{name}]"
    return f"{name}..." if parameter.nargs == -1 else name


def _option(parameter: Any, annotation: Any) -> tuple[str, str, str, str]:
    """The row of one argument or option; `annotation` is that of the command's function."""
    kind, info = get_args(annotation)
    meaning, default = str(parameter.help or ""), parameter.default
    stated = re.search(r"\s*\(default: ([^)]*)\)", meaning)
    if parameter.required:
        shown = "required"
    elif isinstance(default, bool):
        shown = "on" if default else "off"
    elif default is not None:
        shown = _value(default)
    elif stated:
        shown = _escaped(stated[1])
        meaning = meaning.replace(stated[0], "")
    else:
        shown = "none"
    if parameter.param_type_name == "argument":
        names = [str(parameter.metavar or parameter.name).upper()]
    else:
        names = [*parameter.opts, *parameter.secondary_opts]
    if isinstance(default, bool):
        words = "flag"
    else:
        words = _type(kind, _range(info.min, info.max))
        # Whoever types it gives one at a time; its name or its meaning says that it is repeatable.
        words = words.removeprefix("list of ")
    return ", ".join(f"`{name}`" for name in names), words, shown, _escaped(meaning)


# Settings


def settings_page() -> str:
    """The page of all settings."""
    parts = [SETTINGS_HEAD]
    shown: dict[tuple[type[BaseModel], str], str] = {}
    for title, root in settings_roots().items():
        parts += [f"## {title}\n", *_settings(root, title, "", shown)]
    return "\n".join(parts)


def settings_roots() -> dict[str, type[BaseModel]]:
    """The models that a whole YAML file is read as, by their heading, wherever they are defined."""
    home = importlib.import_module(SETTINGS)
    for module in pkgutil.iter_modules(getattr(home, "__path__", ()), f"{SETTINGS}."):
        importlib.import_module(module.name)
    roots = {}
    for model in _below(BaseModel):
        fields = model.model_fields
        part = next((name for name in ("model", "prior") if name in fields), None)
        if model.__module__.startswith(SETTINGS) and "format_version" in fields and part:
            (group,) = _groups(model.model_fields[part].annotation)
            roots[group.model_fields["kind"].default] = model
    return {title: roots.pop(kind) for kind, title in TITLES.items()} | roots


def _below(kind: type[BaseModel]) -> Iterator[type[BaseModel]]:
    for model in kind.__subclasses__():
        yield model
        yield from _below(model)


def _settings(
    model: type[BaseModel], title: str, prefix: str, shown: dict[tuple[type[BaseModel], str], str]
) -> Iterator[str]:
    """The tables of a model and, after it, of the groups of settings in it.

    `shown` has the headings of the groups that stand on the page: one that several roots share
    stands there once.
    """
    rows, later = [], []
    for name, field in sorted(model.model_fields.items(), key=lambda item: item[0] != "kind"):
        key = f"{prefix}{name}"
        groups = _groups(field.annotation)
        meaning = docstrings(model).get(name, "")
        if not groups:
            default = _value(field.default)
            rows.append((f"`{key}`", _type(field.annotation, _limits(field)), default, meaning))
            continue
        links = []
        for group in groups:
            if (group, key) not in shown:
                kind = f", {group.model_fields['kind'].default}" if len(groups) > 1 else ""
                shown[group, key] = f"{title}: `{key}`{kind}"
                later.append((group, key))
            links.append(f"[{shown[group, key]}](#{slug(shown[group, key])})")
        meaning = f"{meaning or _summary(groups[0])} See {' and '.join(links)}."
        default = "`null`" if field.default is None else ""
        rows.append((f"`{key}`", "group", default, meaning))
    head = ("key", "type", "default", "meaning")
    # In YAML, and so in a recipe and after --set, None is null.
    yield _table(
        head, [(*row[:3], re.sub(r"\bNone\b", "`null`", _escaped(row[3]))) for row in rows]
    )
    for group, key in later:
        yield f"### {shown[group, key]}\n"
        yield f"{_escaped(_summary(group))}\n"
        yield from _settings(group, title, f"{key}.", shown)


def docstrings(model: type[BaseModel]) -> dict[str, str]:
    """The strings below a model's fields, those of its bases among them, each on one line."""
    found: dict[str, str] = {}
    for kind in reversed(model.__mro__):
        if not issubclass(kind, BaseModel) or kind is BaseModel:
            continue
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
        assert isinstance(tree, ast.ClassDef)  # noqa: S101
        for field, below in zip(tree.body, tree.body[1:], strict=False):
            match field, below:
                case (
                    ast.AnnAssign(target=ast.Name(id=name)),
                    ast.Expr(value=ast.Constant(value=str(text))),
                ):
                    found[name] = " ".join(text.split())
    return found


def _summary(model: type[BaseModel]) -> str:
    return inspect.cleandoc(model.__doc__ or "").partition("\n\n")[0].replace("\n", " ")


def _groups(annotation: Any) -> list[type[BaseModel]]:
    """The models that a setting may be, if it is a group of settings."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [group for part in get_args(annotation) for group in _groups(part)]


def _limits(field: FieldInfo) -> str:
    """The bounds of a setting, in words."""
    found = {type(each): each for each in field.metadata}
    above, least, most, below = (found.get(kind) for kind in (Gt, Ge, Le, Lt))
    return ", ".join(
        filter(
            None,
            [
                above and f"above {_number(above.gt)}",
                _range(least and least.ge, most and most.le),
                below and f"below {_number(below.lt)}",
            ],
        )
    )


# What both have


def _type(annotation: Any, limits: str) -> str:
    """What a value is, in words: `int, at least 1`."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type(parts[0], limits)
    if origin in (Union, types.UnionType):
        some = [part for part in parts if part is not types.NoneType]
        return " or ".join(_type(part, limits) for part in some)
    if origin in (list, tuple):
        return f"list of {_type(parts[0], limits)}"
    if origin is Literal:
        return ", ".join(map(_value, parts))
    if issubclass(annotation, enum.Enum):
        return ", ".join(_value(each) for each in annotation)
    names = {bool: "bool", int: "int", float: "float", str: "text", Path: "path"}
    return ", ".join(filter(None, [names[annotation], limits]))


def _range(least: float | None, most: float | None) -> str:
    if least is None:
        return "" if most is None else f"at most {_number(most)}"
    return f"at least {_number(least)}" if most is None else f"{_number(least)} to {_number(most)}"


def _number(value: float) -> str:
    """A bound: 16,384, or 2^63 where it is a large power of two."""
    if isinstance(value, int) and value >= 2**20 and value & (value - 1) == 0:
        return f"2^{value.bit_length() - 1}"
    return f"{value:,}"


def _value(value: object) -> str:
    """A default as one writes it."""
    if isinstance(value, enum.Enum):
        value = value.value
    if isinstance(value, str):
        return f"`{value}`" if value else '`""`'
    return f"`{json.dumps(value)}`"


def _escaped(text: str) -> str:
    """Text for a cell: outside code, asterisks are asterisks."""
    parts = re.split(r"(`[^`]*`)", text)
    plain = [part if part.startswith("`") else part.replace("*", r"\*") for part in parts]
    return "".join(plain).replace("|", r"\|")


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def slug(title: str) -> str:
    """The anchor of a heading, as GitHub and mkdocs.yml name it."""
    return re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")


def main(arguments: Sequence[str]) -> int:
    """Write the pages, or with `--check` name those that are not up to date; the exit status."""
    pages = {"cli.md": cli_page(), "settings.md": settings_page(), "python.md": python_page()}
    pages["modules.md"] = modules_page()
    paths = {REFERENCE / name: text for name, text in pages.items()}
    stale = [p for p, text in paths.items() if not p.is_file() or p.read_text() != text]
    if "--check" in arguments:
        for path in stale:
            print(f"{path}: not what the code says; run `make docs`", file=sys.stderr)
        return bool(stale)
    REFERENCE.mkdir(exist_ok=True)
    for path in stale:
        path.write_text(paths[path])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
