"""Secrets are removed from text, and similar-looking text is kept."""

from __future__ import annotations

import base64
import json
import logging
import os
import urllib.parse
from pathlib import Path

import pytest

from support.errors import raises
from support.specs import spec_dict
from sweepft import redact as redact_module
from sweepft.errors import SpecError
from sweepft.ledger import Ledger, ledger_path, read_ledger
from sweepft.redact import REDACTED, RedactingFormatter, redact, redact_files, secret_in
from sweepft.spec import dump, from_dict, load

TOKEN = "hf_" + "Q7xPplantedplanted9Zk"
RANDOM = "Q7xPplantedplanted9ZkAbCdEf01"  # of no service
BASIC = base64.b64encode(b"ada:lovelace").decode()
PEM = "-----BEGIN RSA PRIVATE KEY-----\nMIIEplanted\nplanted\n-----END RSA PRIVATE KEY-----"

SECRETS = {  # text: what stays
    f"--set a={TOKEN} --out x": f"--set a={REDACTED} --out x",
    "key sk-" + "proj-abcdefgh12345678 used": f"key {REDACTED} used",
    "ghp_" + "a" * 36: REDACTED,
    "AKIA" + "A1B2C3D4E5F6G7H8": REDACTED,
    f"my_hf_{RANDOM}": f"my_{REDACTED}",
    **{
        prefix + RANDOM: REDACTED
        for prefix in (
            "api_org_", "gsk_", "nvapi-", "r8_", "npm_", "pypi-AgEI", "dckr_pat_", "sk_live_", "ya29.", "wandb_v1_",
            "glpat-", "github_pat_", "xoxb-", "AIza", "sk-ant-api03-",
        )
    },
    "https://ada:pass@host/org/x": f"https://{REDACTED}@host/org/x",
    "https://ada:p@ss/w@host/x": f"https://{REDACTED}@host/x",
    "GET https://bare-token@host/api failed": f"GET https://{REDACTED}@host/api failed",
    "https://hooks.slack.com/services/T0/B0/X0": REDACTED,
    "Authorization: Bearer abcdefghijkl.mnop": f"Authorization: Bearer {REDACTED}",
    "sent bearer abcdefghijkl.mnop": f"sent bearer {REDACTED}",
    f"sent Basic {BASIC} to": f"sent Basic {REDACTED} to",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.c2ln": REDACTED,
    f"read {PEM}.": f"read {REDACTED}.",
    repr(PEM): f"'{REDACTED}'",
    "WANDB_API_KEY=0123456789abcdef rest": f"WANDB_API_KEY={REDACTED} rest",
    "?api_key=abc&x=1": f"?api_key={REDACTED}&x=1",
    "password = hunter2, then": f"password = {REDACTED}, then",
    'api_key="a b"': f'api_key="{REDACTED}"',
    "password='hunter2'": f"password='{REDACTED}'",
    '{"api_key": "abc", "x": 1}': '{"api_key": "' + REDACTED + '", "x": 1}',
    '{\\"apiKey\\": \\"abc\\"}': '{\\"apiKey\\": \\"' + REDACTED + '\\"}',
    'api_key="cut off': f'api_key="{REDACTED} off',
    "password: hunter2": f"password: {REDACTED}",
    "  password: correcthorse\n": f"  password: {REDACTED}\n",
    "--hf-token abcdefgh1 --x": f"--hf-token {REDACTED} --x",
    "x-api-key: abcd1234": f"x-api-key: {REDACTED}",
    "PGPASSWORD=sesame psql": f"PGPASSWORD={REDACTED} psql",
    "DEEPSEEK_KEY: abc123def": f"DEEPSEEK_KEY: {REDACTED}",
    "https://x.blob/?sv=1&sig=ab%2Fcd&se=2": f"https://x.blob/?sv=1&sig={REDACTED}&se=2",
    "AccountName=a;AccountKey=abc12==;E=x": f"AccountName=a;AccountKey={REDACTED};E=x",
    "?X-Amz-Signature=abcdef01&x=1": f"?X-Amz-Signature={REDACTED}&x=1",
    "postgresql://h/db?user=u&password=sesame": f"postgresql://h/db?user=u&password={REDACTED}",
}  # fmt: skip


@pytest.mark.parametrize(("text", "clean"), SECRETS.items())
def test_redact__removes_secrets(text: str, clean: str) -> None:
    assert redact(text) == clean
    assert redact(clean) == clean
    assert secret_in(text)


def test_redact__keeps_what_is_no_secret() -> None:
    for text in (
        "", "max_tokens=4096 tokens_seen=3", "sk-learn", "hf_hub", "learning_rate=2e-05", "https://host/a@b",
        "path/to/token.json", "scheduler=asha p_top=0.03", "git@host:org/repo", "data/n_token=512/skills.jsonl",
        "eos_token=</s> pad_token=0", "eos_token='<|im_end|>'", "KeyError: 'train'", "http://127.0.0.1:8265/x@y",
        "hf_datasets_processing", "sk-learn-pipeline-2024-model", "primary_key: id", "token: expected a comma",
        "password: must not be empty", "PWD=/tmp", "GOOGLE_APPLICATION_CREDENTIALS=/etc/x.json", "api_key=None",
        "api_key=$OPENAI_KEY", "Bearer authentication failed", "basic configuration of things",
        "postgresql://user@host/db", "key_env: JUDGE_KEY", "seconds_per_token=0.01",
        "commit 0123456789abcdef0123456789abcdef01234567", "s3://bucket/a?endpoint_override=127.0.0.1:9000",
    ):  # fmt: skip
        assert redact(text) == text
        assert secret_in(text) is None


def test_redact__removes_values_of_secret_variables_in_every_form(monkeypatch: pytest.MonkeyPatch) -> None:
    planted = {
        "OPENAI_KEY": "without-any-shape", "PGPASSWORD": "wört/with space", "MYSQL_PWD": "mysqlvalue",
        "AWS_SECRET_ACCESS_KEY": "/" + "b4" * 19 + "Q", "HF_TOKEN_2": "second value", "GIT_PAT": "patpatpat",
        "MY_PASSPHRASE": "line one\nanother line of the same secret\n'\"\\", "SLACK_WEBHOOK_URL": "hook-value",
    }  # fmt: skip
    public = {"GOOGLE_CREDENTIALS": "/etc/some/file", "X_TOKEN": "shrt", "TOKENIZERS": "public-value",
              "KEYBOARD": "international", "RAY_AUTH_MODE": "tokentoken"}  # fmt: skip
    for name, value in (planted | public).items():
        monkeypatch.setenv(name, value)
    for value in planted.values():
        for form in (
            value, repr(value), json.dumps(value), urllib.parse.quote(value), urllib.parse.quote_plus(value),
            base64.b64encode(value.encode()).decode(), base64.urlsafe_b64encode(value.encode()).decode(),
        ):  # fmt: skip
            assert REDACTED in redact(f"a {form} b"), form
    for user in ("a:", "us:", "ada:"):  # as Basic authorization has it, at any of three offsets
        coded = base64.b64encode(f"{user}without-any-shape".encode()).decode()
        assert REDACTED in redact(f"> {coded}")
    assert redact("x another line of the same secret y") == f"x {REDACTED} y"
    for value in public.values():
        assert redact(value) == value


def test_formatter__redacts_log_lines_and_tracebacks() -> None:
    try:
        raise ValueError(f"401 for {TOKEN}")
    except ValueError as error:
        record = logging.LogRecord(
            "x", 40, "f", 1, "with %s", (TOKEN,), (type(error), error, error.__traceback__)
        )
    line = RedactingFormatter().format(record)
    assert TOKEN not in line
    assert "401 for" in line


PATH = "/data/n_token=512/secret=Santa1/rows.jsonl"


def test_ledger__only_free_text_is_redacted(tmp_path: Path) -> None:
    header = {
        "name": "s",
        "spec": {"data": {"train": [{"path": PATH}]}},
        "spec_digest": "d",
        "seed": 0,
        "budget_samples": 1,
        "sweepft_version": "0",
    }
    with Ledger.create(tmp_path) as ledger:
        ledger.append("sweep", **header, command=f"sweepft run --set x={TOKEN}")
        ledger.append("finish", status="failed", reason=f"could not log in with {TOKEN}")
    assert TOKEN.encode() not in ledger_path(tmp_path).read_bytes()
    assert read_ledger(tmp_path)[0]["spec"] == header["spec"]


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("data.train.0.path", {"data.train": [{"path": f"rows/{TOKEN}/x.jsonl"}]}),
        ("data.train.0.path", {"data.train": [{"path": "rows/secret=Santa1/x.jsonl"}]}),
        ("model.path", {"model.path": "org/planted-by-a-variable"}),
        ("mirror.uri", {"mirror.uri": "s3://bucket/x?secret_key=abcdef"}),
        ("track.mlflow.tracking_uri", {"track.mlflow.tracking_uri": "postgresql://h/db?password=sesame"}),
        ("evaluate.mt_bench.request.api_key", {"evaluate.mt_bench.request": {"api_key": "abc"}}),
        ("evaluate.mt_bench.request.password", {"evaluate.mt_bench.request": {"password": 12345678}}),
        (
            "evaluate.mt_bench.request.headers.Authorization",
            {"evaluate.mt_bench.request": {"headers": {"Authorization": f"Basic {BASIC}"}}},
        ),
    ],
)
def test_spec__with_a_secret_is_refused_without_showing_it(
    key: str, change: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANY_TOKEN", "planted-by-a-variable")
    if "mt_bench" in key:
        change |= {"evaluate.mt_bench.questions": "q.jsonl", "evaluate.mt_bench.judge": "j"}
    with raises(SpecError, key) as caught:
        from_dict(spec_dict(change))
    assert redact(str(caught.value)) == str(caught.value)
    from_dict(spec_dict(change), recorded=True)  # as the ledger of an earlier run has it


def test_spec__is_refused_for_the_folder_it_lies_in_before_a_run_begins(tmp_path: Path) -> None:
    """Else the run's own spec, which has whole paths, would be refused at each resume."""
    folder = tmp_path / "password=Hunter2x"
    (folder / "rows").mkdir(parents=True)
    (folder / "sweep.yaml").write_text(json.dumps(spec_dict({"data.train": [{"path": "./rows/x.jsonl"}]})))
    with raises(SpecError, "data.train.0.path"):
        load(folder / "sweep.yaml", check_files=False)


def test_spec__of_a_run_equals_what_the_ledger_holds(tmp_path: Path) -> None:
    spec = from_dict(spec_dict({"data.train": [{"path": "/data/n_token=512/eos_token=</s>/rows.jsonl"}]}))
    (tmp_path / "spec.yaml").write_text(dump(spec))
    with Ledger.create(tmp_path) as ledger:
        row = {"spec_digest": "d", "seed": 0, "budget_samples": 1, "sweepft_version": "0"}
        ledger.append("sweep", name=spec.name, spec=spec.to_dict(), **row)
    again = load(tmp_path / "spec.yaml", check_files=False, recorded=True)
    assert read_ledger(tmp_path)[0]["spec"] == again.to_dict()


def test_redact_files__overwrites_secrets_in_place_at_any_size_and_depth(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redact_module, "_CHUNK", 4096)
    monkeypatch.setattr(redact_module, "_OVERLAP", 2048)
    monkeypatch.setattr(redact_module, "_BEFORE", 64)
    monkeypatch.setenv("SOME_PASSWORD", "wörtlich-und-lang")
    (tmp_path / "deep").mkdir()
    big = tmp_path / "deep" / "rank.err"
    lines = [
        f"line {i} " + (f"{TOKEN} {PEM} wörtlich-und-lang" if i % 7 == 0 else "x" * (i % 50))
        for i in range(2000)
    ]
    big.write_text("\n".join(lines))
    size = big.stat().st_size
    (tmp_path / "b.log").write_bytes(b"\xff nothing\n")
    before = (tmp_path / "b.log").stat().st_mtime_ns
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text(TOKEN)
    logs = tmp_path / "logs"
    logs.mkdir()
    (logs / "c.log").symlink_to(elsewhere)
    os.mkfifo(logs / "pipe")
    with big.open("ab") as writer:  # of a process that still runs
        redact_files(tmp_path / "deep")
        redact_files(logs)
        writer.write(b"\nlast")
    left = big.read_text()
    assert TOKEN not in left
    assert "planted" not in left
    assert "lang" not in left
    assert left.endswith("\nlast")
    assert big.stat().st_size == size + 5
    assert [line.split()[:2] for line in left.splitlines() if line.startswith("line")] == [
        ["line", str(i)] for i in range(2000)
    ]
    redact_files(tmp_path)
    assert (tmp_path / "b.log").stat().st_mtime_ns == before
    assert elsewhere.read_text() == REDACTED + "*" * (len(TOKEN) - len(REDACTED))
