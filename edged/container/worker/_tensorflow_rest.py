"""TensorFlow Serving's REST about the loaded model: bodies of HTTP in, frames out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from google.protobuf.json_format import MessageToDict

from edged.bundle import TensorDecl
from edged.container.worker._examples import (
    Example,
    classes_of,
    given_examples,
    numbers_of,
    scalar,
    scores,
)
from edged.container.worker._json import B64, body_of, given_of, string_of, to_json
from edged.container.worker._model import Arrays, Model
from edged.container.worker._requested import check_model, check_version
from edged.container.worker._runner import Runner
from edged.container.worker._signature import Given, Signature
from edged.container.worker._statistics import INFER, INPUT, OUTPUT, Statistics
from edged.container.worker._tensorflow import check_signature, signatures
from edged.errors import RequestError
from edged.wire import rest

__all__ = ["TensorFlowRest"]

_Keys = dict[str, str]
_Read = tuple[list[tuple[str, Given]], _Keys, Callable[[Arrays], Any]]
"""The inputs, the outputs that are wanted, and what makes the answer of them."""


class TensorFlowRest:
    """``:predict``, ``:classify``, ``:regress`` and ``/metadata``, for one model."""

    def __init__(
        self, model: Model, signature: Signature, runner: Runner, statistics: Statistics
    ) -> None:
        self._model = model
        self._signature = signature
        self._runner = runner
        self._statistics = statistics

    def predict(self, data: bytes, deadline: float, extras: Mapping[str, str]) -> bytes:
        """Rows (``instances``) are answered by rows, columns (``inputs``) by columns."""
        return self._answer(data, deadline, extras, self._predict)

    def classify(self, data: bytes, deadline: float, extras: Mapping[str, str]) -> bytes:
        """``examples`` are answered by all classes of each, the highest score first."""
        return self._answer(data, deadline, extras, self._classify)

    def regress(self, data: bytes, deadline: float, extras: Mapping[str, str]) -> bytes:
        """``examples`` are answered by a number each."""
        return self._answer(data, deadline, extras, self._regress)

    def metadata(self, data: bytes, deadline: float, extras: Mapping[str, str]) -> bytes:
        """The signature, as protobuf's JSON has it."""
        self._check(extras)
        manifest = self._model.manifest
        definition = MessageToDict(
            signatures(manifest, self._signature),
            preserving_proto_field_name=True,
            always_print_fields_with_no_presence=True,
        )
        spec = {"name": manifest.name, "signature_name": "", "version": str(manifest.serial)}
        value = {"model_spec": spec, "metadata": {"signature_def": definition}}
        return rest.frame(to_json(value))

    def _answer(
        self,
        data: bytes,
        deadline: float,
        extras: Mapping[str, str],
        read: Callable[[dict[str, Any]], _Read],
    ) -> bytes:
        with self._statistics.counting() as counting:
            self._check(extras)
            body, _ = body_of(data, extras)
            if not isinstance(body, dict):
                raise RequestError("cannot read the request: wanted a JSON object")
            check_signature(_signature_name(body))
            given, wanted, write = read(body)
            samples = self._signature.samples(given)
            counting.samples = len(samples)
            counting.watch.lap(INPUT)
            results = self._runner.batch(samples, wanted, deadline)
            counting.watch.lap(INFER)
            answer = rest.frame(to_json(write(results), results))
            counting.watch.lap(OUTPUT)
        return answer

    def _check(self, extras: Mapping[str, str]) -> None:
        check_model(self._model.manifest, extras.get(rest.MODEL, ""))
        check_version(self._model.manifest, extras.get(rest.VERSION, ""))

    def _predict(self, body: dict[str, Any]) -> _Read:
        by_row = body.get("instances") is not None
        if by_row == (body.get("inputs") is not None):
            raise RequestError(
                "cannot read the request: wanted either 'instances' or 'inputs', found"
                f" {_listed(body)}"
            )
        columns = self._columns(body["instances"]) if by_row else self._named(body["inputs"])
        given = [
            (key, given_of(value, str(self._signature.input(key).dtype), f"cannot read {key!r}"))
            for key, value in columns.items()
        ]
        wanted = self._signature.wanted((), columns)
        return given, wanted, _rows if by_row else _in_columns

    def _columns(self, instances: Any) -> dict[str, list[Any]]:
        """From a value or an object of values for each sample to values by the input's name."""
        if not isinstance(instances, list) or not instances:
            raise RequestError("cannot read the request: 'instances' is no list with something in")
        if not _is_named(instances[0]):
            return {self._sole_input(): instances}
        keys = instances[0].keys()
        if not all(_is_named(each) and each.keys() == keys for each in instances):
            raise RequestError("cannot read the request: the instances differ in their names")
        return {key: [each[key] for each in instances] for key in keys}

    def _named(self, inputs: Any) -> dict[str, Any]:
        return inputs if _is_named(inputs) else {self._sole_input(): inputs}

    def _sole_input(self) -> str:
        first, *others = self._model.manifest.inputs
        if others:
            names = ", ".join(repr(tensor.name) for tensor in (first, *others))
            raise RequestError(f"cannot read the request: name the inputs: {names}")
        return first.alias or first.name

    def _classify(self, body: dict[str, Any]) -> _Read:
        labels = self._model.labels

        def write(results: Arrays) -> Any:
            (values,) = results.values()
            found = classes_of(values, labels)
            return {"result": [[[each.label, each.score] for each in row] for row in found]}

        return self._examples(body, scores(self._model.manifest, labels), write)

    def _regress(self, body: dict[str, Any]) -> _Read:
        def write(results: Arrays) -> Any:
            (values,) = results.values()
            return {"result": numbers_of(values)}

        return self._examples(body, scalar(self._model.manifest), write)

    def _examples(
        self, body: dict[str, Any], output: TensorDecl, write: Callable[[Arrays], Any]
    ) -> _Read:
        found, context = body.get("examples"), body.get("context") or {}
        if not isinstance(found, list) or not all(
            isinstance(each, dict) for each in (context, *found)
        ):
            raise RequestError(
                "cannot read the request: wanted 'examples', a list of objects, found"
                f" {_listed(body)}"
            )
        examples = [_example({**context, **each}) for each in found]
        return given_examples(examples, self._signature), {output.name: output.name}, write


def _signature_name(body: Mapping[str, Any]) -> str:
    name = body.get("signature_name")
    if not isinstance(name, str | None):
        raise RequestError("cannot read the request: 'signature_name' is no text")
    return name or ""


def _listed(body: Mapping[str, Any]) -> str:
    """The members of a body, for errors. Those that nobody knows are passed over."""
    return ", ".join(f"{key[:40]!r}" for key in list(body)[:8]) or "nothing"


def _is_named(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() != {B64}


def _example(features: Mapping[str, Any]) -> Example:
    return {name: _values(value) for name, value in features.items()}


def _values(value: Any) -> Sequence[Any]:
    listed = value if isinstance(value, list) else [value]
    if not listed:
        return listed
    strings = [string_of(each) for each in listed[:1]]
    if strings[0] is None:
        return listed
    return [string_of(each) or b"" for each in listed]


def _rows(results: Arrays) -> Any:
    if len(results) == 1:
        (values,) = results.values()
        return {"predictions": values.tolist()}
    columns = {key: values.tolist() for key, values in results.items()}
    count = len(next(iter(columns.values())))
    return {
        "predictions": [
            {key: values[index] for key, values in columns.items()} for index in range(count)
        ]
    }


def _in_columns(results: Arrays) -> Any:
    if len(results) == 1:
        (values,) = results.values()
        return {"outputs": values.tolist()}
    return {"outputs": {key: values.tolist() for key, values in results.items()}}
