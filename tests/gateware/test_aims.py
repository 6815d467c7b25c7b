"""What is aimed at for whole networks on the gateware, from what a run found."""

from __future__ import annotations

from typing import Any

from gateware.run import aims


def result(**changes: Any) -> dict[str, Any]:
    """A run of ResNet-50 that meets every aim, but for *changes*."""
    layer = {"wrong": 0, "cycles": 1000, "modelled": 1010}
    return {
        "name": "resnet-50",
        "wrong": 0,
        "cycles": 1_900_000,
        "seconds": 10.0,
        "layers": [layer],
        **changes,
    }


def missed(**changes: Any) -> list[str]:
    return [
        aim.what.partition(": ")[2] or aim.what for aim in aims([result(**changes)]) if not aim.met
    ]


def test_aims_that_are_met_and_missed() -> None:
    assert missed() == []
    assert missed(wrong=1) == ["bytes of outputs and of 1 layers that differ"]
    layer = {"wrong": 3, "cycles": 1000, "modelled": 970}
    assert missed(layers=[layer]) == [
        "bytes of outputs and of 1 layers that differ",
        "cycles of each layer, model against count",
    ]
    assert missed(cycles=1_950_001) == ["cycles"]
    assert missed(seconds=121.0) == [
        "resnet-50 whole, processor time of the simulation",
        "speed of the simulation of the core, on one processor core",
    ]
