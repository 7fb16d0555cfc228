"""From a YAML file to settings, or all the faults that there are; and back to a file with help for each."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar, get_args

import yaml
from msgspec import Struct, field

from synapse_like.config.values import Settings
from synapse_like.config.writing import section_lines
from synapse_like.models import Fault, Faulty, Place, Reader, fields_of

Kind = TypeVar("Kind", bound=Settings)

_MAPPING = "a mapping, `key: value`"


class ConfigError(Exception):
    """The settings cannot be used. Its text has one line for each fault: `file: key: reason`."""

    def __init__(self, faults: Sequence[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = tuple(faults)


def _read(path: Path) -> object:
    """What a YAML file holds.

    :raises ConfigError: it cannot be read.
    """
    try:
        return yaml.load(path.read_text(encoding="utf-8"), _UniqueKeysLoader)
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read: {error.strerror}"]) from error
    except UnicodeDecodeError as error:
        raise ConfigError([f"{path}: is not UTF-8 text"]) from error
    except yaml.YAMLError as error:
        raise ConfigError([f"{path}: {_yaml_fault(error)}"]) from error


class SettingsFile(Struct, Generic[Kind], frozen=True):
    """A kind of settings file: how it is read and written.

    :ivar model: what it holds.
    :ivar title: its first line.
    :ivar check: the command that checks it.
    :ivar environment: which environment variables win over which settings, each a heading and a key.
    :ivar moved: where settings stand today that had another name; an older file goes on working.
    """

    model: type[Kind]
    title: str
    check: str
    environment: Mapping[str, tuple[str, str]]
    moved: Mapping[tuple[str, str], tuple[str, str]] = field(default_factory=dict)

    def load(self, path: Path, environ: Mapping[str, str], *, without: Iterable[str] = ()) -> Kind:
        """Read settings from a file and the environment.

        :param environ: the environment variables, as `os.environ` has them.
        :param without: settings of the file that are to be as if they were not there; keys such as `database.shared`.
        :raises ConfigError: with all the faults that there are.
        """
        settings = _read(path)
        for name in without:
            settings = _without(settings, name.split("."))
        return self.parse(settings, source=str(path), folder=path.parent, environ=environ)

    def parse(self, settings: object, *, source: str, folder: Path, environ: Mapping[str, str]) -> Kind:
        """Make settings of what a YAML file holds.

        :param source: the name of the file, for the faults.
        :param folder: what relative paths are relative to.
        :param environ: environment variables.
        :raises ConfigError: with all the faults that there are.
        """
        if not isinstance(settings, Mapping):
            raise ConfigError([f"{source}: must be {_MAPPING}"])
        settings, overridden = self._with_environment(self._with_new_names(settings), environ)
        try:
            return Reader(folder.absolute(), object_term=_MAPPING).read(self.model, settings)
        except Faulty as error:
            raise ConfigError([_line(self.model, fault, source, overridden) for fault in error.faults]) from error

    def sample(self, config: Kind, given: Mapping[str, Any]) -> str:
        """The settings as a YAML file with the help for each; what was not set stands there commented out.

        :param given: what they were made of.
        """
        lines = [
            f"# {self.title}",
            "# A line that begins with `#key:` shows a default; to change it, take the `#` away.",
            f"# After a change: synapse_like {self.check}, then restart the server.",
            *section_lines(config, given, ""),
        ]
        return "\n".join(lines) + "\n"

    def _with_new_names(self, settings: Mapping[str, Any]) -> Mapping[str, Any]:
        """The settings with those that an older file has under an older name where they stand today."""
        for (old_heading, old_key), (heading, key) in self.moved.items():
            old, new = settings.get(old_heading), settings.get(heading) or {}
            if isinstance(old, Mapping) and isinstance(new, Mapping) and old_key in old and key not in new:
                rest = {name: value for name, value in old.items() if name != old_key}
                settings = {**settings, old_heading: rest, heading: {**new, key: old[old_key]}}
        return settings

    def _with_environment(
        self, settings: Mapping[str, Any], environ: Mapping[str, str]
    ) -> tuple[dict[str, Any], dict[tuple[str, str], str]]:
        """The settings with what the environment gives, and which variable gave what."""
        settings = dict(settings)
        overridden = {}
        for variable, (heading, key) in self.environment.items():
            section = settings.get(heading) or {}
            if environ.get(variable) and isinstance(section, Mapping):
                settings[heading] = {**section, key: environ[variable]}
                overridden[heading, key] = variable
        return settings, overridden


def _without(settings: Any, path: Sequence[str]) -> Any:
    """Settings without one of them."""
    if not isinstance(settings, Mapping) or path[0] not in settings:
        return settings
    rest = {key: value for key, value in settings.items() if key != path[0]}
    return rest if len(path) == 1 else {**rest, path[0]: _without(settings[path[0]], path[1:])}


if TYPE_CHECKING or not yaml.__with_libyaml__:
    from yaml import SafeLoader
else:
    # Reads the same in C, where PyYAML was built with it: the commented file of a server in 0.3 ms instead of 10.
    from yaml import CSafeLoader as SafeLoader


class _UniqueKeysLoader(SafeLoader):
    """Refuses a key that stands twice, of which YAML's loader would silently take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue  # refused below
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key.value} stands twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _yaml_fault(error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"line {error.problem_mark.line + 1}: {error.problem or error.context}"
    return " ".join(str(error).split())


def _line(model: type[Settings], fault: Fault, source: str, overridden: Mapping[tuple[str, str], str]) -> str:
    """A fault as a line: `file: key: reason`."""
    place = fault.place
    reason = fault.reason if not fault.is_unknown else _unknown(model, place)
    variable = overridden.get((str(place[0]), str(place[1]))) if len(place) > 1 else None
    if variable is not None:
        return f"environment: {variable}: {reason}"
    key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).lstrip(".")
    return f"{source}: {key}: {reason}"


def _unknown(model: type[Settings], place: Place) -> str:
    """What to say of a key that is no setting."""
    from difflib import get_close_matches

    *headings, key = place
    near = get_close_matches(str(key), _keys_under(model, headings), n=1)
    return f"is not a setting; did you mean {near[0]}?" if near else "is not a setting"


def _keys_under(model: Any, headings: Sequence[int | str]) -> Sequence[str]:
    for heading in headings:
        # A list is a tuple of equal things, and more is said about it.
        model = get_args(get_args(model)[0])[0] if isinstance(heading, int) else _kind_of(model, heading)
    return [field.name for field in fields_of(model)]


def _kind_of(model: type[Settings], key: str) -> Any:
    return next(field.type for field in fields_of(model) if field.name == key)
