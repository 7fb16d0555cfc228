"""Backups, made while the server runs, and restored into an empty place.

A backup is a folder, or the same in one tar file:

    homeserver.yaml  signing.key  signing.key.old  tls.crt  tls.key; of an identity server identity.yaml and its keys
    database.sqlite  all tables at one moment, whatever the server's database is: a backup of one kind can be restored
                     into the other
    content/ab/cd…   the files that these tables name
    manifest.json    of what server it is, of when, and the size and hash of every file; written last, so that without
                     it there is no backup

Files of the content repository are given a second name before the database is read, and once more after, so that each
file that a row of the copy names is there, whatever is uploaded and deleted meanwhile.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Protocol

from msgspec import Struct, field
from msgspec.structs import asdict

from synapse_like import __version__
from synapse_like.app import identity
from synapse_like.app.errors import StartError
from synapse_like.app.parts import engine_of
from synapse_like.config import Config, ConfigError, load
from synapse_like.federation.own_keys import old_file
from synapse_like.identity.settings import CONFIG_FILE, IDENTITY_SERVER, IdentityConfig
from synapse_like.storage import content, copying, migrations
from synapse_like.storage.connections import Connection
from synapse_like.storage.content_files import ContentFolder, Staged
from synapse_like.storage.copying import CopyFailed
from synapse_like.storage.engines.engine import DatabaseInUse, DatabaseUnavailable, Engine
from synapse_like.storage.engines.sqlite import SqliteEngine

MANIFEST, DATABASE = "manifest.json", "database.sqlite"
#: The settings files of the two kinds of servers, by which one tells whose backup it is, and their tables.
HOME, IDENTITY = "homeserver.yaml", CONFIG_FILE
_TABLES = {HOME: migrations.HOME_SERVER, IDENTITY: migrations.IDENTITY_SERVER}
FORMAT = 1
#: Settings for several processes, which SQLite does not have.
FOR_SEVERAL = ("processes", "database.shared")
_PIECE = 1024 * 1024

Tell = Callable[[str], object]


class Manifest(Struct):
    """What a backup says of itself.

    :ivar schema: of its database.
    :ivar files: sizes and SHA-256 by name.
    :ivar rows: how many there are, by table.
    :ivar missing: hashes of files that rows name and that the server did not have either.
    """

    server_name: str
    made_at: str
    schema: int
    version: str = __version__
    format: int = FORMAT
    files: dict[str, tuple[int, str]] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)

    @property
    def settings(self) -> str:
        """The name of the settings file in it, which tells what kind of server it is of."""
        return IDENTITY if IDENTITY in self.files else HOME


class _Target(Protocol):
    """Where a backup is written."""

    def add(self, name: str, source: BinaryIO, size: int) -> tuple[int, str]:
        """Write a file; its size and hash."""

    def take(self, name: str, path: Path) -> tuple[int, str]:
        """Put a file there that is not needed where it is; its size and hash."""


# Making one.


def backup(config: Config | IdentityConfig, settings: Path, target: Path, tell: Tell) -> str:
    """Make a backup; a sentence about it.

    :param settings: the settings file.
    :param target: a folder that is not there yet or, if it ends with .tar, such a file.
    :raises StartError: it cannot be made.
    """
    if target.exists():
        raise StartError(f"{target} is there already: a backup is never written over something")
    unfinished, copied = (target.with_name(f".{target.name}.{name}") for name in ("unfinished", "database"))
    try:
        _remove_database(copied)
        target.parent.mkdir(parents=True, exist_ok=True)
        with _opened(unfinished, is_tar=target.suffix == ".tar") as place:
            manifest = _fill(config, settings, place, copied, tell)
        unfinished.rename(target)
    except BlockingIOError as error:
        raise StartError("another backup of this server is being made") from error
    except (OSError, CopyFailed, DatabaseUnavailable) as error:
        raise StartError(f"the backup could not be made: {error}") from error
    finally:
        _remove(unfinished)
        _remove_database(copied)
    size = sum(size for size, _ in manifest.files.values())
    sentence = f"{target}: {len(manifest.files)} files, {size:,} bytes, {sum(manifest.rows.values())} rows."
    if manifest.missing:
        sentence += f" {len(manifest.missing)} files were missing or damaged before: see `media reconcile`."
    return sentence


def _fill(config: Config | IdentityConfig, settings: Path, place: _Target, copied: Path, tell: Tell) -> Manifest:
    manifest = Manifest(config.server_name, datetime.now(UTC).isoformat(timespec="seconds"), 0)

    def add(name: str, path: Path) -> str:
        with path.open("rb") as file:
            manifest.files[name] = place.add(name, file, os.fstat(file.fileno()).st_size)
        return manifest.files[name][1]

    for name, path in _small_files(config, settings).items():
        if path.exists():
            add(name, path)
    engine, package = _engine(config), _TABLES[manifest.settings]
    with ExitStack() as stack:
        staged = None
        if isinstance(config, Config):
            staged = stack.enter_context(ContentFolder(config.content_directory).staged())
            staged.add_all()
        contents = copying.snapshot(engine, copied, tell, package)
        manifest.rows = {table: there.rows for table, there in contents.items()}
        _look_into(copied, manifest, lambda connection: _add_content(connection, staged, manifest, add, tell))
    manifest.files[DATABASE] = place.take(DATABASE, copied)
    text = json.dumps(asdict(manifest), indent=1).encode()
    with tempfile.TemporaryFile() as file:
        file.write(text)
        file.seek(0)
        place.add(MANIFEST, file, len(text))
    return manifest


def _look_into(copied: Path, manifest: Manifest, look: Callable[[Connection], None]) -> None:
    connection = Connection(SqliteEngine(copied))
    try:
        manifest.schema = migrations.newest_applied(connection)
        look(connection)
        # One file again, with nothing beside it.
        connection.raw.execute("PRAGMA journal_mode = DELETE")
    finally:
        connection.close()


def _add_content(
    connection: Connection, staged: Staged | None, manifest: Manifest, add: Callable[[str, Path], str], tell: Tell
) -> None:
    """Add the files that the rows of a copy name.

    :param staged: None for a server that has none.
    """
    if staged is None:
        return
    staged.add_all()
    for shard in range(256):
        for sha256 in sorted(connection.transact(content.sizes_by_hash, f"{shard:02x}")):
            try:
                found = add(f"content/{sha256[:2]}/{sha256[2:]}", staged.path(sha256))
            except FileNotFoundError:
                found = None
            if found != sha256:
                manifest.missing.append(sha256)
    tell("copied the files of the content repository")


def _engine(config: Config | IdentityConfig) -> Engine:
    return identity.engine_of(config) if isinstance(config, IdentityConfig) else engine_of(config)


def _small_files(config: Config | IdentityConfig, settings: Path) -> dict[str, Path]:
    """The files beside database and content, by their names in a backup."""
    files = {
        IDENTITY if isinstance(config, IdentityConfig) else HOME: settings,
        "signing.key": config.signing_key_file,
        "signing.key.old": old_file(config.signing_key_file),
    }
    if isinstance(config, Config) and config.federation.enabled and config.federation.tls:
        files |= {"tls.crt": config.tls_certificate, "tls.key": config.tls_private_key}
    return files


@contextmanager
def _opened(path: Path, *, is_tar: bool) -> Iterator[_Target]:
    _remove(path)
    if not is_tar:
        path.mkdir(mode=0o700)
        yield _FolderTarget(path)
        return
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "wb") as file:
        with tarfile.open(fileobj=file, mode="w") as archive:
            yield _TarTarget(archive)
        file.flush()
        os.fsync(file.fileno())


class _FolderTarget:
    def __init__(self, root: Path) -> None:
        self._root = root

    def add(self, name: str, source: BinaryIO, size: int) -> tuple[int, str]:
        path = self._root / name
        _make_folder(path.parent)
        return _write(path, source)

    def take(self, name: str, path: Path) -> tuple[int, str]:
        path.rename(self._root / name)
        return (self._root / name).stat().st_size, _digest(self._root / name)


class _TarTarget:
    def __init__(self, archive: tarfile.TarFile) -> None:
        self._archive = archive

    def add(self, name: str, source: BinaryIO, size: int) -> tuple[int, str]:
        about = tarfile.TarInfo(name)
        about.size, about.mode, about.mtime = size, 0o600, int(datetime.now(UTC).timestamp())
        reading: Any = _Hashing(source)
        self._archive.addfile(about, reading)
        return size, reading.hexdigest()

    def take(self, name: str, path: Path) -> tuple[int, str]:
        with path.open("rb") as file:
            return self.add(name, file, os.fstat(file.fileno()).st_size)


class _Hashing:
    """Hashes what is read through it."""

    def __init__(self, source: BinaryIO) -> None:
        self._source = source
        self._hash = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data = self._source.read(size)
        self._hash.update(data)
        return data

    def hexdigest(self) -> str:
        return self._hash.hexdigest()


def _write(path: Path, source: BinaryIO) -> tuple[int, str]:
    """Write a new file that only its owner may read; its size and hash."""
    reading = _Hashing(source)
    size = 0
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        while data := reading.read(_PIECE):
            size += file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return size, reading.hexdigest()


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _remove_database(path: Path) -> None:
    """Remove a SQLite file, with what a killed process has left beside it."""
    for suffix in ("", "-wal", "-shm"):
        _remove(path.with_name(path.name + suffix))


# Restoring one.


def restore(source: Path, data_dir: Path, environ: Mapping[str, str], tell: Tell) -> str:
    """Restore a backup; a sentence about it.

    Everything goes where the settings in it say, the settings themselves into the data directory.

    :param source: the folder, or the tar file.
    :param data_dir: a folder that is empty, or not there yet.
    :param environ: environment variables, which win over the settings as usual.
    :raises StartError: the backup is damaged, or would be written over something.
    """
    if data_dir.exists() and any(data_dir.iterdir()):
        raise StartError(f"{data_dir} is not empty: a backup is never restored over something")
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".restoring-", dir=data_dir) as here:
            folder = source
            if not source.is_dir():
                folder = Path(here) / "backup"
                _unpack(source, folder)
            manifest = verified(folder)
            tell("the backup is whole")
            _put_back(folder, manifest, data_dir.absolute(), environ, tell)
    except ConfigError as error:
        raise StartError(f"the settings in the backup cannot be used:\n{error}") from error
    except (OSError, tarfile.TarError, CopyFailed, DatabaseInUse, DatabaseUnavailable) as error:
        raise StartError(f"the backup could not be restored: {error}") from error
    command = "identity run" if manifest.settings == IDENTITY else "run"
    return (
        f"Restored {manifest.server_name} as it was at {manifest.made_at}.\n"
        f"To start the server: synapse_like {command} --config {data_dir.absolute() / manifest.settings}"
    )


def verified(folder: Path) -> Manifest:
    """The manifest of a backup, once every file of it has been compared with it.

    :raises StartError: it is not a whole backup.
    """
    try:
        manifest = Manifest(**json.loads((folder / MANIFEST).read_bytes()))
        files = {name: (int(size), str(digest)) for name, (size, digest) in manifest.files.items()}
    except FileNotFoundError as error:
        raise StartError(f"{folder} is no backup, or one that was not finished: it has no {MANIFEST}") from error
    except (ValueError, TypeError) as error:
        raise StartError(f"the {MANIFEST} of the backup cannot be read: {error}") from error
    if manifest.format != FORMAT or manifest.schema > migrations.steps(_TABLES[manifest.settings])[-1].number:
        raise StartError(f"the backup was made by a newer version, {manifest.version}")
    for name, (size, digest) in files.items():
        path = folder / name
        if ".." in PurePosixPath(name).parts or path.is_symlink() or not path.is_file():
            raise StartError(f"the backup is not whole: {name} is missing")
        if path.stat().st_size != size or _digest(path) != digest:
            raise StartError(f"the backup is damaged: {name} is not what it was")
    return manifest


def _put_back(folder: Path, manifest: Manifest, data_dir: Path, environ: Mapping[str, str], tell: Tell) -> None:
    # Read where it is going to be: relative paths are meant from there.
    settings = data_dir / manifest.settings
    with (folder / manifest.settings).open("rb") as file:
        _write(settings, file)
    try:
        config: Config | IdentityConfig
        if manifest.settings == IDENTITY:
            config = IDENTITY_SERVER.load(settings, environ)
        else:
            # What SQLite is not for says so at the start: until then the operator has written other settings.
            is_sqlite = environ.get("SYNAPSE_LIKE_DATABASE_URL", "").startswith("sqlite")
            config = load(settings, environ, without=FOR_SEVERAL if is_sqlite else ())
        places, engine = _free_places(config, settings, manifest)
        _restore_database(folder / DATABASE, engine, manifest, tell)
    except BaseException:
        # So that another attempt finds an empty folder.
        settings.unlink()
        raise
    for name, path in places.items():
        _make_folder(path.parent)
        with (folder / name).open("rb") as file:
            _write(path, file)


def _free_places(config: Config | IdentityConfig, settings: Path, manifest: Manifest) -> tuple[dict[str, Path], Engine]:
    """Where each file of a backup goes but settings and database, and where that goes; nothing is there yet.

    :raises StartError: something is.
    """
    places = {name: path for name, path in _small_files(config, settings).items() if name in manifest.files}
    del places[manifest.settings]
    engine = _engine(config)
    wanted = [*places.values(), *([] if engine.path is None else [engine.path])]
    in_the_way = [str(path) for path in wanted if path.exists()]
    content_folder = config.content_directory if isinstance(config, Config) else None
    if content_folder is not None and content_folder.exists() and any(content_folder.iterdir()):
        in_the_way.append(str(content_folder))
    if in_the_way:
        raise StartError(f"a backup is never restored over something, and there is {', '.join(in_the_way)}")
    for name in manifest.files:
        if content_folder is not None and name.startswith("content/"):
            places[name] = content_folder / name.removeprefix("content/")
    return places, engine


def _make_folder(folder: Path) -> None:
    """Make a folder that only its owner may look into, and those above it."""
    if not folder.exists():
        _make_folder(folder.parent)
        folder.mkdir(mode=0o700)


def _restore_database(copied: Path, engine: Engine, manifest: Manifest, tell: Tell) -> None:
    if engine.path is not None:
        with copied.open("rb") as file:
            _write(engine.path, file)
        return
    with tempfile.TemporaryDirectory() as here:
        # Opening it writes beside it, and the backup may be on a disk that is only read.
        readable = Path(here) / DATABASE
        shutil.copyfile(copied, readable)
        source, target = Connection(SqliteEngine(readable)), Connection(engine, exclusive=True)
        try:
            migrations.migrate(target, _TABLES[manifest.settings], up_to=manifest.schema)
            contents = copying.copy(source, target, tell)
        finally:
            source.close()
            target.close()
    if {table: there.rows for table, there in contents.items()} != manifest.rows:
        raise CopyFailed("the database has other rows than the manifest says")


def _unpack(source: Path, folder: Path) -> None:
    """Unpack a tar file: plain files only, none of them outside of the folder."""
    with tarfile.open(source, "r:") as archive:
        archive.extractall(folder, filter="data")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
