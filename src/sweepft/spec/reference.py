"""The tables of docs/reference/spec.md: every key of a spec with type, default and meaning, made from the models."""
# MERGED The JSON schema of a spec, for editors: completion, types and descriptions while one writes.

from __future__ import annotations

from typing import Any

from pydantic.fields import FieldInfo

from sweepft.spec.fields import Section, sections_in
from sweepft.spec.presets import PRESETS
from sweepft.spec.sweep import SWEEPABLE, SweepSpec

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
    search["start_with"]["items"] = {"anyOf": [search["start_with"]["items"], {"enum": list(PRESETS)}]}
    return schema


BEGIN = "<!-- reference: made by `python -m sweepft.spec docs/reference`, do not edit -->"


END = "<!-- end of reference -->"


_FORMS = {"WarmupSteps": "`{steps: N}`", "MicroTokens": "`{tokens: N}`"}


"""Sections so small that the row of their field tells all."""


def reference() -> str:
    """Markdown: one table a section, in the order of the file."""
    definitions = {"SweepSpec": json_schema(), **json_schema()["$defs"]}
    parts = [_table(SweepSpec, "", definitions)]
    parts += _below(SweepSpec, "", definitions)
    keys = ", ".join(f"`{key}`" for key in SWEEPABLE)
    parts.append(
        f"What can be swept, a field of `train` where nothing else is said: {keys}, `data.mixture.DOMAIN`."
    )
    return "\n\n".join(parts) + "\n"


def with_reference(page: str) -> str:
    """A page with what stands between the two marks made anew.

    Raises:
        ValueError: If the page lacks the marks.
    """
    before, mark, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not mark or not end:
        raise ValueError(f"the page needs the marks {BEGIN!r} and {END!r}")
    return f"{before}{BEGIN}\n\n{reference()}\n{END}{after}"


def _below(section: type[Section], prefix: str, definitions: dict[str, Any]) -> list[str]:
    parts = []
    for name, info in section.model_fields.items():
        for inner in sections_in(info.annotation):
            if inner.__name__ in _FORMS:  # told in its own row
                continue
            suffix = {"space": ".FIELD"}.get(
                name, "[]" if inner is not info.annotation and _many(info) else ""
            )
            path = f"{prefix}{name}{suffix}"
            parts += [_table(inner, path, definitions), *_below(inner, path + ".", definitions)]
    return parts


def _many(info: FieldInfo) -> bool:
    return "tuple" in str(info.annotation)


def _table(section: type[Section], path: str, definitions: dict[str, Any]) -> str:
    title = f"### `{path}`" if path else "### The file"
    about = " ".join((section.__doc__ or "").split())
    lines = [title, "", about, "", "| key | type | default | meaning |", "| --- | --- | --- | --- |"]
    properties = definitions[section.__name__]["properties"]
    for name, info in section.model_fields.items():
        meaning = " ".join((info.description or "").split()).replace("|", "\\|")
        default = "required" if info.is_required() else _default(info)
        lines.append(f"| `{name}` | {_type(properties[name])} | {default} | {meaning} |")
    return "\n".join(lines)


def _default(info: FieldInfo) -> str:
    value = info.default
    if value is None:
        return "none"
    if isinstance(value, Section):
        return "its defaults"
    if isinstance(value, tuple):
        value = list(value)
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _type(schema: dict[str, Any]) -> str:
    options = schema.get("anyOf") or schema.get("oneOf")
    if options:
        return " or ".join(_type(option) for option in options if option.get("type") != "null")
    if "enum" in schema or "const" in schema:
        return " or ".join(f"`{option}`" for option in schema.get("enum") or [schema["const"]])
    if "$ref" in schema:
        return _FORMS.get(schema["$ref"].rpartition("/")[2], "section")
    if schema.get("type") == "array":
        items = (schema.get("prefixItems") or [schema.get("items", {})])[0]
        return f"list of {_type(items)}" if items else "list"
    if schema.get("type") == "object":
        inner = schema["additionalProperties"]
        return f"mapping of fields to {_type(inner) if isinstance(inner, dict) else 'values'}"
    return _scalar(schema)


def _scalar(schema: dict[str, Any]) -> str:
    names = {"integer": "whole number", "number": "number", "boolean": "`true` or `false`", "string": "text"}
    name = names.get(schema["type"], schema["type"])
    bounds = {"exclusiveMinimum": ">", "minimum": "≥", "exclusiveMaximum": "<", "maximum": "≤"}
    limits = [f"{sign} {schema[key]:g}" for key, sign in bounds.items() if key in schema]
    return f"{name} {' and '.join(limits)}" if limits else name
