"""The main job on the gateware itself: keywords are spotted by RTL that Verilator simulates.

What `make demo` shows on the emulator: a model into the drop folder, calls over gRPC, scores back;
here through the real driver on the simulated registers, rings and core. Then the same on the
emulator, and every bit of the scores has to be the same.
"""

from __future__ import annotations

import signal
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
from demo import DATA, DemoError, Model, _interrupt, follow, free_port, pack, process, say
from rich.console import Console
from rich.markup import escape

from edged.client import PredictionClient
from edged.errors import EdgedError

KEYWORDS = DATA / "kws01_accuracy_set.npz"
SAMPLES = 4
ARRAY = "8x8x1"
GATEWARE = ("firmware.sim", "--array", ARRAY)
EMULATOR = ("edged.emulator", "--array", ARRAY)
BUILD_SECONDS = 600


def main() -> int:
    console = Console(highlight=False)
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGHUP, _interrupt)
    try:
        with tempfile.TemporaryDirectory(prefix="edged-demo-") as folder:
            return run(console, Path(folder))
    except KeyboardInterrupt:
        console.print("\nStopped. Nothing is left running.")
        return 130
    except (DemoError, EdgedError) as error:
        console.print(f"[red]{escape(str(error))}[/red]")
        return 1


def run(console: Console, folder: Path) -> int:
    with np.load(KEYWORDS) as arrays:
        samples = ((arrays["x"].astype(np.float32) - 83) * 0.5847029089927673).astype(np.float32)
        wanted = arrays["y"][:SAMPLES]
    calibration = folder / "calibration.npz"
    np.savez(calibration, input_1=samples[::10])
    model = Model(DATA / "models" / "kws_dscnn.onnx", "kws", ("--calibration", calibration))
    pack(model, folder)
    asked = samples[:SAMPLES]
    found = {}
    for what, program in (("the simulated gateware", GATEWARE), ("the emulator", EMULATOR)):
        console.print(f"[bold]On {what}[/bold]")
        place = folder / program[0]
        place.mkdir()
        found[what] = serve(console, place, program, folder / model.bundle, asked)
        heard = found[what].argmax(axis=1).tolist()
        say(console, 4, f"It heard the words {heard}; spoken were {wanted.tolist()}.")
    gateware, emulator = found.values()
    if gateware.tobytes() != emulator.tobytes():
        raise DemoError("the scores differ")
    console.print("Every bit of the scores is the same.")
    return 0


def serve(
    console: Console,
    folder: Path,
    program: tuple[str, ...],
    bundle: Path,
    samples: npt.NDArray[np.float32],
) -> npt.NDArray[np.float32]:
    """The scores of *samples* by the model in *bundle*, on the device that *program* is."""
    drop, device, log = folder / "drop", folder / "device.sock", folder / "edged.log"
    drop.mkdir()
    port = free_port(0)
    config = folder / "edged.toml"
    config.write_text(
        '[metrics]\nlisten = "127.0.0.1:0"\n'
        f'[serving]\nlisten = "127.0.0.1:{port}"\nhttp_listen = "127.0.0.1:{free_port(0)}"\n'
        f'socket = "{folder}/edged.sock"\n'
        f'[state]\ndirectory = "{folder}/state"\n'
        f'[drop]\ndirectory = "{drop}"\nrescan_seconds = 1.0\nsettle_seconds = 0.3\n'
        f'[device]\nsocket = "{device}"\n'
    )
    served = [sys.executable, "-m", *program, "--socket", str(device)]
    daemon = [sys.executable, "-m", "edged", "--config", str(config)]
    begun = time.monotonic()
    with process("device", served, log) as child:
        while not device.exists():
            if child.poll() is not None or time.monotonic() - begun > BUILD_SECONDS:
                raise DemoError(f"no device:\n{log.read_text(errors='replace')[-1500:]}")
            time.sleep(0.05)
        say(console, 1, f"The device is there after {time.monotonic() - begun:.1f} s.")
        with process("daemon", daemon, log) as edged:
            (drop / bundle.name).write_bytes(bundle.read_bytes())
            dropped = time.monotonic()
            seconds = follow(console, drop / f"{bundle.name}.status.txt", edged, log)
            say(console, 2, f"The model serves, {seconds:.1f} s after it was dropped.")
            with PredictionClient(f"127.0.0.1:{port}") as client:
                first = scores(client, samples[:1])
                seconds = time.monotonic() - dropped
                say(console, 3, f"The first answer came {seconds:.1f} s after the drop.")
                return np.concatenate([first, *(scores(client, x[None]) for x in samples[1:])])


def scores(client: PredictionClient, sample: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    (values,) = client.score_arrays({"input_1": sample}).values()
    return np.asarray(values, np.float32)


if __name__ == "__main__":
    sys.exit(main())
