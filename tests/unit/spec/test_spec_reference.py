"""The JSON schema and the spec's reference page: up to date, complete, and consistent with ``load``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from test_spec_laws import VARIANTS

from sweepft.spec import json_schema, load
from sweepft.spec.reference import with_reference

ROOT = Path(__file__).parents[3]


def test_schema__file_is_up_to_date() -> None:
    """Regenerate with ``python -m sweepft.spec docs/reference``."""
    assert json.loads((ROOT / "docs" / "reference" / "sweep.schema.json").read_text()) == json_schema()


def test_reference__page_is_up_to_date() -> None:
    """Regenerate with ``python -m sweepft.spec docs/reference``."""
    page = (ROOT / "docs" / "reference" / "spec.md").read_text()
    assert with_reference(page) == page


def test_schema__every_key_is_documented() -> None:
    schema = json_schema()
    for name, section in [("sweep", schema), *schema["$defs"].items()]:
        for key, field in section["properties"].items():
            assert field.get("description") or "$ref" in field, f"{name}.{key}"


def test_schema__accepts_what_load_accepts(place: Path) -> None:
    validator = jsonschema.Draft202012Validator(json_schema())
    validator.check_schema(json_schema())
    for overrides in VARIANTS:
        spec = load(place / "valid.yaml", overrides)
        validator.validate(spec.to_dict())
        validator.validate(spec.model_dump(mode="json", exclude_unset=True))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("train", "micro_bach"), 4),
        (("train", "micro_batch"), "4"),
        (("train", "micro_batch"), 0),
        (("train", "warmup"), 1.5),
        (("train", "warmup"), {"steps": -1}),
        (("train", "schedule"), "cosin"),
        (("train", "budget"), {}),
        (("train", "budget"), {"samples": 1, "tokens": 1}),
        (("search", "space"), {}),
        (("search", "space"), {"lr": {"choice": [1]}}),
        (("search", "space"), {"seed": {"choice": []}}),
        (("search", "space"), {"seed": {"choice": [1], "uniform": [0, 1]}}),
        (("search", "space"), {"learning_rate": {"log_uniform": [-1, 1]}}),
        (("search", "limit"), {}),
        (("data", "validation"), []),
    ],
)
def test_schema__refuses(path: tuple[str, str], value: Any, place: Path) -> None:
    data = load(place / "valid.yaml").to_dict()
    data[path[0]][path[1]] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(data, json_schema())


def test_reference__example_of_the_page_loads(place: Path) -> None:
    page = (ROOT / "docs" / "reference" / "spec.md").read_text()
    example = place / "example.yaml"
    example.write_text(page.partition("```yaml\n")[2].partition("```")[0])
    spec = load(example)
    assert spec.model.path == "org/name"
    assert spec.search.space["batch_size"].choices[-1] == 4096
