"""How settings stand in a commented YAML file."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

import yaml
from pydantic_core import to_jsonable_python

from synapse_like.config.values import Section, Settings

_WIDTH = 100


def section_lines(section: Settings, indent: str) -> Iterator[str]:
    """Settings with the help for each; those that were not set stand there commented out, with their defaults."""
    for key, field in type(section).model_fields.items():
        value = getattr(section, key)
        is_section = isinstance(value, Section)
        help_text = type(value).__doc__ if is_section else field.description
        yield ""
        yield from textwrap.wrap(help_text or "", _WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ")
        if is_section:
            yield f"{indent}{key}:"
            yield from section_lines(value, f"{indent}  ")
        elif key in section.model_fields_set:
            yield f"{indent}{key}: {_inline(value)}"
        else:
            yield f"{indent}#{key}: {_inline(field.default)}"


def _inline(value: object) -> str:
    """A value as YAML on one line."""
    text = yaml.safe_dump(
        to_jsonable_python(value, exclude_none=True), default_flow_style=True, width=10**6, sort_keys=False
    )
    return text.removesuffix("\n").removesuffix("\n...")
