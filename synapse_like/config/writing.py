"""How settings stand in a commented YAML file."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator, Mapping
from itertools import pairwise

import yaml
from pydantic_core import to_jsonable_python

from synapse_like.config.values import Section, Settings

_WIDTH = 100


def section_lines(section: Settings, indent: str) -> Iterator[str]:
    """Settings with the help for each; those that were not set stand there commented out, with their defaults."""
    texts = help_of(type(section))
    for key, field in type(section).model_fields.items():
        value = getattr(section, key)
        is_section = isinstance(value, Section)
        help_text = type(value).__doc__ or "" if is_section else texts[key]
        yield ""
        yield from textwrap.wrap(help_text, _WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ")
        if is_section:
            yield f"{indent}{key}:"
            yield from section_lines(value, f"{indent}  ")
        elif key in section.model_fields_set:
            yield f"{indent}{key}: {_inline(value)}"
        else:
            yield f"{indent}#{key}: {_inline(field.default)}"


def help_of(settings: type[Settings]) -> Mapping[str, str]:
    """The texts under the keys of some settings, from the source. Pydantic would read them at every start of a server,
    which takes a tenth of it.
    """
    texts: dict[str, str] = {}
    for model in reversed(settings.__mro__):
        if not issubclass(model, Settings):
            continue
        (found,) = ast.parse(textwrap.dedent(inspect.getsource(model))).body
        assert isinstance(found, ast.ClassDef)
        for field, text in pairwise(found.body):
            match field, text:
                case ast.AnnAssign(target=ast.Name(key)), ast.Expr(ast.Constant(str(value))):
                    texts[key] = inspect.cleandoc(value)
    return texts


def _inline(value: object) -> str:
    """A value as YAML on one line."""
    text = yaml.safe_dump(
        to_jsonable_python(value, exclude_none=True), default_flow_style=True, width=10**6, sort_keys=False
    )
    return text.removesuffix("\n").removesuffix("\n...")
