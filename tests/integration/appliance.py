"""A whole appliance: emulator, daemon, drop folder, and a client, all of them real."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import grpc
import numpy as np
from patience import PATIENCE, eventually

from edged import wire

__all__ = ["DATA", "Appliance", "eventually", "keywords", "pack"]

DATA = Path(__file__).parent.parent / "data"


class Appliance:
    """Emulator and daemon as processes over one temporary folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.drop = folder / "drop"
        self.device = folder / "device.sock"
        self.socket = folder / "edged.sock"
        self.control = folder / "control.sock"
        self.log = folder / "log"
        self.config = folder / "edged.toml"
        self.config.write_text(
            '[metrics]\nlisten = "127.0.0.1:0"\n'
            f'[serving]\nlisten = "127.0.0.1:0"\nhttp_listen = "127.0.0.1:0"\n'
            f'socket = "{self.socket}"\n'
            f'[state]\ndirectory = "{folder}/state"\n'
            f'[drop]\ndirectory = "{self.drop}"\nrescan_seconds = 0.2\nsettle_seconds = 0.1\n'
            f'[device]\nsocket = "{self.device}"\n'
            f'[console]\nsocket = "{self.control}"\nmode = "0600"\n'
        )
        self.emulator: subprocess.Popen[bytes] | None = None
        self.daemon: subprocess.Popen[bytes] | None = None
        self.channel = grpc.insecure_channel(
            f"unix:{self.socket}",
            options=[
                ("grpc.max_receive_message_length", -1),
                ("grpc.max_send_message_length", -1),
                ("grpc.max_reconnect_backoff_ms", 200),
                ("grpc.initial_reconnect_backoff_ms", 50),
            ],
        )

    def set(self, table: str, line: str) -> None:
        """Configure one key more, before the daemon starts or reloads."""
        text = self.config.read_text()
        self.config.write_text(text.replace(f"[{table}]\n", f"[{table}]\n{line}\n"))

    def spawn(self, *arguments: str) -> subprocess.Popen[bytes]:
        """A process of ours, its output in the log."""
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def start_emulator(self) -> None:
        self.emulator = self.spawn("edged.emulator", "--socket", str(self.device))

    def start_daemon(self) -> None:
        self.daemon = self.spawn("edged", "--config", str(self.config))
        eventually(
            lambda: self.socket.exists() and self.drop.exists(), "the daemon to listen and to look"
        )

    @property
    def http(self) -> str:
        """HOST:PORT of the REST of the daemon that was started last."""
        eventually(lambda: "REST at" in self.log.read_text(), "the address of REST")
        return re.findall(r"REST at http://(\S+)", self.log.read_text())[-1]

    def kill(self, process: subprocess.Popen[bytes] | None) -> None:
        """As a power cut would end it: at once."""
        if process is not None and process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def close(self) -> None:
        self.channel.close()
        self.kill(self.daemon)
        self.kill(self.emulator)

    def status_of(self, name: str) -> str:
        try:
            return (self.drop / f"{name}.status.txt").read_text()
        except FileNotFoundError:
            return ""

    def put(self, file: Path, name: str | None = None) -> str:
        """Drop *file* and wait until its fate is known; returns the status text."""
        name = name or file.name
        before = self.status_of(name)
        shutil.copy(file, self.drop / name)
        eventually(
            lambda: (
                self.status_of(name) != before
                and self.status_of(name).startswith(("serving", "stored", "rejected", "already"))
            ),
            f"the status of {name}: {self.status_of(name)}\n{self.log.read_text()[-3000:]}",
        )
        return self.status_of(name)

    def edgectl(self, *words: str | Path) -> subprocess.CompletedProcess[str]:
        """A command about this appliance, to its end."""
        return subprocess.run(
            [sys.executable, "-m", "edged.cli", *map(str, words), "--socket", str(self.control)],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "NO_COLOR": "1"},
        )

    def predict(
        self, inputs: dict[str, wire.TensorProto], timeout: float = PATIENCE, wait: bool = True
    ) -> wire.PredictResponse:
        call = self.channel.unary_unary(
            f"/{wire.PREDICT}",
            request_serializer=wire.PredictRequest.SerializeToString,
            response_deserializer=wire.PredictResponse.FromString,
        )
        request = wire.PredictRequest(inputs=inputs)
        answer = call(request, timeout=timeout, wait_for_ready=wait)
        assert isinstance(answer, wire.PredictResponse)
        return answer

    def score_images(self, *images: bytes, name: str = "images") -> np.ndarray:
        tensor = wire.TensorProto(
            dtype=wire.DataType.DT_STRING,
            tensor_shape=wire.TensorShapeProto(dim=[{"size": len(images)}]),
            string_val=images,
        )
        (output,) = self.predict({name: tensor}).outputs.values()
        return np.asarray(wire.to_array(output))

    def answers(self) -> bool:
        """Whether the loaded model answers a call, of whatever kind."""
        call = self.channel.unary_unary(f"/{wire.PREDICT}")
        try:
            call(b"", timeout=PATIENCE)
        except grpc.RpcError as error:
            return error.code() is grpc.StatusCode.INVALID_ARGUMENT
        return True


def pack(output: Path, model: str, name: str, *options: str) -> Path:
    command = [sys.executable, "-m", "edged.cli", "pack", str(DATA / "models" / model)]
    command += ["--name", name, "--version", "1.0.0", *options, "-o", str(output)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return output


def keywords() -> tuple[np.ndarray, np.ndarray]:
    """The 1000 accuracy inputs, float32 [1000, 49, 10, 1], and their classes."""
    with np.load(DATA / "kws01_accuracy_set.npz") as data:
        return ((data["x"].astype(np.float32) - 83) * np.float32(0.5847029089927673)), data["y"]
