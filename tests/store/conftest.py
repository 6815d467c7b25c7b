"""Two small verified bundles; their model is no model, since the store never looks into it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from edged.bundle import (
    BundleFile,
    Digest,
    ElementType,
    FileName,
    Manifest,
    MediaType,
    TensorDecl,
    VerifiedBundle,
    Version,
)

MakeBundle = Callable[..., VerifiedBundle]


@pytest.fixture
def make_bundle(tmp_path: Path) -> MakeBundle:
    def make(name: str = "tiny", version: str = "1.0.0", serial: int = 1) -> VerifiedBundle:
        folder = tmp_path / f"bundle-{name}-{version}-{serial}"
        folder.mkdir()
        model = f"the model of {name} {version}".encode()
        (folder / "model.onnx").write_bytes(model)
        manifest = Manifest(
            name=name,
            version=Version.parse(version),
            serial=serial,
            inputs=(TensorDecl("x", ElementType.FLOAT32, (1, 4)),),
            outputs=(TensorDecl("y", ElementType.FLOAT32, (1, 4)),),
            files=(BundleFile(FileName.MODEL, MediaType.WEIGHT, Digest.of(model), len(model)),),
        )
        config = manifest.serialize()
        image = (
            '{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",'
            '"artifactType":"application/vnd.cncf.model.manifest.v1+json","config":{"mediaType":'
            f'"application/vnd.cncf.model.config.v1+json","digest":"{Digest.of(config)}",'
            f'"size":{len(config)}}},"layers":[]}}'
        ).encode()
        (folder / "manifest.json").write_bytes(config)
        (folder / "oci-manifest.json").write_bytes(image)
        return VerifiedBundle(digest=Digest.of(image), manifest=manifest, folder=folder)

    return make
