"""Bodies that clients of TensorFlow Serving and KServe send, against a model that takes images."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import onnx
from dropped.cases import cases
from integration.appliance import DATA, Appliance

__all__ = ["ask_rest"]

_NAME = "images-by-rest"


def ask_rest(appliance: Appliance, folder: Path) -> list[tuple[str, str, str, bool]]:
    """Pack a model that takes images, drop it, and send it each body.

    Returns:
        What was sent, what is wanted, what was answered, and whether that is as wanted.
    """
    case = next(case for case in cases() if case.name == "free-size-packed")
    assert case.model is not None
    file, bundle = folder / "by-rest.onnx", folder / f"{_NAME}-1.0.0.edgemodel"
    onnx.save(case.model(), file)
    words = [sys.executable, "-m", "edged.cli", "pack", str(file), "--name", _NAME]
    words += ["--version", "1.0.0", *case.pack, "--calibration", str(DATA / "images")]
    subprocess.run([*words, "-o", str(bundle)], check=True, capture_output=True)
    said = appliance.put(bundle)
    if not said.startswith("serving since"):
        return [("all of them", "a model that takes images serves", said, False)]
    photograph = next((DATA / "images").glob("*.jpg")).read_bytes()
    text = base64.b64encode(photograph).decode()
    predict, infer = f"/v1/models/{_NAME}:predict", f"/v2/models/{_NAME}/infer"

    def tensor(value: float) -> dict[str, object]:
        values = [value] * (3 * 64 * 64)
        one = {"name": "images", "shape": [1, 3, 64, 64], "datatype": "FP32", "data": values}
        return {"inputs": [one]}

    found = []
    for what, wanted, path, body in (
        ("base64 with line breaks", 200, predict, _b64(base64.encodebytes(photograph).decode())),
        ("base64 with a line break at its end", 200, predict, _b64(text + "\n")),
        ("base64 without padding", 200, predict, _b64(text.rstrip("="))),
        ("a data URL", 400, predict, _b64(f"data:image/jpeg;base64,{text}")),
        ("parameters beside instances", 200, predict, {**_b64(text), "parameters": {}}),
        ("signature_name: null", 200, predict, {**_b64(text), "signature_name": None}),
        ("a tensor of zeros", 200, infer, tensor(0.0)),
        ("a tensor of NaN", 400, infer, tensor(float("nan"))),
        ("a tensor of infinity", 400, infer, tensor(float("inf"))),
    ):
        status, answer = _ask(appliance.http, path, body)
        aim = "answered" if wanted == 200 else "refused by name"
        found.append((what, aim, f"{status}: {answer}", status == wanted))
    return found


def _b64(text: str) -> dict[str, object]:
    return {"instances": [{"b64": text}]}


def _ask(at: str, path: str, body: dict[str, object]) -> tuple[int, str]:
    request = urllib.request.Request(
        f"http://{at}{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, answer.read(120).decode(errors="replace")
    except urllib.error.HTTPError as error:
        return error.code, error.read(200).decode(errors="replace")
