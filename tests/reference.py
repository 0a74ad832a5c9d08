"""Writes what the code says of itself into docs/reference.md and .env.example: `make reference`.

In that page each `<!-- code: NAME -->` names an object; what stands between it and `<!-- end -->` is made anew. All
else is written by hand. A test compares the page with what this would write.
"""

from __future__ import annotations

import ast
import dataclasses
import enum
import inspect
import json
import os
import re
import textwrap
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages
from types import FunctionType, ModuleType
from typing import Any, cast

import django
from django.db import models
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from allowance.plumbing.settings import Setting
from routing.conf import SETTINGS

PAGE = Path(__file__).parents[1] / "docs" / "reference.md"
EXAMPLE = Path(__file__).parents[1] / ".env.example"
MARK = "# The settings of the three apps, which `make reference` writes.\n"
UNITS = {"s": "seconds", "days": "days"}
PLACE = re.compile(r"(?<=<!-- code: )(\S+)( -->\n).*?(?=<!-- end -->)", re.DOTALL)
APPS = ("allowance", "receipts", "routing")
WIDTH = 110
"""Columns of a signature on one line."""


def main() -> None:
    """Write the page and the example anew."""
    PAGE.write_text(written(PAGE.read_text()))
    EXAMPLE.write_text(example(EXAMPLE.read_text()))


def example(text: str) -> str:
    """Return .env.example with all settings of the three apps after its mark."""
    lines = [line for setting in SETTINGS.values() for line in ("", *of_setting(setting))]
    return "\n".join([text[: text.index(MARK)] + MARK.rstrip(), *lines, ""])


def of_setting(setting: Setting) -> list[str]:
    """Return the lines of a setting in .env.example."""
    unit = f" In {UNITS[setting.unit]}." if setting.unit else ""
    comment = textwrap.wrap(setting.help + unit, 118, initial_indent="# ", subsequent_indent="# ")
    default = written_default(setting)
    quote = "'" if isinstance(setting.default, dict) and default else ""  # so that a shell can read the file too
    return [*comment, f"#{setting.name}={quote}{default}{quote}"]


def settings_row(setting: Setting) -> tuple[str, str, str]:
    """Return the row of a setting in the table of the page."""
    default = f"{written_default(setting)} {setting.unit}".strip()
    return f"`{setting.name}`", f"`{default}`" if default else "", setting.help


def written_default(setting: Setting) -> str:
    """Return the default of a setting as the environment has it."""
    default = setting.default
    if isinstance(default, int | float):
        return f"{default:g}"
    if isinstance(default, list):
        return ",".join(default)
    return json.dumps(default) if default and isinstance(default, dict) else str(default or "")


def written(page: str) -> str:
    """Return the page with all its places filled in."""
    return PLACE.sub(lambda place: f"{place[1]}{place[2]}{described(place[1])}\n", page)


def described(names: str) -> str:
    """Return the Markdown that describes the object of this name, or the errors of these, with commas between."""
    owner, attribute, value = found(names.partition(",")[0])
    if isinstance(value, FunctionType):
        return f"{signature(attribute, value)}\n{text(value)}"
    if value is SETTINGS:
        return table(("Setting", "Default", "Meaning"), map(settings_row, SETTINGS.values()))
    if not isinstance(value, type):
        return f"`{attribute} = {value!r}`\n\n{constant_text(owner, attribute)}"
    if issubclass(value, Exception):
        return errors(found(name)[2] for name in names.split(","))
    rows = next((fields(value) for applies, fields in FIELDS if applies(value)), None)
    if rows is None:
        return "\n".join(methods(value))
    return f"{text(value)}\n{table(*rows)}"


def found(name: str) -> tuple[ModuleType, str, Any]:
    """Return the object of this name, after its module and its name there."""
    module, _, attribute = name.rpartition(".")
    owner = import_module(module)
    return owner, attribute, getattr(owner, attribute)


def text(value: object) -> str:
    """Return a docstring, or the one that it refers to if it ends in "; see `somewhere.else`."."""
    own = inspect.cleandoc(cast(Any, value).__doc__)
    elsewhere = re.search(r"; see `(\w+(?:\.\w+)+)`\.$", own)
    if elsewhere is None:
        return f"{own}\n"
    return text(found(elsewhere[1])[2])


class Bare(str):
    """An annotation that prints without quotes."""

    __slots__ = ()
    __repr__ = str.__str__


def signature(name: str, function: Callable[..., Any]) -> str:
    """Return the block of code that shows how a function is called."""
    shape = inspect.signature(function)
    parameters = [
        parameter.replace(annotation=Bare(parameter.annotation))
        for parameter in shape.parameters.values()
        if parameter.name != "self"
    ]
    bare = str(shape.replace(parameters=parameters, return_annotation=Bare(shape.return_annotation)))
    begin = f"{'async ' if inspect.iscoroutinefunction(function) else ''}{name}"
    if len(begin + bare) > WIDTH:
        inner, end = bare[1:].rsplit(")", 1)
        bare = f"(\n    {inner}\n){end}"
    return f"```text\n{begin}{bare}\n```\n"


def methods(service: type) -> Iterator[str]:
    """Yield the descriptions of a service's methods. A twin is named beside the one that it is the twin of."""
    public = {name: member for name, member in vars(service).items() if not name.startswith("_")}
    for name, member in public.items():
        if name[0] == "a" and name[1:] in public:
            continue
        twin = f"The coroutine `a{name}` does the same.\n" if f"a{name}" in public else ""
        yield "\n".join(filter(None, (f"### `{name}`\n", signature(name, member), text(member), twin)))


def table(head: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    lines = [list(head), ["---"] * len(list(head)), *([str(cell).replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


Rows = tuple[Iterable[str], Iterable[Iterable[object]]]


def of_enum(kind: Any) -> Rows:
    if hasattr(kind, "label"):
        return ("Member", "Meaning"), [(f"`{member.name}`", member.label) for member in kind]
    return ("Member", "Value"), [(f"`{member.name}`", f"`{member.value}`") for member in kind]


def of_message(kind: Any) -> Rows:
    return ("Field", "Type", "Default"), [
        (f"`{name}`", f"`{notes(kind)[name]}`", "" if default is PydanticUndefined else f"`{default!r}`")
        for name, field in cast(type[BaseModel], kind).model_fields.items()
        for default in [field.get_default(call_default_factory=True)]
    ]


def of_attributes(kind: Any) -> Rows:
    properties = {name: member for name, member in vars(kind).items() if isinstance(member, property)}
    types = notes(kind) | {name: member.fget.__annotations__["return"] for name, member in properties.items()}
    return ("Attribute", "Type"), [(f"`{name}`", f"`{note}`") for name, note in types.items()]


def of_model(kind: Any) -> Rows:
    return ("Field", "Type"), [(f"`{field.name}`", type(field).__name__) for field in kind._meta.concrete_fields]


FIELDS: list[tuple[Callable[[type], bool], Callable[[Any], Rows]]] = [
    (lambda kind: issubclass(kind, enum.Enum), of_enum),
    (lambda kind: issubclass(kind, BaseModel), of_message),
    (lambda kind: issubclass(kind, models.Model), of_model),
    (lambda kind: dataclasses.is_dataclass(kind) or getattr(kind, "_is_protocol", False), of_attributes),
]


def notes(kind: type) -> dict[str, str]:
    """Return the annotations of a class and its bases, as they are written."""
    written: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        written |= vars(base).get("__annotations__", {})
    return written


def constant_text(owner: ModuleType, name: str) -> str:
    """Return the text that stands below a constant, or below the last of those that it is one of."""
    body = ast.parse(inspect.getsource(owner)).body
    place = next(i for i, node in enumerate(body) if isinstance(node, ast.Assign) and named(node) == name)
    found = next(node for node in body[place + 1 :] if isinstance(node, ast.Expr))
    return inspect.cleandoc(ast.literal_eval(found.value)) + "\n"


def named(node: ast.Assign) -> str:
    return ast.unparse(node.targets[0])


def errors(bases: Iterable[type[Exception]]) -> str:
    """Return the table of exceptions and all that are derived from them in the three apps."""
    rows = [
        (f"`{kind.__name__}`", f"`{kind.__module__}`", f"`{kind.__bases__[0].__name__}`", meaning(kind))
        for base in bases
        for kind in family(base)
    ]
    return table(("Error", "from", "is a", "Meaning"), rows)


def meaning(kind: type[Exception]) -> str:
    said = " ".join(text(kind).split())
    carried = ", ".join(f"`{name}`" for name in carries(kind))
    return f"{said} Attributes: {carried}." if carried else said


def family(base: type[Exception]) -> Iterator[type[Exception]]:
    """Yield an exception and those derived from it, each before its own."""
    load_all()
    yield base
    for kind in sorted(base.__subclasses__(), key=lambda kind: kind.__name__):
        if kind.__module__.partition(".")[0] in APPS:
            yield from family(kind)


def carries(kind: type[Exception]) -> list[str]:
    """Return the names of the attributes that an exception adds to those of its base."""
    initialise = vars(kind).get("__init__")
    properties = [name for name, member in vars(kind).items() if isinstance(member, property)]
    if initialise is None:
        return properties
    return [*re.findall(r"^ +self\.(\w+) = ", inspect.getsource(initialise), re.MULTILINE), *properties]


OF_EXTRAS = {"allowance.follow.connection"}
"""Modules that import the library of an extra. Other modules import them in functions."""


def load_all() -> list[ModuleType]:
    """Import every module of the three apps."""
    folders = {f"{app}.": import_module(app).__path__ for app in APPS}
    names = [module.name for prefix, folder in folders.items() for module in walk_packages(folder, prefix)]
    return [import_module(name) for name in names if ".migrations." not in name and name not in OF_EXTRAS]


if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")
    django.setup()
    main()
