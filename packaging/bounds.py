"""The versions that edged admits, from pyproject.toml, and whether they are those that were run.

    bounds.py oldest    print the oldest admitted version of each dependency, for pip
    bounds.py check     print what is installed here beside what is admitted; fail where it is not
                        of the newest series admitted

The lower bounds are run by `make test-oldest`, the upper ones by `make test`, for which pip takes
the newest that is admitted. An upper bound is the series behind the newest that was run: what comes
out afterwards is not installed by anybody before it was run here. Raising one takes `make clean`,
`make test`, and a look at what changed.
"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

PROJECT = Path(__file__).parents[1] / "pyproject.toml"

CAPPED = frozenset({"grpcio", "numpy", "onnx", "onnxruntime", "pillow", "protobuf"})
"""What is taken for a model, and what it answers, depends on these: each has an upper bound."""


def requirements() -> Iterator[Requirement]:
    """What edged itself depends on."""
    with PROJECT.open("rb") as file:
        project = tomllib.load(file)["project"]
    return map(Requirement, project["dependencies"])


def bound(requirement: Requirement, operator: str) -> str | None:
    """The version behind *operator*."""
    found = (spec.version for spec in requirement.specifier if spec.operator == operator)
    return next(found, None)


def oldest() -> None:
    """Print the pins."""
    for requirement in requirements():
        sys.stdout.write(f"{requirement.name}=={bound(requirement, '>=')}\n")


def check() -> int:
    """Print the table; 1 if the newest admitted series of a capped dependency is not installed."""
    wrong = []
    for requirement in requirements():
        installed, limit = Version(version(requirement.name)), bound(requirement, "<")
        sys.stdout.write(f"{requirement.name:25} {requirement.specifier!s:18} {installed}\n")
        if limit is None and requirement.name in CAPPED:
            wrong.append(f"{requirement.name} has none")
        if limit is not None and not _just_below(installed, Version(limit)):
            wrong.append(f"{requirement.name} {installed} is not of the series below {limit}")
    if wrong:
        sys.stderr.write(
            "cannot vouch for the upper bounds in pyproject.toml: " + "; ".join(wrong) + ". Make"
            " the environment anew (make clean), or set the bounds to what was run\n"
        )
    return int(bool(wrong))


def _just_below(installed: Version, limit: Version) -> bool:
    """Whether *installed* is of the major or minor series right before *limit*."""
    if limit.minor:
        return (installed.major, installed.minor) == (limit.major, limit.minor - 1)
    return installed.major == limit.major - 1


if __name__ == "__main__":
    if sys.argv[1:] == ["oldest"]:
        oldest()
    elif sys.argv[1:] == ["check"]:
        sys.exit(check())
    else:
        sys.exit(__doc__)
