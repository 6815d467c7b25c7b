"""The zoo's SSD-VGG-300 is the network that is decoded here."""

from __future__ import annotations

import pytest

from edged.detection import SSD_300, SSD_300_PAPER, FeatureMap, check_outputs, priors
from edged.zoo import NETWORKS


@pytest.mark.parametrize(
    ("variant", "maps", "boxes"),
    [("service", SSD_300, 8432), ("paper", SSD_300_PAPER, 8732)],
)
def test_names_shapes_and_number_of_boxes(
    variant: str, maps: tuple[FeatureMap, ...], boxes: int
) -> None:
    outputs = NETWORKS["ssd-vgg-300"].skeleton(variant=variant).outputs
    assert check_outputs({name: (None, *shape) for name, shape in outputs.items()}) == maps
    assert len(priors(maps)) == boxes
