"""A folder of harness tasks over a handful of made-up items: one of choices, one of generation, and a group of both."""

from __future__ import annotations

import json
from pathlib import Path

_CHOICE = """\
task: tiny_choice
dataset_path: json
dataset_kwargs: {data_files: {test: data/items.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: answer
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: acc_norm, aggregation: mean, higher_is_better: true}
"""

_WORDS = """\
task: tiny_words
dataset_path: json
dataset_kwargs: {data_files: {test: data/items.jsonl}}
test_split: test
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{choices[answer]}}"
generation_kwargs: {until: ["\\n"], do_sample: false, max_gen_toks: 6}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true, ignore_case: true}
filter_list:
  - {name: strict, filter: [{function: take_first}]}
  - name: first-letter
    filter:
      - {function: regex, regex_pattern: "([A-Za-z])"}
      - {function: take_first}
"""

_GROUP = """\
group: tiny_group
task: [tiny_choice, tiny_words]
"""


def task_folder(folder: Path, items: int = 10) -> Path:
    """Write ``tiny_choice``, ``tiny_words`` and ``tiny_group``; returns the folder, for ``include_path``."""
    (folder / "data").mkdir(parents=True, exist_ok=True)
    words = ["red", "blue", "green", "a much longer colour", "black"]
    rows = [
        {
            "question": f"Which colour comes {i} times, and is not {words[i % 3]}?",
            "choices": [words[i % 5], words[(i + 1) % 5], words[(i + 3) % 5]],
            "answer": i % 3,
        }
        for i in range(items)
    ]
    (folder / "data" / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, text in (("choice", _CHOICE), ("words", _WORDS), ("group", _GROUP)):
        (folder / f"{name}.yaml").write_text(text)
    return folder
