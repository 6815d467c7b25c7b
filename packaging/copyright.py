"""Prints the package's copyright file: of edged, and of each Python package inside.

python packaging/copyright.py SITE_PACKAGES
"""

from __future__ import annotations

import sys
from importlib.metadata import Distribution, distributions

_HEAD = """\
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: edged
Source: https://github.com/edged/edged

Files: *
Copyright: The authors of edged
License: Apache-2.0

License: Apache-2.0
 On Debian systems, the text of this licence is in /usr/share/common-licenses/Apache-2.0.
"""


def main() -> None:
    packages = sys.argv[1]
    sys.stdout.write(_HEAD)
    found = distributions(path=[packages])
    for package in sorted(found, key=lambda package: package.metadata["Name"].lower()):
        if package.metadata["Name"] != "edged":
            sys.stdout.write(_stanza(package))


def _stanza(package: Distribution) -> str:
    metadata = package.metadata
    name, version = metadata["Name"], metadata["Version"]
    said = metadata.get("License-Expression") or _first_line(metadata.get("License"))
    classified = [
        text.split(" :: ")[-1]
        for text in metadata.get_all("Classifier") or ()
        if text.startswith("License :: ")
    ]
    licence = said or ", ".join(classified) or "see below"
    holder = metadata.get("Author") or metadata.get("Author-email") or f"The authors of {name}"
    files = [str(file) for file in metadata.get_all("License-File") or ()]
    folder = (
        f"/usr/lib/edged/lib/python3.*/site-packages/{name.replace('-', '_')}-{version}.dist-info"
    )
    where = f" Its terms are in {folder}{' (' + ', '.join(files) + ')' if files else ''}."
    return (
        f"\nFiles: usr/lib/edged/lib/*/site-packages/* (of {name} {version})\n"
        f"Copyright: {' '.join(holder.split())}\n"
        f"License: {licence}\n{where}\n"
    )


def _first_line(text: str | None) -> str:
    line = (text or "").strip().split("\n")[0]
    return line if len(line) <= 60 else ""


if __name__ == "__main__":
    main()
