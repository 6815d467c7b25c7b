"""Two small verified bundles; their model is no model, since the store never looks into it."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
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

SCHEMA_1 = """
CREATE TABLE bundles (
    digest TEXT PRIMARY KEY,
    added REAL NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    set_aside TEXT
) STRICT;
CREATE TABLE commits (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    digest TEXT NOT NULL REFERENCES bundles (digest),
    at REAL NOT NULL
) STRICT;
PRAGMA user_version = 1;
"""


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


@pytest.fixture
def schema_1() -> Callable[[Path], None]:
    """Turns the catalogue of a closed store into one as the first edged wrote it."""

    def rewrite(root: Path) -> None:
        path = root / "catalogue.db"
        with closing(sqlite3.connect(path)) as db:
            bundles = db.execute("SELECT digest, added, attempts, set_aside FROM bundles")
            rows = bundles.fetchall()
            commits = db.execute("SELECT id, digest, at FROM commits").fetchall()
        for file in root.glob("catalogue.db*"):
            file.unlink()
        with closing(sqlite3.connect(path)) as db:
            db.executescript(SCHEMA_1)
            db.executemany("INSERT INTO bundles VALUES (?, ?, ?, ?)", rows)
            db.executemany("INSERT INTO commits VALUES (?, ?, ?)", commits)
            db.commit()

    return rewrite
