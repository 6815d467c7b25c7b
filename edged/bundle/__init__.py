"""A bundle: one model, ready to be verified and deployed.

On disk it is an OCI image layout in one tar, with ModelPack's media types. `pack` makes one from an
ONNX file; `verify_bundle` turns a file that anyone may have written into a `VerifiedBundle`.
"""

from edged.bundle._arrays import MAX_ARRAYS_BYTES, read_arrays, serialize_arrays
from edged.bundle._bare import pack_bare
from edged.bundle._digest import Digest
from edged.bundle._judge import Judge
from edged.bundle._labels import parse_labels
from edged.bundle._layout import config_digest
from edged.bundle._manifest import (
    BundleFile,
    ElementType,
    FileName,
    Manifest,
    MediaType,
    Requirements,
    SelfTest,
    TensorDecl,
)
from edged.bundle._pack import (
    MAX_SAMPLES,
    SUFFIX,
    bundle_name,
    check_order,
    check_output,
    pack,
)
from edged.bundle._samples import check_arrays, evenly_spaced, photographs, read_photograph
from edged.bundle._state import State, StatePair
from edged.bundle._verify import (
    MANIFEST_NAME,
    MAX_BUNDLE_BYTES,
    OCI_MANIFEST_NAME,
    VerifiedBundle,
    verify_bundle,
)
from edged.bundle._version import Version

__all__ = [
    "MANIFEST_NAME",
    "MAX_ARRAYS_BYTES",
    "MAX_BUNDLE_BYTES",
    "MAX_SAMPLES",
    "OCI_MANIFEST_NAME",
    "SUFFIX",
    "BundleFile",
    "Digest",
    "ElementType",
    "FileName",
    "Judge",
    "Manifest",
    "MediaType",
    "Requirements",
    "SelfTest",
    "State",
    "StatePair",
    "TensorDecl",
    "VerifiedBundle",
    "Version",
    "bundle_name",
    "check_arrays",
    "check_order",
    "check_output",
    "config_digest",
    "evenly_spaced",
    "pack",
    "pack_bare",
    "parse_labels",
    "photographs",
    "read_arrays",
    "read_photograph",
    "serialize_arrays",
    "verify_bundle",
]
