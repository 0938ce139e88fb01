"""No lower bound and no pin admits a version with a vulnerability that advisories.toml lists; `make audit` runs this."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
ADVISORIES = tomllib.loads((ROOT / "advisories.toml").read_text())["advisory"]


def floors(package: str) -> list[Version]:
    """The lower bounds of a package in pyproject.toml; 0 where there is none."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    texts = [
        *project["dependencies"],
        *(t for extra in project["optional-dependencies"].values() for t in extra),
    ]
    found = [r for r in map(Requirement, texts) if canonicalize_name(r.name) == package]
    return [
        max((Version(s.version) for s in r.specifier if s.operator in (">=", "==")), default=Version("0"))
        for r in found
    ]


def pins(package: str) -> list[Version]:
    """The versions of a package in constraints.txt."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    found = [
        Requirement(line.split(" #")[0])
        for line in lines
        if "==" in line and not line.startswith(("#", " ", "-"))
    ]
    return [Version(s.version) for r in found if canonicalize_name(r.name) == package for s in r.specifier]


@pytest.mark.parametrize("advisory", ADVISORIES, ids=lambda a: a["id"])
def test_advisories__no_floor_and_no_pin_is_vulnerable(advisory: dict[str, str]) -> None:
    package, fixed = canonicalize_name(advisory["package"]), Version(advisory["fixed"])
    assert floors(package), "a dependency of sweepft"
    assert min([*floors(package), *pins(package)]) >= fixed
    assert advisory["source"].startswith("https://")
