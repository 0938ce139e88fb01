"""MT-Bench against a real endpoint on loopback: what is asked, what counts, what is kept, and what a failure says."""

from __future__ import annotations

import contextlib
import gzip
import json
import logging
import math
import re
import socket
import threading
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from support.errors import raises
from support.stand_in_judge import Reply, StandIn, dead_url, stand_in_judge
from sweepft.errors import DataError, JudgeError
from sweepft.evaluation.mt_bench import Chat, MtBenchResult, check, deadline, score
from sweepft.evaluation.mt_bench.client import Failure, JudgeClient
from sweepft.spec.evaluation import MtBench

KEY = "sk-planted-4f1c9b7e2d"
PART = KEY[:8]

QUESTIONS = [
    {"question_id": 1, "category": "writing", "turns": ["Write on {answer}.", "Shorter."]},
    {"question_id": 2, "category": "math", "turns": ["2+2?", "Twice that?"], "reference": ["4", "8"]},
    {"question_id": 3, "category": "writing", "turns": ["A poem.", "In prose."], "reference": ["x", "y"]},
]


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv("JUDGE_KEY", KEY)


class Model:
    """Says what it was asked last, with the number of messages; keeps how it was called."""

    def __init__(self) -> None:
        self.calls: list[tuple[float, int, list[Chat]]] = []

    def __call__(
        self, chats: Sequence[Chat], *, temperature: float, max_new_tokens: int, seed: int
    ) -> list[str]:
        self.calls.append((temperature, max_new_tokens, list(chats)))
        return [f"answer to <{chat[-1]['content']}> after {len(chat)}" for chat in chats]


class Bench:
    """A folder with questions, and a way to score against an endpoint."""

    def __init__(self, folder: Path, slept: list[float]) -> None:
        self.folder = folder
        self.slept = slept
        self.questions = folder / "question.jsonl"
        self.questions.write_text("".join(json.dumps(q) + "\n" for q in QUESTIONS))
        self.model = Model()

    @property
    def cache(self) -> Path:
        return self.folder / "cache"

    def score(self, url: str, *, model: str | None = "weights-1", **settings: Any) -> MtBenchResult:
        given = {"questions": str(self.questions), "judge": "j", "base_url": url, "key_env": "JUDGE_KEY"}
        section = MtBench.model_validate(given | {"retries": 2, "concurrency": 2} | settings)
        return score(self.model, section, self.cache, model=model)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    slept: list[float] = []
    monkeypatch.setattr("time.sleep", slept.append)  # pauses between tries are noted, not waited for
    return Bench(tmp_path, slept)


def asked(body: dict[str, Any]) -> str:
    return str(body["messages"][-1]["content"])


def by_turn(first: str, second: str) -> Callable[[dict[str, Any], int], Reply]:
    return lambda body, _: Reply(second if "second answer" in asked(body) else first)


def test_score__two_turns_of_every_question_are_rated(bench: Bench) -> None:
    with stand_in_judge(by_turn("Good. Rating: [[8]]", "Rating: [[6]]")) as judge:
        result = bench.score(judge.url)
    assert [(j.question_id, j.turn, j.score) for j in result.judgements] == [
        (q, t, s) for q in ("1", "2", "3") for t, s in ((1, 8.0), (2, 6.0))
    ]
    assert (result.mean.mean, result.mean.stderr, result.mean.questions) == (7.0, 0.0, 3)
    assert {t: s.mean for t, s in result.turns.items()} == {1: 8.0, 2: 6.0}
    assert {c: (s.mean, s.questions, s.stderr) for c, s in result.categories.items()} == {
        "writing": (7.0, 2, 0.0), "math": (7.0, 1, None),
    }  # fmt: skip
    assert result.failed == 0
    assert json.loads(json.dumps(result.to_dict()))["mean"] == {"mean": 7.0, "stderr": 0.0, "questions": 3}


def test_score__temperature_by_category_and_first_answer_in_second_turn(bench: Bench) -> None:
    """Temperature by category; the second turn sees the first answer."""
    with stand_in_judge(by_turn("[[8]]", "[[6]]")) as judge:
        bench.score(judge.url, max_new_tokens=77)
    assert [(t, n, len(chats)) for t, n, chats in bench.model.calls] == [
        (0.0, 77, 1), (0.7, 77, 2), (0.0, 77, 1), (0.7, 77, 2),
    ]  # fmt: skip
    assert bench.model.calls[2][2] == [[
        {"role": "user", "content": "2+2?"},
        {"role": "assistant", "content": "answer to <2+2?> after 1"},
        {"role": "user", "content": "Twice that?"},
    ]]  # fmt: skip


def test_score__judge_request_has_question_answer_reference(bench: Bench) -> None:
    with stand_in_judge(by_turn("[[8]]", "[[6]]")) as judge:
        bench.score(judge.url, request={"temperature": 0, "max_completion_tokens": 9})
    assert set(judge.paths) == {"/v1/chat/completions"}
    assert {h["Authorization"] for h in judge.headers} == {f"Bearer {KEY}"}
    assert len(judge.bodies) == 6
    for body in judge.bodies:
        assert body.keys() == {"model", "messages", "temperature", "max_completion_tokens"}
        assert [m["role"] for m in body["messages"]] == ["system", "user"]
    texts = [asked(body) for body in judge.bodies]
    (math_second,) = (t for t in texts if "Twice that?" in t)
    assert "<reference_answer_2>\n8\n" in math_second
    (poem,) = (t for t in texts if "A poem." in t and "In prose." not in t)
    assert "reference" not in poem, "only math, reasoning and coding are judged by a reference"
    (braces,) = (t for t in texts if "Write on" in t and "Shorter." not in t)
    assert "Write on {answer}.\n" in braces, "braces in a question stay what they are"


def test_client__no_key_sent_without_variable(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JUDGE_KEY")
    with stand_in_judge(by_turn("[[8]]", "[[6]]")) as judge:
        assert bench.score(judge.url).failed == 0
    assert not any("Authorization" in headers for headers in judge.headers)


def test_score__verdict_without_rating_fails_and_is_not_zero(bench: Bench) -> None:
    def answer(body: dict[str, Any], _: int) -> Reply:
        return Reply("I would rather not say: 0" if "In prose." in asked(body) else "[[9]]")

    with stand_in_judge(answer) as judge:
        result = bench.score(judge.url)
    assert result.failed == 1
    (failed,) = (j for j in result.judgements if j.score is None)
    assert (failed.question_id, failed.turn) == ("3", 2)
    assert "no rating from 1 to 10" in (failed.failure or "")
    assert (
        "rather not say"
        in (bench.cache / "verdicts" / failed.verdict[:2] / f"{failed.verdict}.json").read_text()
    )
    assert (result.mean.mean, result.mean.questions) == (9.0, 2), "a question counts with all its turns"
    assert (result.turns[1].questions, result.turns[2].questions) == (3, 2)
    assert result.categories["writing"].questions == 1


def test_score__standard_errors_are_over_questions(bench: Bench) -> None:
    ratings = {"Write on": 2, "2+2?": 4, "A poem.": 9}

    def answer(body: dict[str, Any], _: int) -> Reply:
        return Reply(next(f"[[{r}]]" for mark, r in ratings.items() if mark in asked(body)))

    with stand_in_judge(answer) as judge:
        result = bench.score(judge.url)
    assert result.mean.mean == 5.0
    assert result.mean.stderr == pytest.approx(math.sqrt(13 / 3))
    assert result.categories["writing"].stderr == pytest.approx(3.5)


@pytest.mark.parametrize(
    ("trouble", "pauses"),
    [
        (Reply(status=429, headers={"Retry-After": "17"}), [17.0]),
        (Reply(status=500), None),
        (Reply(status=529), None),
        (Reply(hang_up=True), None),
    ],
    ids=["429", "500", "529", "hung up"],
)
def test_client__temporary_trouble_is_retried(
    bench: Bench, trouble: Reply, pauses: list[float] | None
) -> None:
    def answer(body: dict[str, Any], before: int) -> Reply:
        return (
            trouble
            if before == 0 and "A poem." in asked(body) and "In prose" not in asked(body)
            else Reply("[[7]]")
        )

    with stand_in_judge(answer) as judge:
        result = bench.score(judge.url)
    assert result.failed == 0
    assert len(judge.bodies) == 7
    assert len(bench.slept) == 1
    assert bench.slept == (pauses or bench.slept)
    assert 0.0 < bench.slept[0] <= 120.0


@pytest.mark.parametrize(
    "trouble",
    [Reply(status=429, headers={"Retry-After": "9999"}), Reply(raw=b"<html>try later</html>")],
    ids=["asks to wait for hours", "not a completion"],
)
def test_score__unusable_reply_fails_one_verdict(bench: Bench, trouble: Reply) -> None:
    def answer(body: dict[str, Any], _: int) -> Reply:
        return trouble if "A poem." in asked(body) and "In prose" not in asked(body) else Reply("[[7]]")

    with stand_in_judge(answer) as judge:
        result = bench.score(judge.url)
    assert (result.failed, len(judge.bodies), bench.slept) == (1, 6, [])


def test_client__pauses_grow_and_tries_end(bench: Bench) -> None:
    def answer(body: dict[str, Any], _: int) -> Reply:
        return Reply(status=500, text="overloaded") if "Twice" in asked(body) else Reply("[[7]]")

    with stand_in_judge(answer) as judge:
        result = bench.score(judge.url, retries=3)
    assert len(judge.bodies) == 5 + 4
    assert len(bench.slept) == 3
    assert bench.slept == sorted(bench.slept)
    (failed,) = (j for j in result.judgements if j.score is None)
    assert failed.question_id == "2"
    assert "HTTP 500" in (failed.failure or "")


def test_client__rejected_request_is_not_retried(bench: Bench) -> None:
    def answer(body: dict[str, Any], _: int) -> Reply:
        return (
            Reply(status=400, raw=b'{"error": "content filter"}') if "poem" in asked(body) else Reply("[[7]]")
        )

    with stand_in_judge(answer) as judge:
        result = bench.score(judge.url)
    assert (result.failed, len(judge.bodies), bench.slept) == (2, 6, [])
    assert "content filter" in str([j.failure for j in result.judgements])


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (Reply(status=401, raw=b"no such key"), "JUDGE_KEY must hold a valid key"),
        (Reply(status=404, raw=b"no such model"), "no such model"),
        (Reply(status=302, headers={"Location": "/v1/elsewhere"}), "HTTP 302"),
    ],
    ids=["wrong key", "wrong model or address", "sent elsewhere"],
)
def test_ask_all__stops_when_the_judge_refuses(bench: Bench, reply: Reply, words: str) -> None:
    with (
        stand_in_judge(lambda body, _: reply) as judge,
        raises(JudgeError, "mt_bench.refused") as caught,
    ):
        bench.score(judge.url)
    assert words in str(caught.value)
    assert len(judge.bodies) <= 3
    assert bench.slept == []


def test_score__stored_answers_and_verdicts_are_reused(bench: Bench) -> None:
    with stand_in_judge(by_turn("[[8]]", "[[6]]")) as judge:
        first = bench.score(judge.url)
        calls = len(bench.model.calls)
        assert bench.score(judge.url) == first
        assert (len(judge.bodies), len(bench.model.calls)) == (6, calls)
        bench.score(judge.url, model="weights-2")
        assert len(bench.model.calls) == 2 * calls, "other weights answer for themselves"
        assert len(judge.bodies) == 6, "but equal answers are judged once"
        bench.score(judge.url, judge="k")
        assert len(judge.bodies) == 12, "by another judge, again"
    assert bench.score(dead_url()) == first, "all is stored: no judge is needed"


def test_score__dead_endpoint_names_request_and_response_files(bench: Bench) -> None:
    with raises(JudgeError, "mt_bench.unreachable") as caught:
        bench.score(dead_url())
    message = str(caught.value)
    requests, responses = bench.cache / "verdicts/requests.jsonl", bench.cache / "verdicts/responses.jsonl"
    assert str(requests) in message
    assert str(responses) in message
    rows = [json.loads(line) for line in requests.read_text().splitlines()]
    assert [(r["method"], r["url"], r["body"]["model"]) for r in rows] == [
        ("POST", "/v1/chat/completions", "j")
    ] * 6

    outcome = [
        {"custom_id": r["custom_id"], "error": None,
         "response": {"status_code": 200, "body": {"choices": [{"message": {"content": "[[5]]"}}]}}}
        for r in rows
    ]  # fmt: skip
    responses.write_text(
        "".join(json.dumps(row) + "\n" for row in outcome) + '{"custom_id": "../../x"}\nhalf {'
    )
    result = bench.score(dead_url())
    assert (result.mean.mean, result.failed) == (5.0, 0)


def test_score__verdicts_survive_a_judge_that_dies(bench: Bench) -> None:
    said: list[str] = []

    def answer(body: dict[str, Any], _: int) -> Reply:
        if asked(body) in said or len(said) < 2:
            said.append(asked(body))
            return Reply("[[7]]")
        return Reply(hang_up=True)

    with stand_in_judge(answer) as judge, raises(JudgeError, "mt_bench.unreachable"):
        bench.score(judge.url, concurrency=1)
    with stand_in_judge(by_turn("[[7]]", "[[7]]")) as judge:
        assert bench.score(judge.url).mean.mean == 7.0
    assert len(judge.bodies) == 4


def test_cache__damaged_file_is_asked_again(bench: Bench) -> None:
    with stand_in_judge(by_turn("[[8]]", "[[6]]")) as judge:
        bench.score(judge.url)
        kept = sorted((bench.cache / "verdicts").glob("*/*.json"))
        assert len(kept) == 6
        kept[0].write_text('{"te')
        assert bench.score(judge.url).failed == 0
        assert len(judge.bodies) == 7


def _leaks(bench: Bench, error: BaseException | None, log: str) -> list[str]:
    """Where a part of the key stands: in files, the log, or an error with all that hangs on it, local variables too."""
    found = [str(p) for p in bench.folder.rglob("*") if p.is_file() and PART in p.read_text(errors="replace")]
    found += ["log"] * (PART in log)
    if error is not None:
        mine = "test_mt_bench.py"
        shown = traceback.TracebackException.from_exception(error, capture_locals=True)
        chain: list[traceback.TracebackException | None] = [shown, shown.__cause__, shown.__context__]
        for one in filter(None, chain):
            frames = [f for f in one.stack if not f.filename.endswith(mine)]
            found += [f"{f.filename}:{f.lineno}" for f in frames if PART in str(f.locals)]
            found += ["message"] * (PART in str(one))
    return found


@pytest.mark.parametrize(
    "reply",
    [
        Reply(status=401, raw=f"Incorrect API key provided: {KEY}".encode()),
        Reply(status=500, raw=f"upstream got Bearer {KEY}".encode()),
        Reply(status=302, headers={"Location": f"http://127.0.0.1:9/?key={KEY}"}),
        Reply(raw=f"you sent {KEY}".encode()),
        Reply(text=f"your key is {KEY}. [[7]]"),
        Reply(hang_up=True),
        Reply(status=401, raw=f"{'x' * 310}{KEY}".encode()),
        Reply(status=500, raw=f"{'x' * 380}{KEY}".encode()),
        Reply(raw=f"{'x' * 350}{KEY}".encode()),
    ],
    ids=[
        "refused",
        "server error",
        "redirect",
        "not a completion",
        "in the verdict",
        "hung up",
        "cut 1",
        "cut 2",
        "cut 3",
    ],
)
def test_client__key_appears_nowhere(bench: Bench, reply: Reply, caplog: pytest.LogCaptureFixture) -> None:
    caught: BaseException | None = None
    with caplog.at_level(logging.DEBUG), stand_in_judge(lambda body, _: reply) as judge:
        try:
            result = bench.score(judge.url)
            assert PART not in str(result.to_dict())
        except JudgeError as error:
            caught = error
    assert {h["Authorization"] for h in judge.headers} == {f"Bearer {KEY}"}
    assert _leaks(bench, caught, caplog.text) == []


def test_client__malformed_key_is_refused_without_being_shown(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUDGE_KEY", f"{KEY}\nX-Other: 1")
    with raises(JudgeError, "mt_bench.key") as caught:
        bench.score(dead_url())
    assert _leaks(bench, caught.value, "") == []


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (None, "question.jsonl: file: cannot be read: No such file"),
        ("", "must have at least one line"),
        ('{"question_id": 1, "category": "x"}\n', "question.jsonl:1: question: must have question_id"),
        ('\n{"question_id": 1\n', "cannot be read"),
        ('{"question_id": 1, "category": "x", "turns": ["a"]}\n' * 2, ":2: question_id: must be unique"),
    ],
    ids=["missing", "empty", "no turns", "not JSON", "twice"],
)
def test_read_questions__broken_file_is_named_before_generation(
    bench: Bench, lines: str | None, words: str
) -> None:
    bench.questions.unlink()
    if lines is not None:
        bench.questions.write_text(lines)
    with pytest.raises(DataError) as caught:
        bench.score(dead_url())
    assert words in str(caught.value)
    assert bench.model.calls == []


def _prompt_file(folder: Path, **changes: str | None) -> Path:
    templates = {
        "single-v1": "[Q]{question}[A]{answer} Rate {as told}: [[5]]",
        "single-math-v1": "{question}{ref_answer_1}{answer}",
        "single-v1-multi-turn": "{question_1}{answer_1}{question_2}{answer_2}",
        "single-math-v1-multi-turn": "{question_1}{ref_answer_1}{answer_1}{question_2}{ref_answer_2}{answer_2}",
        "pair-v2": "{question}{answer_a}{answer_b}",
    } | changes
    rows = [
        {
            "name": name,
            "type": "single",
            "system_prompt": "",
            "prompt_template": text,
            "output_format": "[[rating]]",
        }
        for name, text in templates.items()
        if text is not None
    ]
    path = folder / "judge_prompts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_prompts__fastchat_files_are_accepted(bench: Bench) -> None:
    references = bench.folder / "gpt-4.jsonl.gz"
    row = {"question_id": 2, "model_id": "m", "choices": [{"index": 0, "turns": ["four", "eight"]}]}
    references.write_bytes(gzip.compress((json.dumps(row) + "\n").encode()))
    prompts = _prompt_file(bench.folder)
    with stand_in_judge(lambda body, _: Reply("[[7]]")) as judge:
        bench.score(judge.url, prompts=str(prompts), references=str(references))
    texts = [asked(body) for body in judge.bodies]
    assert "[Q]A poem.[A]answer to <A poem.> after 1 Rate {as told}: [[5]]" in texts
    assert any("Twice that?eight" in text for text in texts)
    assert all([m["role"] for m in body["messages"]] == ["user"] for body in judge.bodies), (
        "no empty system text"
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"single-math-v1": None}, "single-math-v1: is missing"),
        ({"single-v1": "{question}"}, "judge_prompts.jsonl:1: single-v1: its template lacks {answer}"),
    ],
)
def test_prompts__missing_parts_are_named(bench: Bench, changes: dict[str, str | None], words: str) -> None:
    with pytest.raises(DataError) as caught:
        bench.score(dead_url(), prompts=str(_prompt_file(bench.folder, **changes)))
    assert words in str(caught.value)


def test_score__question_of_one_turn(bench: Bench) -> None:
    bench.questions.write_text('{"question_id": "a", "category": "other", "turns": ["Hi."]}\n')
    with stand_in_judge(lambda body, _: Reply("[[7]]")) as judge:
        result = bench.score(judge.url)
    assert (len(judge.bodies), result.mean.mean, result.mean.stderr) == (1, 7.0, None)
    assert bench.model.calls[0][0] == 0.7, "of a category that the spec does not name"


def test_score__too_few_answers_raise(bench: Bench) -> None:
    def one(chats: Sequence[Chat], **options: Any) -> list[str]:
        return ["only one"]

    section = MtBench(questions=str(bench.questions), judge="j")
    with pytest.raises(ValueError, match="shorter"):
        score(one, section, bench.cache)


def test_docs__mt_bench_example_runs(bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    page = Path(__file__).parents[3] / "docs/how-to/mt-bench.md"
    code = page.read_text().partition("```python\n")[2].partition("```")[0]
    monkeypatch.chdir(bench.folder)
    with stand_in_judge(by_turn("[[8]]", "[[7]]")) as judge:
        exec(code.replace("https://api.openai.com/v1", judge.url), {"my_model": lambda *asked: "Hm."})
    assert capsys.readouterr().out == "7.50 +- 0.00, 0 verdicts failed\n"


def test_check__reads_files_before_training(bench: Bench) -> None:
    check(MtBench(questions=str(bench.questions), judge="j"))
    with raises(DataError, "file"):
        check(MtBench(questions=str(bench.questions), judge="j", references=str(bench.folder / "none")))


def test_stand_in_judge__counts_repeated_requests(bench: Bench) -> None:
    """The tests above rest on it."""
    with stand_in_judge(lambda body, before: Reply(f"[[{before + 1}]]")) as judge:
        assert isinstance(judge, StandIn)
        assert bench.score(judge.url, model=None).mean.mean == 1.0


def test_prompts__an_answer_cannot_close_its_own_tag(bench: Bench) -> None:
    with stand_in_judge(by_turn("[[8]]", "[[6]]")) as judge:
        bench.score(judge.url)
    codes = set()
    for body in judge.bodies:
        found = set(re.findall(r"</?assistant_answer(?:_\d)? ([0-9a-f]{12})>", asked(body)))
        assert len(found) == 1, "all answers of a request stand between tags with one code"
        assert found.pop() in body["messages"][0]["content"]
        codes |= set(re.findall(r"<assistant_answer(?:_\d)? ([0-9a-f]{12})>", asked(body)))
    assert len(codes) == 6, "which no answer can guess from another request"


@pytest.mark.parametrize("where", ["headers", "body"])
def test_client__a_reply_that_drips_ends_at_the_timeout(bench: Bench, where: str) -> None:
    server = socket.create_server(("127.0.0.1", 0))
    over = threading.Event()

    def drip() -> None:
        head = b"Content-Length: 999999\r\n\r\n" if where == "body" else b"X: "
        connection, _ = server.accept()
        with connection, contextlib.suppress(OSError):
            connection.sendall(b"HTTP/1.1 200 OK\r\n" + head)
            while not over.wait(0.05):
                connection.sendall(b" ")

    thread = threading.Thread(target=drip)
    thread.start()
    try:
        client = JudgeClient(f"http://127.0.0.1:{server.getsockname()[1]}/v1", "JUDGE_KEY", 0, 1.0)
        failure = client.ask({"model": "j", "messages": [{"role": "user", "content": "x"}]})
    finally:
        over.set()
        server.close()
        thread.join()
    assert isinstance(failure, Failure)
    assert failure.kind == "unavailable"
    assert "in time" in failure.text or "timed out" in failure.text


def test_client__a_reply_without_end_is_cut(bench: Bench) -> None:
    with stand_in_judge(lambda body, _: Reply(raw=b" " * (deadline.MOST_BYTES + 1))) as judge:
        client = JudgeClient(judge.url, "JUDGE_KEY", 0, 60.0)
        failure = client.ask({"model": "j", "messages": [{"role": "user", "content": "x"}]})
    assert isinstance(failure, Failure)
    assert "16 MiB" in failure.text


@pytest.mark.parametrize(
    "url", ["http://judge.example/v1", "http://10.0.0.7:8000/v1", "HTTP://127.example/v1"]
)
def test_client__key_over_plain_http_needs_consent(
    bench: Bench, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = MtBench(questions=str(bench.questions), judge="j", base_url=url, key_env="JUDGE_KEY")
    with raises(JudgeError, "mt_bench.http") as caught:
        check(given)
    assert _leaks(bench, caught.value, "") == []
    check(given.model_copy(update={"allow_http_key": True}))
    for safe in (
        "https://judge.example/v1",
        "http://localhost:1/v1",
        "http://[::1]:1/v1",
        "http://127.0.0.2:1/v1",
    ):
        check(given.model_copy(update={"base_url": safe}))
    monkeypatch.delenv("JUDGE_KEY")
    check(given)


def test_client__no_proxy_on_loopback(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_PROXY")
    with (
        stand_in_judge(by_turn("[[1]]", "[[1]]")) as proxy,
        stand_in_judge(by_turn("[[8]]", "[[6]]")) as judge,
    ):
        monkeypatch.setenv("HTTP_PROXY", proxy.url.removesuffix("/v1"))
        monkeypatch.setenv("http_proxy", proxy.url.removesuffix("/v1"))
        assert bench.score(judge.url).mean.mean == 7.0
    assert proxy.bodies == []
