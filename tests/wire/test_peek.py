"""The look at the envelope finds what the parser finds, and survives what is no message."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged import wire


@given(st.text(max_size=40), st.none() | st.integers(0, 2**40), st.binary(max_size=2000))
def test_it_agrees_with_the_parser(name: str, version: int | None, content: bytes) -> None:
    request = wire.PredictRequest()
    request.inputs["x"].tensor_content = content
    request.model_spec.name = name
    if version is not None:
        request.model_spec.version.value = version
    found = wire.requested_model(request.SerializeToString())
    assert found.name == name
    assert (found.version or 0) == (version or 0)


@given(st.binary(max_size=300))
def test_noise_names_something_or_nothing_but_never_fails(noise: bytes) -> None:
    wire.requested_model(noise)


@pytest.mark.parametrize("payload", [b"", b"\x0a", b"\x0a\xff\xff", b"\xff" * 20])
def test_what_is_cut_short_names_nothing(payload: bytes) -> None:
    assert wire.requested_model(payload) == wire.RequestedModel()


def test_an_empty_spec_is_the_loaded_model() -> None:
    assert wire.requested_model(wire.PredictRequest().SerializeToString()).name == ""
