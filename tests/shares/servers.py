"""Shares of a drop folder: real servers on loopback, and real clients of them."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from abc import ABC, abstractmethod
from pathlib import Path

import pytest
from integration.appliance import eventually

PAGE = Path(__file__).parents[2] / "docs" / "shares.md"
COPY = Path(__file__).with_name("nfs_copy.py")
PACKAGES = "samba smbclient nfs-ganesha nfs-ganesha-vfs libnfs-utils rpcbind"
# Accounts that each Debian has, and nobody uses.
ANNE, BERT = "games", "news"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


class Copy:
    """A client that writes what it is given, as it is given."""

    def __init__(self, client: subprocess.Popen[bytes], into: int) -> None:
        self._client = client
        self._into = into

    def write(self, part: bytes) -> None:
        rest = memoryview(part)
        try:
            while rest:
                rest = rest[os.write(self._into, rest) :]
        except BrokenPipeError:
            pytest.fail(f"the client ended: {self._client.communicate()[0].decode()}")

    def finish(self) -> str:
        """Close the file; what the client said."""
        os.close(self._into)
        said = self._client.communicate()[0].decode()
        assert self._client.returncode == 0, said
        return said

    def cut_off(self) -> None:
        """As when the cable is pulled."""
        self._client.kill()
        self._client.communicate()
        os.close(self._into)


class Share(ABC):
    """A folder that is shared by a server of its own.

    Args:
        folder: for what the server keeps; the drop folder is in it.
    """

    needs: tuple[str, ...]

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.drop = folder / "drop"
        self.port = free_port()
        self._server: subprocess.Popen[bytes] | None = None

    @classmethod
    def skip_where_it_cannot_be(cls) -> None:
        missing = [need for need in cls.needs if shutil.which(need) is None]
        if missing:
            pytest.skip(f"{', '.join(missing)} not found (Debian: {PACKAGES})")
        if os.getuid() != 0:
            pytest.skip("the servers need root, to be whoever logs in")

    def start(self) -> None:
        with (self.folder / "server.log").open("wb") as log:
            self._server = subprocess.Popen(self._serve(), stdout=log, stderr=log)
        eventually(self._answers, "the server to answer")

    def stop(self) -> None:
        if self._server is not None:
            self._server.kill()
            self._server.wait()

    @abstractmethod
    def copying(self, name: str, who: str = ANNE) -> Copy:
        """Begin to write a file."""

    @abstractmethod
    def names(self, folder: str = "") -> set[str]:
        """What a client sees."""

    @abstractmethod
    def read(self, name: str, who: str = ANNE) -> str:
        """A text file, as a client gets it; empty where there is none."""

    @abstractmethod
    def _serve(self) -> list[str]:
        """Write the configuration; the server's command."""

    @abstractmethod
    def _answers(self) -> bool: ...

    def copy(self, file: Path, name: str | None = None, who: str = ANNE) -> None:
        copy = self.copying(name or file.name, who)
        copy.write(file.read_bytes())
        copy.finish()


class Samba(Share):
    """By smbd with the share of docs/shares.md."""

    needs = ("smbd", "smbclient", "smbpasswd")
    # Lines of the share that are left out.
    without: tuple[str, ...] = ()

    def _serve(self) -> list[str]:
        state = self.folder / "samba"
        state.mkdir()
        own = "\n".join(
            f"{key} = {state}"
            for key in (
                *("private dir", "lock directory", "state directory", "cache directory"),
                *("pid directory", "ncalrpc dir"),
            )
        )
        self._config = self.folder / "smb.conf"
        self._config.write_text(
            f"[global]\nsmb ports = {self.port}\ninterfaces = lo\nbind interfaces only = yes\n"
            # A client then sends what it has read, and does not wait for megabytes.
            "smb2 max write = 65536\n"
            f"disable netbios = yes\nload printers = no\nprintcap name = /dev/null\n{own}\n"
            f"passdb backend = tdbsam:{state}/passdb.tdb\n\n{self._share()}"
        )
        for who in (ANNE, BERT):
            subprocess.run(
                ["smbpasswd", "-c", self._config, "-a", "-s", who],
                input=f"of-{who}\nof-{who}\n".encode(),
                check=True,
                capture_output=True,
            )
        return ["smbd", "--foreground", "--no-process-group", "--configfile", str(self._config)]

    def _share(self) -> str:
        """What the page says, with the names of here."""
        (text,) = re.findall(r"```ini\n(\[models\].*?)```", PAGE.read_text(), re.DOTALL)
        lines = [line for line in text.splitlines() if not line.strip().startswith(self.without)]
        return (
            "\n".join(lines)
            .replace("/var/lib/edged/drop", str(self.drop))
            .replace("@edged", f"{ANNE} {BERT}")
            .replace("= edged", "= root")
        )

    def _answers(self) -> bool:
        return self._client("ls").returncode == 0

    def _words(self, command: str, who: str) -> list[str]:
        return [
            *("smbclient", "//127.0.0.1/models", "--configfile", str(self._config)),
            *("--port", str(self.port), "--user", f"{who}%of-{who}", "--command", command),
        ]

    def _client(self, command: str, who: str = ANNE) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self._words(command, who), capture_output=True, text=True, check=False
        )

    def copying(self, name: str, who: str = ANNE) -> Copy:
        pipe = self.folder / f"pipe-{who}"
        pipe.unlink(missing_ok=True)
        os.mkfifo(pipe)
        client = subprocess.Popen(
            self._words(f'put "{pipe}" "{name}"', who),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        return Copy(client, os.open(pipe, os.O_WRONLY))

    def names(self, folder: str = "") -> set[str]:
        listing = self._client(f'ls "{folder}/*"').stdout
        return set(re.findall(r"^  (\S+) +[A-Z]* +\d+  ", listing, re.MULTILINE)) - {".", ".."}

    def read(self, name: str, who: str = ANNE) -> str:
        target = self.folder / "got"
        target.unlink(missing_ok=True)
        self._client(f'get "{name}" "{target}"', who)
        return target.read_text() if target.exists() else ""

    def do(self, command: str, who: str = ANNE) -> None:
        done = self._client(command, who)
        assert done.returncode == 0, done.stdout


class SambaOwnFiles(Samba):
    """Without ``force user``: each file belongs to whoever copied it, which hides its writer."""

    without = ("force user",)


class Nfs(Share):
    """By nfs-ganesha, NFS version 3, asked by libnfs: its version 4 cannot write in Debian 12.

    In a network of its own, and with a /run of its own, since the server insists on a portmapper.
    """

    needs = ("ganesha.nfsd", "rpcbind", "ip", "unshare", "nsenter", "nfs-ls", "nfs-cat")

    def _serve(self) -> list[str]:
        config = self.folder / "ganesha.conf"
        (export,) = re.findall(r"```\n(EXPORT \{.*?)```", PAGE.read_text(), re.DOTALL)
        config.write_text(
            "NFS_CORE_PARAM { NFS_Protocols = 3; NFS_Port = 2049; MNT_Port = 20048;"
            " Enable_NLM = false; Enable_RQUOTA = false; }\n"
            + export.replace("/var/lib/edged/drop", str(self.drop))
            .replace("Protocols = 3, 4", "Protocols = 3")
            .replace("Anonymous_Uid = 990", "Anonymous_Uid = 5")
        )
        script = (
            "ip link set lo up && mount -t tmpfs tmpfs /run && rpcbind -w &&"
            f" exec ganesha.nfsd -F -f {config} -L {self.folder}/ganesha.log -p /run/ganesha.pid"
        )
        return [
            *("unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"),
            *("sh", "-c", script),
        ]

    def _answers(self) -> bool:
        return self._run("nfs-ls").returncode == 0

    def _url(self, name: str = "") -> str:
        return f"nfs://127.0.0.1{self.drop}{name}?version=3&nfsport=2049&mountport=20048"

    def _inside(self) -> list[str]:
        assert self._server is not None
        children = Path(f"/proc/{self._server.pid}/task/{self._server.pid}/children").read_text()
        return ["nsenter", "--net", "--target", (children.split() or ["0"])[0]]

    def _run(self, command: str, name: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self._inside(), command, self._url(name)], capture_output=True, text=True, check=False
        )

    def copying(self, name: str, who: str = ANNE) -> Copy:
        here, there = os.pipe()
        client = subprocess.Popen(
            [*self._inside(), sys.executable, str(COPY), self._url(), name],
            stdin=here,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        os.close(here)
        return Copy(client, there)

    def names(self, folder: str = "") -> set[str]:
        listing = self._run("nfs-ls", f"/{folder}" if folder else "").stdout
        return {line.split()[-1] for line in listing.splitlines()}

    def read(self, name: str, who: str = ANNE) -> str:
        done = self._run("nfs-cat", f"/{name}")
        return done.stdout if done.returncode == 0 else ""
