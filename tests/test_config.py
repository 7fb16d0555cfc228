"""Settings: what is accepted, what is refused and how all of it is reported, and the file that is written."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from msgspec.structs import replace

from synapse_like.config import Config, ConfigError, load, parse, sample
from synapse_like.config.entrance import PASSWORD_STAGE, TOKEN_STAGE
from synapse_like.config.values import Section, Settings
from synapse_like.config.writing import help_of

PROVIDER = {
    "id": "example",
    "name": "Example",
    "issuer": "https://id.example.org",
    "client_id": "us",
    "client_secret": "client password",
}
PLAIN = {
    "issuer": None,
    "authorization_endpoint": "https://id.example.org/auth",
    "token_endpoint": "https://id.example.org/token",
    "userinfo_endpoint": "https://id.example.org/me",
}


def config(**settings: Any) -> Config:
    return parse({"server_name": "example.org", **settings}, source="test", folder=Path("/srv"), environ={})


def faults(settings: object, **environ: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(settings, source="home.yaml", folder=Path("/srv"), environ=environ)
    return list(caught.value.faults)


def all_sections(settings: Settings) -> Iterator[Settings]:
    yield settings
    for key in settings.__struct_fields__:
        value = getattr(settings, key)
        if isinstance(value, Settings):
            yield from all_sections(value)


def names_of(settings: Settings, prefix: str = "") -> Iterator[str]:
    for key in settings.__struct_fields__:
        value = getattr(settings, key)
        yield f"{prefix}{key}"
        if isinstance(value, Section):
            yield from names_of(value, f"{prefix}{key}.")


def keys_of(held: dict[str, Any], names: set[str], prefix: str = "") -> Iterator[str]:
    for key, value in held.items():
        yield f"{prefix}{key}"
        if isinstance(value, dict) and any(name.startswith(f"{prefix}{key}.") for name in names):
            yield from keys_of(value, names, f"{prefix}{key}.")


# Reading.


def test_server_name_alone_is_enough() -> None:
    assert config().client.port == 8008
    assert config().registration.mode == "closed"


def test_relative_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    path = tmp_path / "home.yaml"
    path.write_text("server_name: a.org\nsigning_key_file: keys/a.key\ndatabase: {url: 'sqlite:db/a.db'}\n")
    loaded = load(path, {})
    assert loaded.data_dir == tmp_path
    assert loaded.signing_key_file == tmp_path / "keys" / "a.key"
    assert loaded.database.url == f"sqlite:{tmp_path}/db/a.db"


def test_absolute_paths_stay_as_they_are() -> None:
    loaded = config(data_dir="/var/lib/home", database={"url": "sqlite:/db/a.db"})
    assert loaded.data_dir == Path("/var/lib/home")
    assert loaded.database.url == "sqlite:/db/a.db"


def test_provider_is_named_by_its_issuer_or_its_endpoints() -> None:
    """LOGIN-7."""
    plain = {**PROVIDER, **PLAIN, "id": "plain"}
    local = {**PROVIDER, "id": "local", "issuer": "http://localhost:3000"}
    flows = {"flows": [["m.login.oauth2"]]}
    made = config(oauth2={"providers": [PROVIDER, plain, local]}, login=flows, registration=flows)
    assert [provider.id for provider in made.oauth2.providers] == ["example", "plain", "local"]
    assert made.oauth2.providers[0].scopes == ("openid", "profile", "email")


def test_environment_wins_over_the_file() -> None:
    loaded = parse(
        {"server_name": "a.org", "database": {"url": "sqlite", "readers": 3}, "registration": {"mode": "token"}},
        source="test",
        folder=Path("/srv"),
        environ={
            "SYNAPSE_LIKE_DATABASE_URL": "postgresql://u:p@h/d",
            "SYNAPSE_LIKE_REGISTRATION_TOKENS": "one, two",
            "SYNAPSE_LIKE_TURN_SECRET": "north wind",
        },
    )
    assert loaded.database.url == "postgresql://u:p@h/d"
    assert loaded.database.readers == 3
    assert loaded.registration.tokens == ("one", "two")
    assert loaded.voip.shared_secret == "north wind"


def test_heading_with_everything_commented_out_means_defaults() -> None:
    assert config(client=None, rate_limits={"classes": None}) == config()


def test_rate_class_left_out_keeps_its_default() -> None:
    classes = config(rate_limits={"classes": {"login": {"per_second": 1, "burst": 2}}}).rate_limits.classes
    assert classes.login.burst == 2
    assert classes.send == config().rate_limits.classes.send


def test_single_address_needs_no_list() -> None:
    assert config(client={"bind": "::1"}).client.bind == ("::1",)


def test_url_and_networks_are_taken_as_they_are() -> None:
    client = config(client={"public_url": "https://a.org/m", "trusted_proxies": ["10.0.0.0/8", "fd00::/8"]}).client
    assert client.public_url == "https://a.org/m"
    assert client.trusted_proxies == ("10.0.0.0/8", "fd00::/8")


def test_federation_listens_where_clients_come_in_unless_it_is_told_otherwise() -> None:
    assert config().federation_bind == ("127.0.0.1",)
    assert config(client={"bind": ["0.0.0.0", "::"]}).federation_bind == ("0.0.0.0", "::")
    assert config(client={"bind": "127.0.0.1"}, federation={"bind": "0.0.0.0"}).federation_bind == ("0.0.0.0",)


def test_certificate_lies_in_the_data_directory_unless_it_is_named() -> None:
    assert config(data_dir="data").tls_certificate == Path("/srv/data/tls.crt")
    assert config(data_dir="data").tls_private_key == Path("/srv/data/tls.key")
    named = config(federation={"tls_certificate": "my.crt", "tls_private_key": "/keys/my.key", "ca_file": "ca.crt"})
    assert named.tls_certificate == Path("/srv/my.crt")
    assert named.tls_private_key == Path("/keys/my.key")
    assert named.federation.ca_file == Path("/srv/ca.crt")


def test_files_lie_in_the_data_directory_unless_another_is_named() -> None:
    assert config().content_directory == Path("/srv/content")
    assert config(content={"directory": "/large/files"}).content_directory == Path("/large/files")


def test_thumbnails_have_the_sizes_that_are_named_or_any() -> None:
    assert config(content={"thumbnail_sizes": ["32x32", "640x480"]}).content.made_sizes == [(32, 32), (640, 480)]
    assert config(content={"dynamic_thumbnails": True}).content.made_sizes == []


def test_names_of_servers_are_checked_and_in_lower_case() -> None:
    names = {"unverified_servers": ["Old.Example:8448"], "trusted_key_servers": ["[::1]"]}
    assert config(federation=names).federation.unverified_servers == ("old.example:8448",)
    [fault] = faults({"server_name": "a.org", "federation": {"trusted_key_servers": ["no name"]}})
    assert "federation.trusted_key_servers[0]" in fault


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(AttributeError, match="immutable"):
        config().client.port = 1  # type: ignore[misc]  # which is the point


def test_secrets_do_not_show_in_the_repr() -> None:
    shown = repr(
        config(
            database={"url": "postgresql://u:hunter2@h/d"},
            registration={"mode": "token", "tokens": ["hunter2"]},
            oauth2={"providers": [{**PROVIDER, "client_secret": "hunter2"}]},
        )
    )
    assert "hunter2" not in shown


# Faults.


def test_older_names_of_settings_go_on_working() -> None:
    assert config(limits={"max_upload_bytes": 5}).content.max_upload_size == 5
    both = faults({"server_name": "a", "limits": {"max_upload_bytes": 5}, "content": {"max_upload_size": 6}})
    assert any("limits.max_upload_bytes" in fault for fault in both), "it is not clear which one is meant"


def test_all_faults_are_reported_at_once() -> None:
    found = faults(
        {
            "server_name": "no such name",
            "database": {"url": "mysql://h/d", "durability": "some"},
            "client": {"port": 70000, "bind": ["127.0.0.1", "localhost"]},
            "login": {"session_lifetime": 0},
            "log": {"level": "loud"},
            "limits": 3,
        }
    )
    assert {fault.split(": ")[1] for fault in found} == {
        "server_name",
        "database.url",
        "database.durability",
        "client.port",
        "client.bind[1]",
        "login.session_lifetime",
        "log.level",
        "limits",
    }
    assert all(fault.startswith("home.yaml: ") for fault in found)


def test_text_of_the_error_has_a_line_for_each_fault() -> None:
    error = ConfigError(["home.yaml: a: is wrong", "home.yaml: b: is wrong"])
    assert str(error).splitlines() == list(error.faults)


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"serve_name": "a.org"}, "serve_name: is not a setting; did you mean server_name?"),
        ({"client": {"prot": 1}}, "client.prot: is not a setting; did you mean port?"),
        ({"rate_limits": {"classes": {"log": {}}}}, "rate_limits.classes.log: is not a setting; did you mean login?"),
        ({"oauth2": {"providers": [{"nam": 1}]}}, "oauth2.providers[0].nam: is not a setting; did you mean name?"),
        ({"client": {"xyzzy": 1}}, "client.xyzzy: is not a setting"),
    ],
)
def test_unknown_key_suggests_the_near_match(settings: dict[str, Any], fault: str) -> None:
    assert f"home.yaml: {fault}" in faults(settings)


def test_missing_server_name_is_a_fault() -> None:
    assert faults({}) == ["home.yaml: server_name: is required"]


@pytest.mark.parametrize("port", ["8008", True, 1.5, None, 0])
def test_values_are_not_bent_into_the_right_type(port: object) -> None:
    assert len(faults({"server_name": "a.org", "client": {"port": port}})) == 1


@pytest.mark.parametrize("settings", [None, [], "text", 3])
def test_file_that_holds_no_mapping_is_a_fault(settings: object) -> None:
    assert faults(settings) == ["home.yaml: must be a mapping, `key: value`"]


def test_fault_in_the_environment_names_the_variable_and_not_its_value() -> None:
    found = faults({"server_name": "a.org"}, SYNAPSE_LIKE_DATABASE_URL="hunter2")
    assert len(found) == 1
    assert found[0].startswith("environment: SYNAPSE_LIKE_DATABASE_URL: must be sqlite")
    assert "hunter2" not in found[0]


@pytest.mark.parametrize(
    ("section", "settings", "key"),
    [
        ("database", {"url": "sqlite:"}, "database.url"),
        ("client", {"public_url": "matrix.example.org"}, "client.public_url"),
        ("client", {"public_url": "ftp://example.org"}, "client.public_url"),
        ("client", {"bind": []}, "client.bind"),
        ("client", {"bind": 3}, "client.bind"),
        ("client", {"trusted_proxies": ["10.0.0.1/8"]}, "client.trusted_proxies[0]"),
        ("registration", {"flows": []}, "registration.flows"),
        ("registration", {"flows": [[]]}, "registration.flows[0]"),
        ("registration", {"flows": [["m.login.magic"]]}, "registration.flows[0][0]"),
        ("registration", {"flows": [[PASSWORD_STAGE, PASSWORD_STAGE]]}, "registration.flows[0]"),
        ("registration", {"mode": "token"}, "registration.tokens"),
        ("registration", {"mode": "token", "tokens": []}, "registration.tokens"),
        ("registration", {"mode": "token", "tokens": [""]}, "registration.tokens"),
        ("registration", {"flows": [[TOKEN_STAGE, PASSWORD_STAGE]]}, "registration.tokens"),
        ("login", {"flows": [[TOKEN_STAGE, PASSWORD_STAGE]]}, "login.flows"),
        ("registration", {"flows": [[PASSWORD_STAGE], [PASSWORD_STAGE, "m.login.email.code"]]}, "registration.flows"),
        ("login", {"flows": [["m.login.email.code"]]}, "mail"),
        ("registration", {"flows": [["m.login.email.url", PASSWORD_STAGE]]}, "mail"),
        ("login", {"flows": [["m.login.email.identity"]]}, "identity_servers"),
        ("registration", {"flows": [["m.login.email.identity"]]}, "registration.flows[0]"),
        ("mail", {"sender": "nobody"}, "mail.sender"),
        ("mail", {"username": "matrix"}, "mail.password"),
        ("mail", {"security": "perhaps"}, "mail.security"),
        ("identity_servers", {"trusted": ["id.example.org"]}, "identity_servers.trusted[0]"),
        ("login", {"flows": [["m.login.oauth2"]]}, "oauth2"),
        ("registration", {"flows": [["m.login.oauth2"]]}, "oauth2"),
        ("oauth2", {"providers": [{**PROVIDER, "id": "Example"}]}, "oauth2.providers[0].id"),
        ("oauth2", {"providers": [{**PROVIDER, "issuer": "http://id.example.org"}]}, "oauth2.providers[0].issuer"),
        ("oauth2", {"providers": [{**PROVIDER, "issuer": None}]}, "oauth2.providers[0]"),
        ("oauth2", {"providers": [{**PROVIDER, "token_endpoint": "https://a.org"}]}, "oauth2.providers[0]"),
        ("oauth2", {"providers": [{**PROVIDER, "authorization_endpoint": "https://a.org"}]}, "oauth2.providers[0]"),
        ("oauth2", {"providers": [{**PROVIDER, **PLAIN, "userinfo_endpoint": None}]}, "oauth2.providers[0]"),
        ("oauth2", {"providers": [{**PROVIDER, "scopes": []}]}, "oauth2.providers[0].scopes"),
        ("oauth2", {"providers": [PROVIDER, PROVIDER]}, "oauth2.providers"),
        ("rate_limits", {"classes": {"send": {"per_second": 0, "burst": 1}}}, "rate_limits.classes.send.per_second"),
        ("rate_limits", {"classes": {"send": {"per_second": 1}}}, "rate_limits.classes.send.burst"),
        ("presence", {"auto_accept": "friends"}, "presence.auto_accept"),
        ("voip", {"turn_uris": ["turn:turn.example.org"]}, "voip.shared_secret"),
        ("voip", {"turn_uris": ["turn:turn.example.org"], "shared_secret": ""}, "voip.shared_secret"),
        ("voip", {"turn_uris": ["https://turn.example.org"], "shared_secret": "s"}, "voip.turn_uris[0]"),
        ("voip", {"lifetime": 0}, "voip.lifetime"),
        ("content", {"max_remote_size": 100, "remote_cache_size": 99}, "content.remote_cache_size"),
        ("content", {"thumbnail_sizes": []}, "content.thumbnail_sizes"),
        ("content", {"thumbnail_sizes": ["32x32", "big"]}, "content.thumbnail_sizes[1]"),
        ("content", {"thumbnail_sizes": ["0x32"]}, "content.thumbnail_sizes[0]"),
        ("content", {"user_quota": -1}, "content.user_quota"),
        ("password_hashing", {"memory_kib": 1}, "password_hashing.memory_kib"),
    ],
)
def test_impossible_setting_is_refused(section: str, settings: dict[str, Any], key: str) -> None:
    found = faults({"server_name": "a.org", section: settings})
    assert [fault.split(": ")[1] for fault in found] == [key]


def test_yaml_error_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "home.yaml"
    path.write_text("server_name: a.org\nclient: [\n")
    with pytest.raises(ConfigError, match=re.escape(f"{path}: line 3: ")):
        load(path, {})


def test_key_that_stands_twice_is_a_fault(tmp_path: Path) -> None:
    path = tmp_path / "home.yaml"
    path.write_text("server_name: a.org\nclient:\n  port: 1\n  port: 2\n")
    with pytest.raises(ConfigError, match="line 4: the key port stands twice"):
        load(path, {})


@pytest.mark.parametrize("text", ["[a, b]: 1", "a: \0", "a: !!python/object:os.system x", "%", "- a\nb: c"])
def test_text_that_is_not_plain_yaml_is_a_fault(tmp_path: Path, text: str) -> None:
    path = tmp_path / "home.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(path, {})
    assert len(caught.value.faults) == 1
    assert "\n" not in str(caught.value)


def test_missing_file_is_a_fault(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        load(tmp_path / "none.yaml", {})


def test_file_that_is_not_utf8_is_a_fault(tmp_path: Path) -> None:
    path = tmp_path / "home.yaml"
    path.write_bytes(b"server_name: \xff")
    with pytest.raises(ConfigError, match="is not UTF-8"):
        load(path, {})


# Flows (LOGIN-1, LOGIN-8, LOGIN-11).


def test_closed_registration_offers_no_flow() -> None:
    assert config(registration={"mode": "closed"}).registration.offered_flows() == ()


def test_open_registration_offers_the_flows_as_they_are() -> None:
    assert config(registration={"mode": "open"}).registration.offered_flows() == ((PASSWORD_STAGE,),)


@pytest.mark.parametrize("flow", [[PASSWORD_STAGE], [PASSWORD_STAGE, TOKEN_STAGE], [TOKEN_STAGE, PASSWORD_STAGE]])
def test_registration_by_token_asks_for_it_first_and_once(flow: list[str]) -> None:
    registration = config(registration={"mode": "token", "tokens": ["t"], "flows": [flow]}).registration
    assert registration.offered_flows() == ((TOKEN_STAGE, PASSWORD_STAGE),)


# Writing.


def test_sample_reads_back_as_the_same_settings(tmp_path: Path) -> None:
    given = {
        "server_name": "example.org",
        "client": {"port": 9000, "bind": ["127.0.0.1", "::1"]},
        "registration": {"mode": "token", "tokens": ["a: b", "'#"]},
        "oauth2": {"providers": [PROVIDER]},
        "log": {"format": "json"},
    }
    written = config(**given)
    path = tmp_path / "home.yaml"
    path.write_text(sample(written, given))
    assert load(path, {}) == replace(written, data_dir=tmp_path, signing_key_file=tmp_path / "signing.key")


def test_sample_shows_every_default_commented_out(tmp_path: Path) -> None:
    path = tmp_path / "home.yaml"
    path.write_text(sample(config(), {"server_name": "example.org"}))
    defaults = load(path, {})
    shown = re.sub(r"^( *)#(?=[a-z_]+: )", r"\1", path.read_text(), flags=re.MULTILINE)
    path.write_text(shown)
    assert load(path, {}) == defaults
    names = set(names_of(defaults))
    assert set(keys_of(yaml.safe_load(shown), names)) == names


def test_sample_explains_every_setting() -> None:
    for section in all_sections(config()):
        for key in section.__struct_fields__:
            value = getattr(section, key)
            text = type(value).__doc__ if isinstance(value, Section) else help_of(type(section)).get(key)
            assert text, f"{type(section).__name__}.{key} has no help"


def test_sample_sets_only_what_was_set() -> None:
    shown = sample(config(client={"port": 9000}), {"client": {"port": 9000}})
    assert yaml.safe_load(shown)["client"] == {"port": 9000}


def test_several_processes_share_a_postgresql() -> None:
    database = {"url": "postgresql://localhost/matrix"}
    assert not config().shares_database
    assert not config(database=database).shares_database
    assert config(database=database, processes=4).shares_database
    assert config(database={**database, "shared": True}).shares_database


@pytest.mark.parametrize("url", ["sqlite", "sqlite:other.db"])
def test_sqlite_is_for_one_process_and_the_reason_is_told(url: str) -> None:
    reason = (
        "SQLite has one writer. For several processes give a PostgreSQL as database.url;"
        " `synapse_like copy-database` brings there what is in SQLite"
    )
    settings = {"server_name": "example.org", "database": {"url": url}, "processes": 2}
    assert faults(settings) == [f"home.yaml: processes: must be 1: {reason}"]
    settings = {"server_name": "example.org", "database": {"url": url, "shared": True}}
    assert faults(settings) == [f"home.yaml: database.shared: must be false: {reason}"]
