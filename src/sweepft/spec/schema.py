"""The JSON schema of a spec, for editors: completion, types and descriptions while one writes.

Made from the models. What holds between sections is beyond a schema: ``sweepft validate`` knows it.
"""

from __future__ import annotations

from typing import Any

from sweepft.spec.settings import NAMED_SETTINGS
from sweepft.spec.sweep import SWEEPABLE, SweepSpec

__all__ = ["json_schema"]

_EXACTLY_ONE = {
    "Budget": ("samples", "tokens", "epochs"),
    "Dimension": ("choice", "uniform", "log_uniform", "int_uniform"),
}


def json_schema() -> dict[str, Any]:
    """A JSON schema (draft 2020-12) of the YAML file."""
    schema = SweepSpec.model_json_schema(mode="validation")
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "sweepft sweep"
    for name, definition in schema["$defs"].items():
        if name in _EXACTLY_ONE:
            definition["minProperties"] = definition["maxProperties"] = 1
        if name == "Dimension":
            definition["properties"]["choice"]["anyOf"][0]["minItems"] = 1
    schema["$defs"]["Limit"]["minProperties"] = 1
    search = schema["$defs"]["Search"]["properties"]
    weights = {"pattern": r"^data\.mixture\.[^.]+$"}
    search["space"]["propertyNames"] = {"anyOf": [{"enum": list(SWEEPABLE)}, weights]}
    search["start_with"]["items"] = {"anyOf": [search["start_with"]["items"], {"enum": list(NAMED_SETTINGS)}]}
    return schema
