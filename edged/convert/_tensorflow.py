"""The part that needs TensorFlow: a program by itself, run by an interpreter that has it.

It imports nothing of edged, so that the interpreter need not have it. A list of JSON objects on
standard input says what to do; one line of JSON on standard output, the last, says what came of it:
``{"ok": [answer, …]}`` or ``{"error": "cannot …"}``. What else the libraries print is noise.

``freeze``: a SavedModel or a frozen graph becomes one GraphDef without variables and functions.
``onnx``: the part of a GraphDef behind one tensor becomes an ONNX model.
``run``: one tensor of a GraphDef is computed for strings that are fed to another.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

_OPSET = 17
_LISTED = 5


def main() -> int:
    """Do the jobs, one after the other, until one fails; the exit status."""
    answer: dict[str, Any]
    try:
        answer = {"ok": [_JOBS[job.pop("do")](**job) for job in json.load(sys.stdin)]}
    except ImportError as error:
        answer = {"error": f"cannot convert: {error}", "missing": True}
    except Exception as error:  # whatever TensorFlow raises: its words are all there is to say
        lines = [line for line in str(error).splitlines() if line.strip()] or [repr(error)]
        answer = {"error": f"cannot convert: TensorFlow says {type(error).__name__}: {lines[0]}"}
    print("\n" + json.dumps(answer), flush=True)  # noqa: T201  (it is a command)
    return 0 if "ok" in answer else 1


def freeze(model: str, output: str, signature: str, outputs: list[str]) -> dict[str, Any]:
    """Write the GraphDef to *output*.

    Returns:
        For a SavedModel its signature: key → tensor name, of the inputs and of the outputs.
    """
    import tensorflow as tf

    if Path(model).is_file():
        graph = tf.compat.v1.GraphDef.FromString(Path(model).read_bytes())
        wanted = [_node(name) for name in outputs]
        names = [node.name for node in graph.node]
        for name in wanted:
            if name not in set(names):
                raise ValueError(f"the graph has no {name!r}; its last are {names[-_LISTED:]}")
        kept = tf.compat.v1.graph_util.extract_sub_graph(graph, wanted)
        Path(output).write_bytes(kept.SerializeToString())
        return {"inputs": {}, "outputs": {}}
    return _freeze_saved_model(model, output, signature, outputs)


def _freeze_saved_model(
    model: str, output: str, signature: str, outputs: list[str]
) -> dict[str, Any]:
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import (
        convert_variables_to_constants_v2,
    )

    loaded = tf.saved_model.load(model)
    if signature not in loaded.signatures:
        there = ", ".join(map(repr, loaded.signatures)) or "none"
        raise ValueError(f"the SavedModel has no signature {signature!r}; it has {there}")
    function = loaded.signatures[signature]
    # Loops and branches as Switch and Merge, one way to write them for graphs old and new.
    frozen = convert_variables_to_constants_v2(function, lower_control_flow=True)
    graph = frozen.graph.as_graph_def()
    made = dict(zip(sorted(function.structured_outputs), frozen.outputs, strict=True))
    names = {key: tensor.name for key, tensor in made.items()}
    known = {f"{node.name}:0" for node in graph.node}
    unknown = [name for name in outputs if name not in names and _full(name) not in known]
    if unknown:
        there = ", ".join(f"{key!r} ({name})" for key, name in names.items())
        raise ValueError(f"the SavedModel has no output {unknown[0]!r}; it has {there}")
    wanted = [_node(names.get(name, name)) for name in outputs or names]
    kept = tf.compat.v1.graph_util.extract_sub_graph(graph, wanted)
    Path(output).write_bytes(kept.SerializeToString())
    variables = {captured.ref() for captured in function.captured_inputs}
    given = {
        key: tensor.name
        for key, tensor in zip(
            function.structured_input_signature[1],
            [t for t in frozen.inputs if t.ref() not in variables],
            strict=False,
        )
    }
    return {"inputs": given, "outputs": names}


def onnx(
    graph: str, output: str, cut: dict[str, Any] | None, inputs: list[str], outputs: list[str]
) -> dict[str, Any]:
    """Write an ONNX model.

    Args:
        graph: file with a GraphDef.
        cut: ``tensor``: the model begins behind it; ``name``: what its input is called then (a node
            of that name is behind it and goes); ``shape`` of a sample, None: as the graph has it.
        inputs: the placeholders where nothing is cut.
        outputs: tensors that the model gives.
    """
    import tensorflow as tf
    import tf2onnx

    part = tf.compat.v1.GraphDef.FromString(Path(graph).read_bytes())
    if cut is not None:
        part = _cut(part, cut["tensor"], _node(cut["name"]), cut["shape"])
        inputs = [cut["name"]]
    part = tf.compat.v1.graph_util.extract_sub_graph(part, [_node(name) for name in outputs])
    _settle(part, {_node(name) for name in inputs})
    model, _ = tf2onnx.convert.from_graph_def(
        part,
        input_names=[_full(name) for name in inputs],
        output_names=[_full(name) for name in outputs],
        opset=_OPSET,
    )
    strange = sorted({f"{n.domain}.{n.op_type}" for n in model.graph.node if n.domain})
    if strange:
        raise ValueError(f"these operators have no counterpart in ONNX: {', '.join(strange)}")
    Path(output).write_bytes(model.SerializeToString())
    return {"operators": len(model.graph.node)}


def _settle(graph: Any, inputs: set[str]) -> None:
    """Let placeholders that are no inputs be their defaults."""
    for node in graph.node:
        if node.op == "PlaceholderWithDefault" and node.name not in inputs:
            node.op = "Identity"
            dtype = node.attr["dtype"].type
            node.attr.clear()
            node.attr["T"].type = dtype


def _cut(source: Any, tensor: str, name: str, sample: list[int] | None) -> Any:
    """The graph *source* with a placeholder *name* in the place of *tensor*."""
    import tensorflow as tf

    with tf.Graph().as_default() as loaded:
        tf.import_graph_def(source, name="")
        given = loaded.get_tensor_by_name(_full(tensor))
        dtype = given.dtype
        if sample is None and given.shape.rank is not None:
            sample = given.shape.as_list()[1:]
    if sample is None or None in sample:
        raise ValueError(f"the shape of {tensor!r} is {given.shape}; wanted a fixed one")
    part = tf.compat.v1.GraphDef()
    part.versions.CopyFrom(source.versions)
    placeholder = part.node.add(name=name, op="Placeholder")
    placeholder.attr["dtype"].type = dtype.as_datatype_enum
    placeholder.attr["shape"].shape.CopyFrom(tf.TensorShape([None, *sample]).as_proto())
    spellings = {_full(tensor), _full(tensor).removesuffix(":0")}
    for node in source.node:
        if node.name == name:
            continue
        copy = part.node.add()
        copy.CopyFrom(node)
        # What a node only waits for, such as an assertion about the image, has no meaning here.
        kept = [given for given in node.input if not given.startswith("^")]
        del copy.input[:]
        copy.input.extend(name if given in spellings else given for given in kept)
    return part


def run(graph: str, tensor: str, feed: str, files: list[str], output: str) -> dict[str, Any]:
    """Compute *tensor* for the contents of each of *files*, fed as [1]; write an npz."""
    import numpy as np
    import tensorflow as tf

    source = tf.compat.v1.GraphDef.FromString(Path(graph).read_bytes())
    results = {}
    with tf.Graph().as_default() as loaded, tf.compat.v1.Session(graph=loaded) as session:
        tf.import_graph_def(source, name="")
        scalar = loaded.get_tensor_by_name(_full(feed)).shape.rank == 0
        for index, file in enumerate(files):
            data = Path(file).read_bytes()
            value = data if scalar else [data]
            results[str(index)] = session.run(_full(tensor), {_full(feed): value})
    np.savez(output, **results)
    return {"files": len(files)}


def _node(tensor: str) -> str:
    return tensor.partition(":")[0].removeprefix("^")


def _full(tensor: str) -> str:
    return tensor if ":" in tensor else f"{tensor}:0"


_JOBS: dict[str, Callable[..., dict[str, Any]]] = {"freeze": freeze, "onnx": onnx, "run": run}

if __name__ == "__main__":
    sys.exit(main())
