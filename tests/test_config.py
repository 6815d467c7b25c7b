"""The configuration file: what is read, what is refused, and that its reference is true."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from edged.config import (
    Address,
    LogLevel,
    Protocol,
    Sandbox,
    default_file,
    load_config,
    reference,
    reloaded,
    settings,
)
from edged.errors import ConfigError

ENVIRONMENT = {"HOME": "/home/ada", "XDG_RUNTIME_DIR": "/run/user/1000"}


@pytest.fixture
def written(tmp_path: Path):
    def write(text: str | bytes) -> Path:
        path = tmp_path / "edged.toml"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    return write


def test_defaults_suit_a_normal_user():
    config = load_config(None, ENVIRONMENT)
    assert str(config.serving.listen) == "127.0.0.1:50051"
    assert config.state.directory == Path("/home/ada/.local/state/edged")
    assert config.drop.directory == Path("/home/ada/.local/state/edged/drop")
    assert config.serving.socket == Path("/run/user/1000/edged/edged.sock")
    assert config.device.socket == Path("/run/user/1000/edged/device.sock")


def test_defaults_follow_systemd():
    config = load_config(
        None,
        ENVIRONMENT | {"STATE_DIRECTORY": "/var/lib/edged", "RUNTIME_DIRECTORY": "/run/edged"},
    )
    assert config.state.directory == Path("/var/lib/edged")
    assert config.drop.directory == Path("/var/lib/edged/drop")
    assert config.serving.socket == Path("/run/edged/edged.sock")


def test_relative_xdg_variables_are_ignored():
    config = load_config(
        None, {"HOME": "/home/ada", "XDG_STATE_HOME": "state", "XDG_RUNTIME_DIR": "run"}
    )
    assert config.state.directory == Path("/home/ada/.local/state/edged")
    assert config.serving.socket == Path("/home/ada/.local/state/edged/run/edged.sock")


def test_every_kind_of_value_is_read(written):
    config = load_config(
        written(
            """
            [serving]
            listen = "[::1]:0"
            max_message_bytes = 1_048_576
            [container]
            sandbox = "landlock"
            [drop]
            settle_seconds = 2
            [log]
            level = "debug"
            """
        )
    )
    assert config.serving.listen == Address("::1", 0)
    assert str(config.serving.listen) == "[::1]:0"
    assert config.serving.max_message_bytes == 1 << 20
    assert config.container.sandbox is Sandbox.LANDLOCK
    assert config.drop.settle_seconds == 2.0
    assert config.log.level is LogLevel.DEBUG


def test_paths_start_at_state_home_or_the_file(written, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada")
    config = load_config(
        written(
            """
            [state]
            directory = "kept"
            [drop]
            directory = "~/models"
            [serving]
            socket = "{state}/s"
            [device]
            socket = "/dev/socket"
            """
        ),
        {},
    )
    assert config.state.directory == tmp_path / "kept"
    assert config.drop.directory == Path("/home/ada/models")
    assert config.serving.socket == tmp_path / "kept" / "s"
    assert config.device.socket == Path("/dev/socket")


def test_the_other_defaults_follow_a_moved_state(written):
    config = load_config(written('[state]\ndirectory = "/srv/edged"'), {"HOME": "/home/ada"})
    assert config.drop.directory == Path("/srv/edged/drop")
    assert config.serving.socket == Path("/srv/edged/run/edged.sock")


def test_files_that_systemd_loads_are_in_the_folder_of_credentials(written):
    text = """
        [listeners.cameras]
        listen = "0.0.0.0:8500"
        certificate = "{credentials}/tls.crt"
        key = "{credentials}/tls.key"
        """
    config = load_config(written(text), {"CREDENTIALS_DIRECTORY": "/run/credentials/x.service"})
    assert config.listeners["cameras"].key == Path("/run/credentials/x.service/tls.key")
    # As whoever checks it from outside of the unit.
    config = load_config(written(text), {"HOME": "/home/ada"})
    assert config.listeners["cameras"].key == Path("/run/credentials/edged.service/tls.key")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[serving]\nlistne = 'a:1'", "no key serving.listne (did you mean listen?)"),
        ("[serving]\nxyz = 1", "no key serving.xyz; there are listen, socket,"),
        ("[severing]", "no table 'severing' (did you mean serving?)"),
        ("listen = 'a:1'", "no key 'listen'; it belongs in [serving]"),
        ("serving = 3", "serving is 3, wanted a table, [serving]"),
        ("[serving]\nlisten = 50051", 'serving.listen is 50051, wanted a "HOST:PORT" text'),
        ("[serving]\nlisten = '::1:5'", "serving.listen is '::1:5', wanted"),
        ("[serving]\nlisten = 'a:65536'", "serving.listen is 'a:65536', wanted"),
        ("[serving]\nlisten = ':1'", "serving.listen is ':1', wanted"),
        ("[slot]\nattempts = true", "slot.attempts is a boolean, wanted a whole number"),
        ("[slot]\nattempts = 1.5", "slot.attempts is 1.5, wanted a whole number, at least 1"),
        ("[slot]\nattempts = 0", "slot.attempts is 0, wanted a whole number, at least 1"),
        ("[drop]\nsettle_seconds = inf", "drop.settle_seconds is inf, wanted a number"),
        ("[drop]\ndirectory = ['x']", "drop.directory is a list, wanted a path"),
        ("[drop]\ndirectory = ''", "drop.directory is '', wanted a path"),
        ('[drop]\ndirectory = "a\\u0000b"', "drop.directory is 'a\\x00b', wanted a path"),
        ("[drop]\ndirectory = '~nobody-here/x'", "drop.directory is '~nobody-here/x'"),
        ("[container]\nsandbox = 'bubblewarp'", '"landlock" (did you mean bubblewrap?)'),
        ("[log]\nlevel = '" + "x" * 200 + "'", "log.level is a value of 200 characters"),
        ("[device]\nsocket = '/" + "x" * 107 + "'", "108 bytes long; the path of a socket"),
        ("[serving", "no valid TOML"),
        (b"\xff", "no valid TOML"),
        ("a = " + "[" * 5000, "no valid TOML"),
        ("#" * ((1 << 20) + 1), "larger than 1048576 bytes"),
    ],
)
def test_what_cannot_be_used_is_named(written, text, says):
    path = written(text)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert str(caught.value).startswith("cannot ")
    assert str(path) in str(caught.value)
    assert says in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"missing\.toml: No such file.*--print-config"):
        load_config(tmp_path / "missing.toml")


def test_default_file_says_what_the_defaults_are(written):
    text = default_file()
    assert load_config(written(text), ENVIRONMENT) == load_config(None, ENVIRONMENT)
    stated = re.sub(r"(?m)^# (?=[a-z_]+ = )", "", text)
    assert tomllib.loads(stated) != tomllib.loads(text)
    assert load_config(written(stated), ENVIRONMENT) == load_config(None, ENVIRONMENT)


def test_reference_is_current():
    document = Path(__file__).parents[1] / "docs" / "configuration.md"
    assert document.read_text() == reference(), "run `make docs`"


@pytest.fixture
def layered(written, tmp_path: Path):
    path = written('[slot]\nattempts = 2\nfailures = 7\n[drop]\ndirectory = "in"\n')
    folder = tmp_path / "edged.toml.d"
    folder.mkdir()
    (folder / "20-site.toml").write_text("[slot]\nattempts = 4\n[serving]\nsocket = 's.sock'\n")
    (folder / "10-vendor.toml").write_text("[slot]\nattempts = 3\nresidence_seconds = 1\n")
    (folder / "30-old.toml.dpkg-old").write_text("no TOML")
    (folder / ".hidden.toml").write_text("no TOML")
    return path


def test_for_each_key_the_last_file_counts(layered, tmp_path):
    config = load_config(layered, ENVIRONMENT)
    assert (config.slot.attempts, config.slot.failures) == (4, 7)
    assert config.slot.residence_seconds == 1.0
    # A relative path starts where it is written.
    assert config.drop.directory == tmp_path / "in"
    assert config.serving.socket == tmp_path / "edged.toml.d" / "s.sock"


def test_settings_say_which_file_they_come_from(layered, tmp_path):
    found = {f"{s.table}.{s.key}": s for s in settings(layered, ENVIRONMENT)}
    folder = tmp_path / "edged.toml.d"
    assert found["slot.attempts"].file == folder / "20-site.toml"
    assert found["slot.residence_seconds"].file == folder / "10-vendor.toml"
    assert found["slot.failures"].file == layered
    assert found["slot.drain_seconds"].file is None
    assert str(found["slot.attempts"]) == "slot.attempts = 4"


def test_an_error_names_the_file_of_the_folder(layered, tmp_path):
    wrong = tmp_path / "edged.toml.d" / "40-wrong.toml"
    wrong.write_text("[slot]\nattemps = 3\n")
    with pytest.raises(ConfigError, match=r"40-wrong\.toml: .*did you mean attempts"):
        load_config(layered, ENVIRONMENT)


def test_a_folder_that_cannot_be_read_is_an_error(written, tmp_path):
    path = written("")
    (tmp_path / "edged.toml.d").write_text("a file")
    with pytest.raises(ConfigError, match=r"edged\.toml\.d: Not a directory"):
        load_config(path, ENVIRONMENT)


LISTENERS = """
[listeners.lan]
listen = "0.0.0.0:50052"
certificate = "lan.crt"
key = "lan.key"
tokens = true
[listeners.cameras]
protocol = "http"
socket = "{runtime}/cameras.sock"
mode = "0666"
"""


def test_listeners_have_names_and_each_key_its_layer(written, tmp_path):
    path = written(LISTENERS)
    (tmp_path / "edged.toml.d").mkdir()
    (tmp_path / "edged.toml.d" / "a.toml").write_text("[listeners.lan]\nclient_ca = 'ca.crt'\n")
    config = load_config(path, ENVIRONMENT)
    lan, cameras = config.listeners["lan"], config.listeners["cameras"]
    assert (lan.listen, lan.socket, lan.tokens) == (Address("0.0.0.0", 50052), None, True)
    assert lan.certificate == tmp_path / "lan.crt"
    assert lan.client_ca == tmp_path / "edged.toml.d" / "ca.crt"
    assert cameras.protocol is Protocol.HTTP
    assert cameras.socket == Path("/run/user/1000/edged/cameras.sock")
    assert cameras.mode.bits == 0o666
    found = {str(setting) for setting in settings(path, ENVIRONMENT) if setting.file}
    assert 'listeners.lan.listen = "0.0.0.0:50052"' in found
    assert "listeners.lan.tokens = true" in found


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[listeners]\nlisten = 'a:1'", "listeners.listen is 'a:1'; it belongs in a table with a"),
        ("[listeners.lan]", "listeners.lan is an empty table, wanted a table with keys"),
        ("[listeners.'a b']\nlisten = 'a:1'", "'a b' is no name for [listeners.NAME]; wanted up"),
        ("[listeners.lan]\nport = 1", "there is no key listeners.lan.port"),
        ("[listeners.lan]\ncertifcate = 'x'", "listeners.lan.certifcate (did you mean certif"),
        ("[listeners.lan]\nprotocol = 'gprc'", "(did you mean grpc?)"),
        ("[listeners.lan]\ntokens = 1", "listeners.lan.tokens is 1, wanted a boolean"),
        ("[listeners.lan]\nlisten = 'a:1'\nclients = 'x'", "is 'x', wanted a list of texts"),
        ("[listeners.lan]\nmode = '0600'", "[listeners.lan] has no address: wanted either listen"),
        (
            "[listeners.lan]\nlisten = 'a:1'\nsocket = 's'",
            "[listeners.lan] has listen, socket: wanted either",
        ),
        (
            "[listeners.lan]\nlisten = 'a:1'\nkey = 'x'",
            "[listeners.lan] has key, listen: certificate and key belong together",
        ),
        (
            "[listeners.lan]\nlisten = 'a:1'\nclient_ca = 'x'",
            "client_ca needs a certificate and a key of the server",
        ),
        (
            "[listeners.lan]\nlisten = 'a:1'\nclients = ['x']",
            "clients are known by certificates; wanted client_ca",
        ),
    ],
)
def test_what_does_not_go_together_in_a_listener_is_named(written, text, says):
    path = written(text)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert str(path) in str(caught.value)
    assert says in str(caught.value)


def test_a_reload_changes_who_may_call_but_not_where(written):
    old = load_config(written(LISTENERS), ENVIRONMENT)
    changed = LISTENERS.replace("tokens = true", "").replace("0666", "0600")
    found = reloaded(
        old, load_config(written(changed + "[listeners.x]\nlisten = 'a:1'"), ENVIRONMENT)
    )
    assert [*map(str, found.changed)] == ["listeners.lan.tokens = false"]
    assert {*map(str, found.waiting)} == {
        'listeners.cameras.mode = "0600"',
        'listeners.x = "new"',
    }
    assert found.config.listeners["lan"].tokens is False
    gone = reloaded(old, load_config(written(""), ENVIRONMENT))
    assert {*map(str, gone.waiting)} == {'listeners.lan = "gone"', 'listeners.cameras = "gone"'}
    assert gone.config == old


def test_a_key_that_moved_says_where_to(written):
    with pytest.raises(ConfigError, match=r"slot\.max_held_calls is now serving\.max_queued_calls"):
        load_config(written("[slot]\nmax_held_calls = 5\n"))
