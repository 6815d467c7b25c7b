"""The conversion as a whole: freeze, look for image preprocessing, cut, translate, compare."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image

from edged.bundle import read_arrays
from edged.convert._graph import Graph, Node, node_of, read_graph
from edged.convert._recognise import Recognised, recognise
from edged.errors import (
    ConfigError,
    DeadlineError,
    InputError,
    LimitError,
    ModelError,
    NotFoundError,
)
from edged.preprocess import Preprocess, image_to_array

__all__ = ["Converted", "convert"]

Progress = Callable[[float, str], None]

_WORKER: Final = Path(__file__).parent / "_tensorflow.py"
_SECONDS: Final = 3600
_MAX_GRAPH_BYTES: Final = (2 << 30) - 1
_PLACEHOLDERS: Final = ("Placeholder", "PlaceholderV2")
_WITH_DEFAULT: Final = "PlaceholderWithDefault"
_STRING: Final = 7
_PICTURES: Final = ((375, 500, ".png"), (640, 427, ".jpg"))
_TOLERANCE: Final = 2e-3


@dataclass(frozen=True, slots=True)
class Converted:
    """What became of a TensorFlow model.

    Attributes:
        model: the ONNX file.
        preprocess: what its graph did to images, which the ONNX model does not do any more; None
            when it takes tensors.
        aliases: tensor name to the key that a SavedModel's signature has for it.
    """

    model: Path
    preprocess: Preprocess | None
    aliases: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class _Entrance:
    """A tensor that the user names as an input, and the shape of a sample if that is said."""

    tensor: str
    sample: tuple[int, ...] | None

    @classmethod
    def parse(cls, text: str, keys: Mapping[str, str]) -> _Entrance:
        name, bracket, sizes = text.partition("[")
        if not bracket:
            return cls(keys.get(text, text), None)
        parts = sizes.removesuffix("]").split(",")
        if not sizes.endswith("]") or not all(part.strip().isdecimal() for part in parts):
            raise InputError(
                f"cannot convert: input {text!r} has a shape that cannot be read; wanted"
                " TENSOR[1,224,224,3], the batch first"
            )
        return cls(keys.get(name, name), tuple(int(part) for part in parts)[1:])


def _silent(_fraction: float, _step: str) -> None: ...


def convert(
    source: Path,
    output: Path,
    *,
    inputs: Sequence[str] = (),
    outputs: Sequence[str] = (),
    signature: str = "serving_default",
    python: str = sys.executable,
    progress: Progress = _silent,
) -> Converted:
    """Convert a SavedModel or a frozen graph to ONNX.

    TensorFlow runs the graph that it is given, with this user's rights: convert what you trust.

    Args:
        source: a SavedModel's folder, or a frozen GraphDef.
        output: the ONNX file to write.
        inputs: tensors, or keys of the signature; by default the placeholders that the outputs
            depend on. One that is no placeholder is where the model begins; where TensorFlow does
            not know its shape, it is said behind the name: ``images:0[1,224,224,3]``.
        outputs: likewise; by default those of the signature. A frozen graph has none.
        signature: of the SavedModel.
        python: an interpreter that has TensorFlow and tf2onnx; it need not have edged.
        progress: told the fraction done and the step.

    Raises:
        NotFoundError: there is no such model.
        InputError: the names do not fit the model.
        ModelError: it cannot be frozen, its image preprocessing is not recognised (names the
            operator that stopped it), or an operator has no counterpart in ONNX.
        ConfigError: the interpreter lacks TensorFlow or tf2onnx.
    """
    if not source.exists():
        raise NotFoundError(f"cannot convert {source}: there is no such file or folder")
    if source.is_file() and not outputs:
        raise InputError(
            f"cannot convert {source}: a frozen graph does not say what its outputs are; name them"
            " with --result"
        )
    with tempfile.TemporaryDirectory(prefix="edged-convert-") as folder:
        frozen, made = Path(folder) / "frozen.pb", Path(folder) / "model.onnx"
        progress(0.0, "freezing")
        job = {
            "do": "freeze",
            "model": str(source.resolve()),
            "output": str(frozen),
            "signature": signature,
            "outputs": list(outputs),
        }
        (keys,) = _worker(python, job)
        progress(0.3, "reading the graph")
        plan = _Plan.of(read_graph(_read(frozen)), keys, inputs, outputs)
        progress(0.4, "translating to ONNX")
        _translate(python, frozen, plan, made)
        shutil.move(made, output)
    progress(1.0, "converted")
    return Converted(output, plan.found.preprocess if plan.found else None, plan.aliases)


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is to be translated.

    Attributes:
        inputs, outputs: tensors of the frozen graph.
        found: the image preprocessing in front of it.
        cut: where the model begins, as the worker takes it; None at its placeholders.
        aliases: tensor name to the key in the signature.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    found: Recognised | None
    cut: dict[str, Any] | None
    aliases: dict[str, str]

    @classmethod
    def of(
        cls,
        graph: Graph,
        keys: Mapping[str, Mapping[str, str]],
        inputs: Sequence[str],
        outputs: Sequence[str],
    ) -> _Plan:
        """From the names that the user gave, which may be keys of the signature.

        Raises:
            InputError, ModelError: as `convert`.
        """
        given, wanted = keys["inputs"], keys["outputs"]
        results = [wanted.get(name, name) for name in outputs] or list(wanted.values())
        named = [_Entrance.parse(text, given) for text in inputs]
        entrances = [entrance.tensor for entrance in named]
        entrances = entrances or _entrances(graph, results, given.values())
        _check_there(graph, [*entrances, *results])
        found = _recognised(graph, entrances, results)
        shapes = {entrance.tensor: entrance.sample for entrance in named}
        used = {_full(name) for name in (*entrances, *results)}
        known = {_full(tensor): key for key, tensor in {**given, **wanted}.items()}
        return cls(
            tuple(entrances),
            tuple(results),
            found,
            _cut(graph, entrances, found, shapes),
            {tensor: key for tensor, key in known.items() if tensor in used and key != tensor},
        )


def _translate(python: str, frozen: Path, plan: _Plan, output: Path) -> None:
    """Write the ONNX model; when it begins behind image preprocessing, try that on pictures.

    Raises:
        ModelError: an operator has no counterpart, or the preprocessing is not what it seems.
    """
    translation = {
        "do": "onnx",
        "graph": str(frozen),
        "output": str(output),
        "cut": plan.cut,
        "inputs": plan.inputs,
        "outputs": plan.outputs,
    }
    if plan.found is None:
        _worker(python, translation)
        return
    pictures = _pictures(output.parent)
    results = output.parent / "results.npz"
    trial = {
        "do": "run",
        "graph": str(frozen),
        "tensor": plan.found.tensor,
        "feed": plan.found.source,
        "files": [str(picture) for picture in pictures],
        "output": str(results),
    }
    _worker(python, translation, trial)
    _compare(plan.found, pictures, results)


def _entrances(graph: Graph, outputs: Sequence[str], signed: Collection[str]) -> list[str]:
    """The placeholders that *outputs* depend on.

    One with a default is no input of its own accord: a switch between training and inference, such
    as ``keras_learning_phase``, stays at its default, as it does when TensorFlow serves the graph.

    Args:
        signed: the inputs that a signature names, which may have defaults.
    """
    ends = {node_of(output) for output in outputs}
    named = {node_of(tensor) for tensor in signed}
    used = [
        node
        for node in graph.nodes.values()
        if node.op in (*_PLACEHOLDERS, _WITH_DEFAULT) and graph.behind(node) & ends
    ]
    found = [node for node in used if node.op in _PLACEHOLDERS or node.name in named]
    if not found:
        optional = ", ".join(f"'{node.name}:0'" for node in used)
        raise ModelError(
            "cannot convert: no output depends on a placeholder of the graph"
            + (
                f" without a default; if one of {optional} is the input, name it with --input"
                if optional
                else ""
            )
        )
    return [f"{node.name}:0" for node in found]


def _check_there(graph: Graph, tensors: Sequence[str]) -> None:
    for tensor in tensors:
        if node_of(tensor) not in graph.nodes:
            near = [name for name in graph.nodes if node_of(tensor).lower() in name.lower()][-5:]
            there = near or [n.name for n in graph.nodes.values() if _is_placeholder(n)]
            raise InputError(
                f"cannot convert: there is no tensor {tensor!r} before the outputs; there are"
                f" {', '.join(map(repr, there))}"
            )


def _recognised(
    graph: Graph, entrances: Sequence[str], outputs: Sequence[str]
) -> Recognised | None:
    strings = [name for name in entrances if _is_string(graph.producer(name))]
    if not strings:
        return None
    if len(entrances) > 1:
        raise ModelError(
            f"cannot convert: of the inputs {', '.join(map(repr, entrances))}, {strings[0]!r} takes"
            " strings; wanted one input where images are decoded"
        )
    return recognise(graph, strings[0], outputs)


def _is_string(node: Node) -> bool:
    return _is_placeholder(node) and node.attributes.get("dtype") == _STRING


def _is_placeholder(node: Node) -> bool:
    return node.op in (*_PLACEHOLDERS, _WITH_DEFAULT)


def _cut(
    graph: Graph,
    entrances: Sequence[str],
    found: Recognised | None,
    shapes: Mapping[str, tuple[int, ...] | None],
) -> dict[str, Any] | None:
    if found is not None:
        shape = list(found.preprocess.shape[1:])
        return {"tensor": found.tensor, "name": found.source, "shape": shape}
    inner = [name for name in entrances if not _is_placeholder(graph.producer(name))]
    if not inner:
        return None
    if len(entrances) > 1:
        raise InputError(
            f"cannot convert: {inner[0]!r} is no placeholder, and there are"
            f" {len(entrances)} inputs; a model can begin at one tensor in its middle only"
        )
    # Under its own name: the node that gives it is behind the new input, and goes.
    return {"tensor": inner[0], "name": _full(inner[0]), "shape": shapes.get(inner[0])}


def _pictures(folder: Path) -> list[Path]:
    """Images to try the preprocessing on: smooth, as photographs are."""
    files = []
    for height, width, suffix in _PICTURES:
        rng = np.random.default_rng(width)
        coarse = Image.fromarray(rng.integers(0, 256, (height // 8, width // 8, 3), np.uint8))
        files.append(folder / f"{width}{suffix}")
        coarse.resize((width, height), Image.Resampling.BICUBIC).save(files[-1])
    return files


def _compare(found: Recognised, pictures: Sequence[Path], made: Path) -> None:
    """Compare what TensorFlow made of *pictures* with what edged makes of them.

    Raises:
        ModelError: they differ.
    """
    arrays = read_arrays(made)
    for index, picture in enumerate(pictures):
        theirs = arrays[str(index)]
        ours = image_to_array(picture.read_bytes(), found.preprocess)
        off = float(np.abs(ours - theirs).max()) if ours.shape == theirs.shape else float("inf")
        if not off <= _TOLERANCE * float(np.ptp(theirs)):
            raise ModelError(
                f"cannot convert: {found.tensor!r} was taken for {found.preprocess.transform} of"
                f" {found.preprocess.width}x{found.preprocess.height}, but TensorFlow's result for"
                f" a picture is off by {off:.4g}; convert from that tensor with --input, and say"
                " the preprocessing with --preprocess"
            )


def _worker(python: str, *jobs: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Jobs in the interpreter that has TensorFlow; what it answers to each."""
    try:
        done = subprocess.run(  # noqa: S603  (our own script, the interpreter that the user named)
            [python, str(_WORKER)],
            input=json.dumps(jobs),
            capture_output=True,
            text=True,
            check=False,
            timeout=_SECONDS,
        )
    except OSError as error:
        raise ConfigError(f"cannot run {python}: {error.strerror}") from error
    except subprocess.TimeoutExpired as error:
        raise DeadlineError(f"cannot convert: it took more than {_SECONDS} s") from error
    try:
        answer = json.loads(done.stdout.rstrip().splitlines()[-1])
        if "ok" in answer:
            return list(answer["ok"])
        said, missing = str(answer["error"]), bool(answer.get("missing"))
    except (IndexError, ValueError, KeyError, TypeError) as error:
        last = (done.stderr.rstrip().splitlines() or ["it said nothing"])[-1]
        raise ModelError(
            f"cannot convert: TensorFlow's process ended with status {done.returncode}: {last}"
        ) from error
    if missing:
        raise ConfigError(
            f"{said} in {python}; make an interpreter that has both (`python3 -m venv tf` and"
            " `tf/bin/pip install tensorflow tf2onnx`), and name it: --python tf/bin/python"
        )
    raise ModelError(said)


def _read(path: Path) -> bytes:
    size = path.stat().st_size
    if size > _MAX_GRAPH_BYTES:
        raise LimitError(
            f"cannot read the graph: it has {size} bytes, at most {_MAX_GRAPH_BYTES} are read"
        )
    return path.read_bytes()


def _full(tensor: str) -> str:
    return tensor if ":" in tensor else f"{tensor}:0"
