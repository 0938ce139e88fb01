"""Read YAML as plain data and keep the place of every key: a line of the file, or an override.

Later checks refer to key paths such as ``("train", "seed")``; :meth:`Document.where` gives their places. YAML is read
as version 1.2 (``1e-3`` is a number, ``on`` is text). Duplicate keys, tags and merge keys are refused, and size,
nesting and aliases are limited.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from sweepft.errors import Problem, SpecError
from sweepft.files import open_named

KeyPath = tuple[str | int, ...]
MAX_BYTES: Final = 1 << 20
MAX_ALIASES: Final = 100
MAX_NODES: Final = 10_000
MAX_DEPTH: Final = 32
_PREFIX = "tag:yaml.org,2002:"
_FLOAT = re.compile(
    r"[-+]?(?:\.[0-9][0-9_]*|[0-9][0-9_]*\.[0-9_]*|[0-9][0-9_]*(?=[eE]))(?:[eE][-+]?[0-9]+)?$"
    r"|[-+]?\.(?:inf|Inf|INF)$|\.(?:nan|NaN|NAN)$"
)

_INT = re.compile(r"[-+]?[0-9][0-9_]*$")
_BOOL = re.compile(r"(?:true|True|TRUE|false|False|FALSE)$")
_NULL = re.compile(r"(?:~|null|Null|NULL|)$")
_SCALARS: Final[dict[str, Callable[[str], Any]]] = {
    "str": str,
    "null": lambda text: None,
    "bool": lambda text: text.lower() == "true",
    "int": lambda text: int(text.replace("_", "")),
    "float": lambda text: float(text.replace("_", "").lower().replace(".inf", "inf").replace(".nan", "nan")),
}


class _TooMuch(Exception):
    """The document breaks a limit: rule and remedy, and the line where it was noticed."""

    def __init__(self, rule: str, remedy: str, line: int | None = None) -> None:
        super().__init__(rule)
        self.rule, self.remedy, self.line = rule, remedy, line


class _Loader(yaml.SafeLoader):
    """Composes nodes with the scalar types of YAML 1.2; PyYAML constructs no objects.

    Limits are checked while it reads, as PyYAML's time grows with the square of the depth.
    """

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._nodes = self._aliases = self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """The next node; counts it."""
        line: int = self.peek_event().start_mark.line + 1  # type: ignore[no-untyped-call]
        self._nodes += 1
        self._aliases += self.check_event(yaml.AliasEvent)
        if self._nodes > MAX_NODES:
            raise _TooMuch(f"must not have more than {MAX_NODES} values", "write fewer values", line)
        if self._aliases > MAX_ALIASES:
            rule = f"must not use more than {MAX_ALIASES} aliases"
            raise _TooMuch(rule, "write the values out", line)
        if self._depth >= MAX_DEPTH:
            rule = f"is nested more than {MAX_DEPTH} levels deep"
            raise _TooMuch(rule, "a spec has about six levels", line)
        self._depth += 1
        node: yaml.Node | None = super().compose_node(parent, index)
        self._depth -= 1
        return node


_Loader.yaml_implicit_resolvers = {}  # otherwise PyYAML copies its parent's YAML 1.1 table


_Loader.add_implicit_resolver(_PREFIX + "null", _NULL, ["~", "n", "N", ""])


_Loader.add_implicit_resolver(_PREFIX + "bool", _BOOL, list("tTfF"))


_Loader.add_implicit_resolver(_PREFIX + "int", _INT, list("-+0123456789"))


_Loader.add_implicit_resolver(_PREFIX + "float", _FLOAT, list("-+0123456789."))


class _Dumper(yaml.SafeDumper):
    """Quotes strings that YAML 1.1 or this module's reader would read as another type."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Dumper.add_implicit_resolver(_PREFIX + "float", _FLOAT, list("-+0123456789."))


@dataclass
class Document:
    """Plain data with the place of each part.

    Attributes:
        name: File name as given by the user.
        data: Mappings, lists, strings, numbers, booleans and None.
        marks: Key path to ``file:line`` or ``--set key=value``.
    """

    name: str
    data: dict[str, Any] = field(default_factory=dict)
    marks: dict[KeyPath, str] = field(default_factory=dict)

    def where(self, path: KeyPath) -> str:
        """Place of ``path``, or of its nearest ancestor with a known place."""
        for end in range(len(path), -1, -1):
            if path[:end] in self.marks:
                return self.marks[path[:end]]
        return self.name

    def override(self, texts: Sequence[str], is_one_key: Callable[[str], bool]) -> list[Problem]:
        """Apply ``key.path=value`` strings in order and return the problems; a null value removes the key.

        Args:
            texts: Values are YAML. Numbers in the key path index lists.
            is_one_key: Whether a dotted string is a single key of a search space (``optimizer.weight_decay``).
        """
        found = [_override(self, text, is_one_key) for text in texts]
        return [problem for problem in found if problem is not None]


def dotted(path: KeyPath) -> str:
    """``("data", "train", 0)`` as ``data.train.0``; the empty path as ``spec``."""
    return ".".join(str(part) for part in path) or "spec"


def key_path(key: str) -> KeyPath:
    """The inverse of `dotted`, for keys without dots in their names."""
    return tuple(int(part) if part.isdigit() else part for part in key.split("."))


def read(path: Path, name: str) -> Document:
    """Read a YAML file of at most 1 MiB.

    Raises:
        SpecError: If it cannot be read, is not a single YAML mapping, or has duplicate keys, tags or merge keys.
    """
    try:
        with open_named(path) as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        reason = error.strerror or str(error)
        raise SpecError(
            [Problem(name, "spec", f"cannot be read: {reason}", "name an existing YAML file")]
        ) from None
    if len(raw) > MAX_BYTES:
        remedy = "move data into separate files and name them in the spec"
        raise SpecError([Problem(name, "spec", f"must not be larger than {MAX_BYTES} bytes", remedy)])
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise SpecError(
            [Problem(f"{name}:{line}", "spec", "must be UTF-8 text", "save the file as UTF-8")]
        ) from None
    document, problems = _parse(text, name)
    if not problems and not isinstance(document.data, dict):
        remedy = "write `name: ...`, `model: ...`, `data: ...` and so on; see docs/reference/spec.md"
        problems = [Problem(document.where(()), "spec", "must be a mapping of keys", remedy)]
    if problems:
        raise SpecError(problems)
    return document


def read_value(text: str) -> Any:
    """Read a single YAML value, with the same limits as a file.

    Raises:
        ValueError: If it is not valid YAML.
    """
    document, problems = _parse(text, "value")
    if problems:
        raise ValueError(problems[0].rule)
    return document.data if text.strip() else ""


def to_yaml(data: Mapping[str, Any]) -> str:
    """Plain data as YAML; :func:`read` gives equal data."""
    # ASCII only: PyYAML reads some Unicode line breaks that it wrote as blanks.
    text: str = yaml.dump(dict(data), Dumper=_Dumper, sort_keys=False, width=100)
    return text


def _parse(text: str, name: str) -> tuple[Document, list[Problem]]:
    document = Document(name)
    try:
        node = yaml.compose(text, Loader=_Loader)
        builder = _Builder(name, document.marks)
        document.data = builder.build(node, (), ()) if node is not None else {}
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = name if mark is None else f"{name}:{mark.line + 1}"
        reason = " ".join(part for part in (error.context, error.problem) if part)
        remedy = "check indentation, colons, brackets and quotes on that line"
        return document, [Problem(where, "spec", f"is not valid YAML: {reason}", remedy)]
    except yaml.YAMLError as error:
        rule = f"is not valid YAML: {str(error).splitlines()[0]}"
        return document, [Problem(name, "spec", rule, "remove the control characters")]
    except _TooMuch as error:
        where = name if error.line is None else f"{name}:{error.line}"
        return document, [Problem(where, "spec", error.rule, error.remedy)]
    return document, builder.problems


class _Builder:
    """Converts composed nodes to plain data and expands aliases."""

    def __init__(self, name: str, marks: dict[KeyPath, str]) -> None:
        self.name = name
        self.marks = marks
        self.problems: list[Problem] = []
        self.nodes = 0

    def build(self, node: yaml.Node, path: KeyPath, above: tuple[int, ...]) -> Any:
        """Data of ``node``; ``above`` holds the ids of its ancestors, to detect aliases that contain themselves."""
        self.nodes += 1
        if self.nodes > MAX_NODES:
            raise _TooMuch(
                f"must not expand to more than {MAX_NODES} values", "write fewer values or aliases"
            )
        self.marks.setdefault(path, f"{self.name}:{node.start_mark.line + 1}")
        if id(node) in above:
            self.problem(path, "must not contain itself through an alias", "write the value out")
            return None
        if isinstance(node, yaml.MappingNode) and node.tag == _PREFIX + "map":
            return self.mapping(node, path, (*above, id(node)))
        if isinstance(node, yaml.SequenceNode) and node.tag == _PREFIX + "seq":
            inside = (*above, id(node))
            return [self.build(child, (*path, i), inside) for i, child in enumerate(node.value)]
        if isinstance(node, yaml.ScalarNode):
            return self.scalar(node, path)
        self.problem(path, f"must not have the tag {node.tag}", "remove the tag")
        return None

    def mapping(self, node: yaml.MappingNode, path: KeyPath, above: tuple[int, ...]) -> dict[str, Any]:
        data: dict[str, Any] = {}
        for key_node, child in node.value:
            here = f"{self.name}:{key_node.start_mark.line + 1}"
            key = key_node.value
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag != _PREFIX + "str":
                self.problems.append(
                    Problem(here, dotted(path), "keys must be strings", "quote the key", key)
                )
                continue
            if key == "<<" and key_node.style is None:  # a quoted "<<" is an ordinary key
                remedy = "write the keys out, or use an alias for the whole value"
                self.problems.append(Problem(here, dotted(path), "merge keys are not supported", remedy))
                continue
            if key in data:
                first = self.marks[(*path, key)]
                rule, remedy = "is given twice", f"remove one of them; the first is at {first}"
                self.problems.append(Problem(here, dotted((*path, key)), rule, remedy))
                continue
            self.marks[(*path, key)] = here
            data[key] = self.build(child, (*path, key), above)
        return data

    def scalar(self, node: yaml.ScalarNode, path: KeyPath) -> Any:
        read = _SCALARS.get(node.tag.removeprefix(_PREFIX))
        if read is None:
            self.problem(path, f"must not have the tag {node.tag}", "remove the tag")
            return None
        try:
            return read(node.value)
        except ValueError:
            self.problem(
                path, "cannot be read as the type of its tag or digits", "write a plain value", node.value
            )
            return None

    def problem(self, path: KeyPath, rule: str, remedy: str, value: Any = None) -> None:
        self.problems.append(Problem(self.marks[path], dotted(path), rule, remedy, value))


def _override(document: Document, text: str, is_one_key: Callable[[str], bool]) -> Problem | None:
    where = f"--set {text}"
    key, equals, raw = text.partition("=")
    key = key.strip()
    if not equals or not key or not all(key.split(".")):
        rule = "must have the form key.path=value"
        return Problem(where, key or "--set", rule, "for example --set train.budget.samples=200")
    if key.count(".") >= MAX_DEPTH:
        return Problem(
            where[:200], key[:80], f"must not have more than {MAX_DEPTH} parts", "name a key of the spec"
        )
    parsed, problems = _parse(raw, where)
    if problems:
        first = problems[0]
        return Problem(where, key, first.rule, "quote the value for YAML and for the shell", raw)
    value: Any = parsed.data if raw.strip() else ""
    here: Any = document.data
    path: KeyPath = ()
    steps = list(_steps(document.data, key.split("."), is_one_key))
    for i, step in enumerate(steps):
        last = i == len(steps) - 1
        if isinstance(here, list):
            if not _is_index(step) or int(step) > len(here):
                rule = f"must be an index of {dotted(path)}: 0 to {len(here)}"
                return Problem(where, key, rule, f"the list has {len(here)} entries", step)
            if last and value is None:
                return Problem(
                    where, key, "cannot be removed from its list", f"set the whole list {dotted(path)}"
                )
            index = int(step)
            if index == len(here):
                here.append({})
            part: str | int = index
        elif isinstance(here, dict):
            part = step
        else:
            rule = f"cannot be set: {dotted(path)} is a value, not a mapping"
            return Problem(where, key, rule, f"set {dotted(path)} itself", here)
        parent, path = here, (*path, part)
        if not last:
            child = here.get(part) if isinstance(here, dict) else here[part]
            if child is None:
                child = here[part] = {}
            here = child
    _set(document, parent, path, value, where)
    return None


def _is_index(step: str) -> bool:
    return step.isascii() and step.isdecimal() and len(step) <= 6


def _set(document: Document, parent: Any, path: KeyPath, value: Any, where: str) -> None:
    """Set ``path``, a key of ``parent``, to ``value`` and drop the places of what was below it."""
    for old in [mark for mark in document.marks if mark[: len(path)] == path]:
        del document.marks[old]
    if value is None:  # null means "not given" throughout the spec
        parent.pop(path[-1], None)
    else:
        parent[path[-1]] = value
    document.marks[path] = where


def _steps(data: Any, parts: Sequence[str], is_one_key: Callable[[str], bool]) -> Iterator[str]:
    """Split a dotted key into steps, but keep dotted keys of the search space together."""
    in_search = list(parts[:2]) in (["search", "space"], ["search", "start_with"], ["search", "baseline"])
    i = 0
    while i < len(parts):
        take = 1
        if in_search and i >= 2:
            for end in range(len(parts), i + 1, -1):
                joined = ".".join(parts[i:end])
                if is_one_key(joined) or (isinstance(data, dict) and joined in data):
                    take = end - i
                    break
        step = ".".join(parts[i : i + take])
        yield step
        if isinstance(data, dict):
            data = data.get(step)
        elif isinstance(data, list):
            data = data[int(step)] if _is_index(step) and int(step) < len(data) else None
        i += take
