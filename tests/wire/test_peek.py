"""The look at the envelope finds what the parser finds, and survives what is no message."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged import wire
from edged.wire import inference


@given(st.text(max_size=40), st.none() | st.integers(0, 2**40), st.binary(max_size=2000))
def test_it_agrees_with_the_parser(name: str, version: int | None, content: bytes) -> None:
    request = wire.PredictRequest()
    request.inputs["x"].tensor_content = content
    request.model_spec.name = name
    if version is not None:
        request.model_spec.version.value = version
    found = wire.requested_model(wire.PREDICT, request.SerializeToString())
    assert found == wire.RequestedModel(name, str(version or ""))


@given(st.text(max_size=40), st.text(max_size=10), st.binary(max_size=2000))
def test_it_agrees_with_the_parser_of_the_other_protocol(
    name: str, version: str, content: bytes
) -> None:
    request = inference.ModelInferRequest(raw_input_contents=[content])
    request.model_name, request.model_version = name, version
    found = wire.requested_model(inference.MODEL_INFER, request.SerializeToString())
    assert found == wire.RequestedModel(name, version)


def test_a_label_is_a_version() -> None:
    request = wire.PredictRequest(model_spec={"name": "kws", "version_label": "1.2.0"})
    found = wire.requested_model(wire.PREDICT, request.SerializeToString())
    assert found == wire.RequestedModel("kws", "1.2.0")
    assert found.means("kws", "1.2.0", 3) and not found.means("kws", "1.2.1", 3)
    assert wire.RequestedModel("kws", "3").means("kws", "1.2.0", 3)


@given(st.binary(max_size=300))
def test_noise_names_something_or_nothing_but_never_fails(noise: bytes) -> None:
    wire.requested_model(wire.PREDICT, noise)
    wire.requested_model(inference.MODEL_INFER, noise)


@pytest.mark.parametrize("payload", [b"", b"\x0a", b"\x0a\xff\xff", b"\xff" * 20])
def test_what_is_cut_short_names_nothing(payload: bytes) -> None:
    assert wire.requested_model(wire.PREDICT, payload) == wire.RequestedModel()


def test_an_empty_spec_is_the_loaded_model() -> None:
    assert wire.requested_model(wire.PREDICT, wire.PredictRequest().SerializeToString()).name == ""
