"""A process that is killed between a file and its row leaves neither an orphan nor a hole (MEDIA-1)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from synapse_like.app.content import BlockingMeans, media_reconcile, media_status
from synapse_like.config import Config, load
from synapse_like.handlers.content_store import ContentStore
from synapse_like.storage import content
from synapse_like.storage.connections import Connection
from synapse_like.storage.content_files import ContentFolder
from synapse_like.storage.engines.opening import open_engine
from tests.support import crashing
from tests.support.crashing import CONTENT_ID, DATA, SERVER, STEPS, finished
from tests.support.server import ROOT

MOMENTS = [f"{when}:{step}" for step in STEPS for when in ("before", "after")]


@pytest.fixture(autouse=True)
def _where_it_matters(request: pytest.FixtureRequest, database_kind: str) -> None:
    """Of the moments, only those around the row have to do with the kind of database."""
    moment = request.node.callspec.params.get("moment", "row")
    if database_kind == "postgresql" and not moment.endswith("row"):
        pytest.skip("what happens to the file has nothing to do with the database")


@pytest.fixture
def config_file(tmp_path: Path, database_url: str) -> Path:
    path = tmp_path / "homeserver.yaml"
    path.write_text(yaml.safe_dump({"server_name": "here.example", "database": {"url": database_url}}))
    return path


@pytest.fixture
def config(config_file: Path) -> Config:
    return load(config_file, {})


def run(config_file: Path, action: str, moment: str) -> int:
    return subprocess.run(
        [sys.executable, "-m", "tests.support.crashing", config_file, action, moment], cwd=ROOT, timeout=60, check=False
    ).returncode


def files_on_disk(config: Config) -> int:
    folder = ContentFolder(config.content_directory)
    return sum(len(folder.sizes(f"{number:02x}")) for number in range(256))


def is_recorded(config: Config) -> bool:
    connection = Connection(open_engine(config.database.url, data_dir=config.data_dir, durability="full"))
    try:
        return connection.transact(content.find, SERVER, CONTENT_ID) is not None
    finally:
        connection.close()


def tidy_and_compare(config: Config) -> str:
    report, is_wrong = media_reconcile(config, repair=False)
    assert not is_wrong, report
    status = media_status(config)
    assert status.splitlines()[-2:] == [f"{'being written':<32}{0:>10}", f"{'in doubt':<32}{0:>10}"]
    return report


@pytest.mark.parametrize("moment", MOMENTS)
def test_kill_amid_keeping(config_file: Path, config: Config, moment: str) -> None:
    """MEDIA-1: the file and its row are there, or neither is."""
    assert run(config_file, "keep", moment) == -9
    assert tidy_and_compare(config) == "Files and tables agree."
    assert files_on_disk(config) == int(is_recorded(config))
    assert is_recorded(config) == (
        moment in ("after:row", "before:unlink", "after:unlink", "before:release", "after:release")
    )
    # What was in the way is not any more.
    crashing.main(str(config_file), "keep")
    assert files_on_disk(config) == 1
    assert is_recorded(config)


@pytest.mark.parametrize(
    "moment", [moment for moment in MOMENTS if moment.partition(":")[2] not in ("write", "finish", "put")]
)
def test_kill_amid_removing(config_file: Path, config: Config, moment: str) -> None:
    """MEDIA-1: the file and its row are there, or neither is."""
    crashing.main(str(config_file), "keep")
    assert run(config_file, "remove", moment) == -9
    assert tidy_and_compare(config) == "Files and tables agree."
    assert files_on_disk(config) == int(is_recorded(config))
    assert is_recorded(config) == (moment in ("before:hold", "after:hold", "before:row"))


def test_orphans_and_holes_are_found_and_mended(config_file: Path, config: Config) -> None:
    """MEDIA-1: also those that no crash of ours has made."""
    crashing.main(str(config_file), "keep")
    folder = config.content_directory
    (kept,) = [path for path in folder.rglob("*") if path.is_file()]
    assert kept.read_bytes() == DATA
    stray = folder / "ab" / ("c" * 62)
    stray.parent.mkdir(exist_ok=True)
    stray.write_bytes(b"nobody's")
    kept.write_bytes(b"damaged")
    report, is_wrong = media_reconcile(config, repair=False)
    assert is_wrong
    assert report.splitlines() == [
        f"no row for the file {'ab' + 'c' * 62}",
        f"no file, or a damaged one, for {kept.parent.name}{kept.name}",
    ]
    assert stray.exists()
    assert media_reconcile(config, repair=True) == ("Files and tables agree.", False)
    assert (files_on_disk(config), is_recorded(config)) == (0, False)


def test_marks_stay_while_the_database_does_not_answer(config_file: Path, config: Config) -> None:
    """MEDIA-1: who cannot ask whether a file is needed leaves it, and its mark."""
    crashing.main(str(config_file), "keep")

    class Broken(BlockingMeans):
        async def read(self, name: str, function: object, *args: object, **kwargs: object) -> object:
            if name == "content-unnamed":
                raise ConnectionError("the database is away")
            return await super().read(name, function, *args, **kwargs)

    connection = Connection(open_engine(config.database.url, data_dir=config.data_dir, durability="full"))
    folder = ContentFolder(config.content_directory)
    found = connection.transact(content.find, SERVER, CONTENT_ID)
    assert found is not None
    finished(ContentStore(Broken(connection), folder).remove(found))
    connection.close()
    assert folder.marks() == [found.sha256]
    assert files_on_disk(config) == 1
    tidy_and_compare(config)
    assert files_on_disk(config) == 0
