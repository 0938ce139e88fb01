"""Everything that sweepft writes goes through `sweepft.files`, and all JSON that it reads through one bounded reader.

What libraries write themselves is listed here.
"""

from __future__ import annotations

import ast
from pathlib import Path

import sweepft

PACKAGE = Path(sweepft.__file__).parent

# Module: calls that may stay there, and why.
ALLOWED = {
    "files.py": None,  # the functions themselves
    "output.py": {"os.open"},  # the null device, in place of a closed standard stream
    "data/cache.py": {"mkdir", "open"},  # arrays written piece by piece into a fresh folder of a random name
    "data/tokenizer.py": {"copyfile"},  # the same, by transformers
    "training/base_weights.py": {"save_file"},  # by safetensors, under the lock of a private folder
    "training/checkpoint.py": {"open"},  # a short write, to measure it
    "training/checkpoint_writer.py": {"open"},  # several ranks write their shards into one folder
    "training/export.py": {"copyfile", "copytree", "save_pretrained"},
    "training/lora.py": {"save_file"},
    "training/exported_config.py": {"save_pretrained"},
    "training/heartbeat.py": {
        "mkstemp",
        "open",
    },  # a file of a random name in memory, mapped by its one reader
    "export/write.py": {"link", "symlink_to"},  # best/ holds links to regular files of weights/
}
NAMES = {"write_text", "write_bytes", "touch", "symlink_to", "hardlink_to", "link", "copyfile", "copytree", "copy2",
         "mkstemp", "NamedTemporaryFile", "save_file"}  # fmt: skip


def writes(source: str) -> set[str]:
    """The calls in a module that create or change files."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        called = node.func
        name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
        texts = [a.value for a in ast.walk(node) if isinstance(a, ast.Constant) and isinstance(a.value, str)]
        if name in NAMES:
            found.add(name)
        elif name == "open" and isinstance(called, ast.Attribute) and getattr(called.value, "id", "") == "os":
            found.add("os.open")
        elif name == "open" and any(set(t) <= set("rwaxbt+") and set(t) & set("wax+") for t in texts):
            found.add("open")
    return found


def test_writes__go_through_the_functions_of_files() -> None:
    strange = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        allowed = ALLOWED.get(name, set())
        if allowed is not None and (left := writes(path.read_text(encoding="utf-8")) - allowed):
            strange[name] = left
    assert not strange


def test_writes__the_test_finds_them() -> None:
    assert writes("p.write_text('x')") == {"write_text"}
    assert writes("with p.open('ab') as f: pass") == writes("open(p, mode='w')") == {"open"}
    assert writes("os.open(p, os.O_WRONLY)") == {"os.open"}
    assert writes("open(p)\np.open('rb')\nopen_to_read(p)") == set()


READS_ITS_OWN = {"bounded_json.py", "search/study.py", "training/trainer.py", "data/encode.py"}


def test_json__is_read_by_the_bounded_reader() -> None:
    found = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and node.attr in ("load", "loads")
        if isinstance(node.value, ast.Name) and node.value.id == "json"
    }
    assert found <= READS_ITS_OWN
