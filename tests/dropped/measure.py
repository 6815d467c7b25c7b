"""Dropping a case into a real appliance, asking what serves, and comparing it with float."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from dropped.cases import COUNT, Case, Inputs
from dropped.nets import smooth
from integration.appliance import DATA, Appliance
from onnx import helper
from patience import eventually

from edged import wire

__all__ = ["Found", "measure"]

_FATES = ("serving since", "stored", "rejected", "ignored", "waiting: it is")
# Several are compiled at a time, beside whatever else the machine does.
_LONGEST = 900.0
Arrays = dict[str, npt.NDArray[np.generic]]


@dataclass(frozen=True)
class Found:
    """What became of a case.

    Attributes:
        case: the case.
        serves: whether its model served.
        said: the status file's first line, or the answer to a call that failed.
        error: against ONNX Runtime in float: of float outputs the root mean square of the
            difference over the standard deviation; of whole numbers the share that differs; the
            worst output. None where nothing was compared.
        share: of the multiply-accumulates, on the device; None where it does not serve.
    """

    case: Case
    serves: bool
    said: str
    error: float | None = None
    share: float | None = None

    @property
    def met(self) -> bool:
        """Whether it is as wanted."""
        case = self.case
        if self.serves:
            return self.error is not None and self.error <= case.most_error
        refusal_wanted = case.refusal_will_do or bool(case.says)
        return refusal_wanted and case.says in self.said

    @property
    def text(self) -> str:
        """In words, for the list of aims."""
        if not self.serves:
            return self.said
        error = "not compared" if self.error is None else f"{self.error:.1%} error"
        share = "" if self.share is None else f", {self.share:.0%} on the device"
        return f"serves, {error}{share}"


def measure(appliance: Appliance, case: Case, folder: Path) -> Found:
    """Drop *case*, wait for its fate, and ask it what ONNX Runtime is asked.

    Args:
        folder: for the model's file.
    """
    file = folder / f"{case.name}.onnx"
    model = case.model() if case.model is not None else None
    if model is not None:
        onnx.save(model, file)
    if case.pack:
        packed = folder / f"{case.name}-1.0.0.edgemodel"
        words = [sys.executable, "-m", "edged.cli", "pack", str(file), "--name", case.name]
        words += ["--version", "1.0.0", *case.pack, "--calibration", str(DATA / "images")]
        done = subprocess.run(
            [*words, "-o", str(packed)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            return Found(case, False, done.stderr.strip())
        file = packed
    name = case.put(file, appliance.drop)
    eventually(
        lambda: appliance.status_of(name).startswith(_FATES),
        f"the fate of {name}",
        _LONGEST,
    )
    said = appliance.status_of(name).splitlines()
    if not said[0].startswith("serving since"):
        return Found(case, False, " ".join(said[:-1]))
    assert model is not None
    share = _share(appliance)
    try:
        error = _error(appliance, model, case)
    except grpc.RpcError as problem:
        return Found(case, False, f"serves, and refuses a call: {problem.details()}")
    return Found(case, True, said[0], error, share)


def _share(appliance: Appliance) -> float | None:
    """Of the model that was compiled last."""
    reports = (appliance.folder / "state" / "compiled").glob("*/report.json")
    facts = json.loads(max(reports, key=lambda path: path.stat().st_mtime_ns).read_bytes())
    total = facts["macs"] + facts["host_macs"]
    return facts["macs"] / total if total else None


def _error(appliance: Appliance, model: onnx.ModelProto, case: Case) -> float | None:
    session = _float_session(model)
    wanted: list[Arrays] = []
    got: list[Arrays] = []
    names = [output.name for output in model.graph.output]
    for feed in _feeds(model, case.inputs() if case.inputs is not None else None):
        tensors = {name: wire.from_array(value) for name, value in feed.items()}
        answer = appliance.predict(tensors, _LONGEST)
        got.append({name: np.asarray(wire.to_array(answer.outputs[name])) for name in names})
        if session is not None:
            wanted.append(dict(zip(names, session.run(names, feed), strict=True)))
    if session is None:
        return None
    return max(_distance([g[name] for g in got], [w[name] for w in wanted]) for name in names)


def _float_session(model: onnx.ModelProto) -> onnxruntime.InferenceSession | None:
    """None where ONNX Runtime itself is too old for the model."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.ir_version = min(copy.ir_version, 10)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    # Its own requantisation would not be what the model says.
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    try:
        return onnxruntime.InferenceSession(copy.SerializeToString(), options)
    except Exception:  # ONNX Runtime's exceptions have no common base
        return None


def _feeds(model: onnx.ModelProto, inputs: Inputs | None) -> Iterator[Arrays]:
    """One sample at a time, in the shapes that the model declares."""
    if inputs is not None:
        for index in range(COUNT):
            yield {name: values[index : index + 1] for name, values in inputs.items()}
        return
    constants = {constant.name for constant in model.graph.initializer}
    for index in range(COUNT):
        feed: Arrays = {}
        for value in model.graph.input:
            if value.name in constants:
                continue
            kind = value.type.tensor_type
            shape = [size.dim_value or 1 for size in kind.shape.dim]
            dtype = helper.tensor_dtype_to_np_dtype(kind.elem_type)
            if dtype.kind == "f":
                feed[value.name] = smooth(shape, 1, seed=index)[0].astype(dtype)
            else:
                feed[value.name] = np.random.default_rng(index).integers(0, 256, shape, dtype)
        yield feed


def _distance(got: list[npt.NDArray[np.generic]], wanted: list[npt.NDArray[np.generic]]) -> float:
    if [each.shape for each in got] != [each.shape for each in wanted]:
        return 1.0
    ours, theirs = (np.concatenate([each.ravel() for each in side]) for side in (got, wanted))
    if theirs.dtype.kind != "f" or bool((theirs == np.rint(theirs)).all()):
        return float((ours != theirs).mean()) if theirs.size else 0.0
    ours, theirs = ours.astype(np.float64), theirs.astype(np.float64)
    spread = float(theirs.std()) or float(np.abs(theirs).max()) or 1.0
    return float(np.sqrt(np.square(ours - theirs).mean())) / spread
