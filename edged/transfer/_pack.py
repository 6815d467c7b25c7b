"""The same network with another head, as a bundle."""

from __future__ import annotations

import tempfile
from pathlib import Path

from edged.bundle import Digest, FileName, VerifiedBundle, Version, pack
from edged.errors import InputError, ModelError
from edged.transfer._cut import model_with_head
from edged.transfer._features import Features
from edged.transfer._featurize import Progress, compile_for, load_model
from edged.transfer._head import Head

__all__ = ["pack_head"]


def pack_head(
    bundle: VerifiedBundle,
    features: Features,
    head: Head,
    *,
    name: str,
    version: Version | str,
    output: Path,
    progress: Progress,
) -> Digest:
    """Pack *bundle*'s network with *head*; preprocessing and calibration stay as they are.

    The new model is compiled to see that its program is the one that computed the features, byte
    for byte, before anything is written.

    Args:
        bundle: the one the features are from.
        output: the new bundle's path.

    Returns:
        The digest of the new bundle.

    Raises:
        InputError: the features are from another bundle, or do not fit the head.
        ModelError: the program is another one.
    """
    if features.bundle != bundle.digest:
        raise InputError(
            f"cannot use the features: they are from bundle {features.bundle}, this one is"
            f" {bundle.digest}; featurize with the same one"
        )
    if head.weights.shape[0] != features.values.shape[1]:
        raise InputError(
            f"cannot use the head: it wants {head.weights.shape[0]} features, there are"
            f" {features.values.shape[1]}"
        )
    model = model_with_head(load_model(bundle), features.tensor, head.weights, head.bias)
    found = compile_for(bundle, model, lambda done, step: progress(0.8 * done, step))
    if found.image.digest.hex() != features.program:
        raise ModelError(
            f"cannot pack: the device's program of the new model is {found.image.digest.hex()},"
            f" the features were computed by {features.program}; featurize again with this version"
            " of edged"
        )
    calibration = bundle.folder / FileName.CALIBRATION
    with tempfile.TemporaryDirectory(prefix="edged-head-") as folder:
        source, labels = Path(folder) / "model.onnx", Path(folder) / "labels.txt"
        source.write_bytes(model.SerializeToString(deterministic=True))
        labels.write_text("".join(f"{label}\n" for label in head.classes), encoding="utf-8")
        return pack(
            source,
            name=name,
            version=version,
            output=output,
            labels=labels,
            preprocess=bundle.manifest.preprocess,
            calibration=calibration if calibration.exists() else None,
            licence=bundle.manifest.licence,
            source_revision=bundle.manifest.source_revision,
            progress=lambda done, step: progress(0.8 + 0.2 * done, step),
        )
