"""Files as people have them, from the file to the report: looked at, trained on, and a message at the end."""

from __future__ import annotations

import csv
import gzip
import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_secrets import leaks

from support.specs import spec
from support.sweeps import run_spec, write_spec
from support.tiny import tiny_model
from sweepft.data.view import view_data
from sweepft.driver.notify import VARIABLE
from sweepft.ledger import SweepState
from sweepft.spec import load

pytestmark = [pytest.mark.ray, pytest.mark.full]

N = 12
ADD = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}


def turns(i: int, file: str) -> list[dict[str, Any]]:
    return [
        {"role": "user", "content": f"{file}: what is {i} and {i}?"},
        {"role": "assistant", "content": f"It is {2 * i}."},
    ]


def jsonl(path: Path, rows: list[Any]) -> None:
    text = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)


def write_files(folder: Path) -> dict[str, dict[str, Any]]:
    """Twelve sources, and the format that each is to be read as."""
    import datasets

    asked = [f"{{}}: what is {i} and {i}?" for i in range(N)]
    jsonl(folder / "chat.jsonl", [{"messages": turns(i, "chat"), "domain": "sums"} for i in range(N)])
    with (folder / "chat.csv").open("w", newline="") as out:
        rows = csv.writer(out)
        rows.writerows([["messages"], *([json.dumps(turns(i, "cell"))] for i in range(N))])
    (folder / "sharegpt.json").write_text(json.dumps([
        {"conversations": [{"from": "human", "value": asked[i].format("share")}, {"from": "gpt", "value": str(2 * i)}],
         "system": "Be brief."}
        for i in range(N)
    ]))  # fmt: skip
    (folder / "alpaca.json").write_text("\ufeff" + json.dumps([
        {"instruction": asked[i].format("alpaca"), "input": "in words", "output": str(2 * i), "history": [["Hi", "Yes?"]]}
        for i in range(N)
    ]))  # fmt: skip
    pq.write_table(
        pa.table({"prompt": [a.format("pair") for a in asked], "completion": [str(2 * i) for i in range(N)]}),
        folder / "pairs.parquet",
    )
    (folder / "qa.csv").write_text(
        "ticket;reply\r\n" + "".join(f"{a.format('qa')};{2 * i}\r\n" for i, a in enumerate(asked))
    )
    jsonl(folder / "text.jsonl.gz", [{"text": a.format("text")} for a in asked])
    call = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1, "b": 2}'}}
    jsonl(folder / "tools.jsonl", [
        {"messages": [turns(i, "tools")[0], {"role": "assistant", "content": None, "tool_calls": [call], "weight": 0.5},
                      {"role": "tool", "tool_call_id": "c1", "content": "3"}, {"role": "assistant", "content": "3", "weight": 1},
                      {"role": "user", "content": "Sure?"}, {"role": "assistant", "content": "WRONG", "weight": 0}],
         "tools": [ADD]}
        for i in range(N)
    ])  # fmt: skip
    jsonl(folder / "thinks.jsonl", [
        {"messages": [turns(i, "thinks")[0], {**turns(i, "thinks")[1], "reasoning_content": f"{i} twice"}]}
        for i in range(N)
    ])  # fmt: skip
    (folder / "rows.tsv").write_text(
        "question\tanswer\n" + "".join(f"{a.format('tsv')}\tyes\n" for a in asked)
    )
    datasets.Dataset.from_list([{"messages": turns(i, "saved")} for i in range(N)]).save_to_disk(
        folder / "saved"
    )
    (folder / "many").mkdir()
    for part in range(2):
        jsonl(folder / "many" / f"part-{part}.jsonl", [
            {"dialog": [{"who": "customer", "says": f"{part} {i}"}, {"who": "agent", "says": "fine"}]} for i in range(N // 2)
        ])  # fmt: skip
    mapped = {"columns": {"messages": "dialog", "role": "who", "content": "says"},
              "roles": {"customer": "user", "agent": "assistant"}}  # fmt: skip
    sources: dict[str, dict[str, Any]] = {
        name: {} for name in ("chat.jsonl", "chat.csv", "sharegpt.json", "alpaca.json", "pairs.parquet")
    }
    sources |= {"qa.csv": {"columns": {"question": "ticket", "answer": "reply"}}}
    sources |= {name: {} for name in ("text.jsonl.gz", "tools.jsonl", "thinks.jsonl", "rows.tsv", "saved")}
    return sources | {"many/*.jsonl": mapped}


FORMATS = ("messages", "messages", "sharegpt", "alpaca", "prompt_completion", "question_answer", "text", "messages",
           "messages", "question_answer", "messages", "messages")  # fmt: skip


class Hook(BaseHTTPRequestHandler):
    """Keeps what it gets."""

    def do_POST(self) -> None:
        self.server.got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))  # type: ignore[attr-defined]
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


def test_twelve_files__are_read_looked_at_and_trained_on(
    ray_here: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "")  # restored at the end
    files = write_files(tmp_path)
    sources = [{"path": str(tmp_path / name), **keys} for name, keys in files.items()]
    base = tiny_model(tmp_path / "model", max_position_embeddings=512)
    model = {"path": str(base), "chat_template": "chatml"}
    jsonl(tmp_path / "held.jsonl", [{"question": "Really?", "answer": "Yes."}])
    held = [{"name": "held", "path": str(tmp_path / "held.jsonl")}]
    for source, wanted in zip(sources, FORMATS, strict=True):
        shown = view_data(
            spec({"model": model, "data.train": [source], "data.validation": held}),
            every=True,
        )
        assert list(shown["sources"][0]["formats"]) == [wanted], source
        assert shown["sets"][0]["kept"] == N, shown["sets"][0]["outcomes"]
    server = HTTPServer(("127.0.0.1", 0), Hook)
    server.got = []  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    secret = "services/T0/PLANTEDSECRET"
    try:
        file = write_spec(
            tmp_path, base, tmp_path / "chat.jsonl", model=model,
            data={"train": sources, "validation": [{"name": "own", "fraction": 0.1}], "max_length": 512},
            search={"trials": 2}, early_stop={"rule": "none"},
            notify={"webhook": f"http://127.0.0.1:{server.server_address[1]}/{secret}"},
        )  # fmt: skip
        done = run_spec(load(file), tmp_path / "run")
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert done.status == "finished"
    state = SweepState.load(tmp_path / "run")
    assert state.header["data"]["train"]["rows"] >= 10 * N
    [message] = server.got  # type: ignore[attr-defined]
    assert (message["status"], message["trials"]) == ("finished", {"completed": 2})
    assert message["winner"]["trial_id"] == state.leader.trial_id  # type: ignore[union-attr]
    assert leaks(tmp_path / "run", ["PLANTEDSECRET"]) == []
    assert state.spec["notify"] == {"webhook": "$SWEEPFT_WEBHOOK"}
