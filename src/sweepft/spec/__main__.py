"""``python -m sweepft.spec FOLDER`` regenerates ``sweep.schema.json`` and the tables of ``spec.md`` in a docs
folder.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from sweepft.files import write_output
from sweepft.spec.reference import json_schema, with_reference


def _main(docs: Path) -> None:
    schema = json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"
    write_output(docs / "sweep.schema.json", schema)
    page = docs / "spec.md"
    write_output(page, with_reference(page.read_text(encoding="utf-8")))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m sweepft.spec FOLDER")
    _main(Path(sys.argv[1]))
