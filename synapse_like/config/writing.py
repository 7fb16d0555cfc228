"""How settings stand in a commented YAML file."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

import yaml
from msgspec import to_builtins

from synapse_like.config.values import Section, Settings
from synapse_like.models import default_of, fields_of

_WIDTH = 100


def section_lines(section: Settings, given: Mapping[str, Any], indent: str) -> Iterator[str]:
    """Settings with the help for each; those that were not set stand there commented out, with their defaults.

    :param given: what they were made of.
    """
    texts = help_of(type(section))
    for field in fields_of(type(section)):
        key = field.name
        value = getattr(section, key)
        is_section = isinstance(value, Section)
        help_text = type(value).__doc__ or "" if is_section else texts[key]
        yield ""
        yield from textwrap.wrap(help_text, _WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ")
        if is_section:
            yield f"{indent}{key}:"
            yield from section_lines(value, given.get(key) or {}, f"{indent}  ")
        elif field.required or key in given:
            yield f"{indent}{key}: {_inline(value)}"
        else:
            yield f"{indent}#{key}: {_inline(default_of(field))}"


def help_of(settings: type[Settings]) -> Mapping[str, str]:
    """The texts under the keys of some settings, from the source."""
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
    text = yaml.safe_dump(to_builtins(value, enc_hook=str), default_flow_style=True, width=10**6, sort_keys=False)
    return text.removesuffix("\n").removesuffix("\n...")
