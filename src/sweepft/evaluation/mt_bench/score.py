"""MT-Bench of one model: it answers two turns of every question, and a judge rates each answer from 1 to 10.

Every answer and every verdict is stored before it counts. Scoring again, after a crash or without network, asks only
for what is missing. A verdict without a rating has failed; it never counts as zero.
"""

from __future__ import annotations

import logging
import math
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from sweepft.evaluation.mt_bench.cache import TextCache, digest
from sweepft.evaluation.mt_bench.client import Failure, JudgeClient, ask_all, read_key
from sweepft.evaluation.mt_bench.prompts import Prompts
from sweepft.evaluation.mt_bench.questions import Question, read_questions
from sweepft.spec.evaluation import OTHER_TEMPERATURE, MtBench

_LOWEST, _HIGHEST = 1.0, 10.0
_FORMS: Final = (
    re.compile(r"\[\[\s*(\d+(?:\.\d+)?)\s*\]\]"),
    re.compile(r"(?<![\w\])\[])\[\s*(\d+(?:\.\d+)?)\s*\](?!\])"),  # but not x[1]
)

_SAID: Final = re.compile(r"\brating:\W{0,6}(\d+(?:\.\d+)?)", re.IGNORECASE)
_LAST: Final = re.compile(
    r"(?:^|[.!?;]\s)[\s*_#>]*(?:(?:\w+ ){0,2}(?:rating|score|grade|verdict)\b[\s*_:=]*(?:is[\s*_:]*)?)?"
    r"(?P<marks>\[)?\[\s*(?P<rating>\d+(?:\.\d+)?)\s*\](?(marks)\])(?:\s*/\s*10)?[\s*_.]*$",
    re.IGNORECASE,
)


def parse_verdict(text: str) -> float | None:
    """The rating from 1 to 10, or None.

    It is the end of the last line that is not blank: ``Rating: [[7]]``, or ``[7]``. Any other rating in the text that
    differs makes it no verdict: one of them may be quoted from the answer, which can contain such marks to raise its
    own rating.
    """
    lines = text.rstrip().splitlines()
    last = _LAST.search(lines[-1][-1000:]) if lines else None
    if last is None:
        return None
    double, single = (form.findall(text) for form in _FORMS)
    found = {float(number) for number in (*double, *_SAID.findall(text), last["rating"])}
    if not double:  # else [n] may be a reference
        found |= {float(single[-1])} if single else set()
    value = found.pop() if len(found) == 1 else 0.0
    return value if _LOWEST <= value <= _HIGHEST else None


Chat = list[dict[str, str]]
"""Messages, each with ``role`` and ``content``; the last is the user's."""

_SEED: Final = 0
_log = logging.getLogger(__name__)


class Generate(Protocol):
    """The model under test: an answer to each chat, in their order; sampled from ``seed`` where temperature > 0."""

    def __call__(
        self, chats: Sequence[Chat], *, temperature: float, max_new_tokens: int, seed: int
    ) -> Sequence[str]:
        """Answer ``chats``, whose last message is the user's."""
        ...


@dataclass(frozen=True)
class Score:
    """A mean rating over questions, 1 to 10; ``stderr`` is its standard error, None with fewer than two questions."""

    mean: float | None
    stderr: float | None
    questions: int


@dataclass(frozen=True)
class Judgement:
    """The verdict on one answer.

    Attributes:
        question_id, category: Of the question.
        turn: 1 or 2.
        score: 1 to 10; None where the verdict failed.
        failure: Why it failed, else None.
        verdict: Key of the judge's text in the cache: ``CACHE/verdicts/AB/AB...json``.
    """

    question_id: str
    category: str
    turn: int
    score: float | None
    failure: str | None
    verdict: str


@dataclass(frozen=True)
class MtBenchResult:
    """How a model did.

    Attributes:
        mean: Over the questions with a rating of every turn: the mean of the turns.
        turns: By turn, over the questions with a rating of that turn.
        categories: As ``mean``, by category.
        failed: Number of failed verdicts; they are left out of every mean.
        judgements: Every verdict, failed ones included.
        judge: Name of the judging model.
        setting: Digest of questions, references, prompts and settings: results of one setting compare.
    """

    mean: Score
    turns: dict[int, Score]
    categories: dict[str, Score]
    failed: int
    judgements: tuple[Judgement, ...]
    judge: str
    setting: str

    def to_dict(self) -> dict[str, Any]:
        """Plain data for a ledger row or JSON."""
        return asdict(self)


def check(settings: MtBench) -> None:
    """Read the files that the settings name, and the API key, as ``score`` will.

    Raises:
        DataError: If a file is missing or broken.
        JudgeError: If the key cannot be one, or may not be sent to the address.
    """
    read_questions(settings.questions, settings.references)
    Prompts.read(settings.prompts)
    read_key(settings.key_env, settings.base_url, over_http=settings.allow_http_key)


def setting(settings: MtBench) -> str:
    """Digest of questions, references, prompts and settings: results of one setting compare.

    Raises:
        DataError: If a file is missing or broken.
    """
    questions = read_questions(settings.questions, settings.references)
    return _setting(settings, Prompts.read(settings.prompts), questions)


def score(
    generate: Generate,
    settings: MtBench,
    cache_dir: Path,
    *,
    model: str | None = None,
) -> MtBenchResult:
    """Have a model answer MT-Bench and a judge rate its answers.

    Args:
        generate: The model.
        settings: Questions, judge and the rest.
        cache_dir: Where answers and verdicts are stored, unless ``settings.cache`` names another folder.
        model: Digest of the weights behind ``generate``: its answers are then stored too and not generated again. None
            stores verdicts only.
    Raises:
        DataError: If a file is missing or broken; nothing was generated.
        JudgeError: If verdicts are missing and the judge is down or refuses; names the file with the open requests.
        StorageError: If the cache cannot be written.

    A verdict that fails (no rating in it, or its request is not answered) is counted and listed. The API key is read
    from the environment of this process.
    """
    questions = read_questions(settings.questions, settings.references)
    prompts = Prompts.read(settings.prompts)
    folder = Path(settings.cache) if settings.cache is not None else cache_dir
    answers = _answers(generate, settings, questions, TextCache(folder / "answers"), model)
    asked = [_Asked.of(settings, prompts, q, turns) for q, turns in zip(questions, answers, strict=True)]
    flat = [one for question in asked for one in question]
    cache = TextCache(folder / "verdicts")
    bodies = {one.key: one.body for one in flat}
    cache.take_responses(key for key in bodies if cache.get(key) is None)
    missing = {key: body for key, body in bodies.items() if cache.get(key) is None}
    unanswered = {}
    if missing:
        client = JudgeClient(
            settings.base_url,
            settings.key_env,
            settings.retries,
            settings.timeout,
            over_http=settings.allow_http_key,
        )
        unanswered = ask_all(client, missing, cache, settings.concurrency)
    judgements = tuple(_judgement(one, cache.get(one.key), unanswered.get(one.key)) for one in flat)
    result = _result(judgements, settings.judge, _setting(settings, prompts, questions))
    _log.info(
        "mt-bench: questions=%d mean=%s failed_verdicts=%d asked=%d cached=%d judge=%s",
        len(questions), result.mean.mean, result.failed, len(missing), len(bodies) - len(missing), settings.judge,
    )  # fmt: skip
    return result


@dataclass(frozen=True)
class _Asked:
    """A request for a verdict on the answer to a turn."""

    question: Question
    turn: int
    body: dict[str, Any]
    key: str

    @classmethod
    def of(
        cls, settings: MtBench, prompts: Prompts, question: Question, answers: Sequence[str]
    ) -> list[_Asked]:
        with_reference = bool(question.references) and question.category in settings.reference_categories
        found = []
        for turn in range(1, len(answers) + 1):
            messages = prompts.messages(question, answers[:turn], with_reference=with_reference)
            body = {"model": settings.judge, "messages": messages, **settings.request}
            found.append(cls(question, turn, body, digest(body)))
        return found


def _answers(
    generate: Generate, settings: MtBench, questions: Sequence[Question], cache: TextCache, model: str | None
) -> list[list[str]]:
    """The model's answers to each turn of each question; the second turn sees the first answer."""
    answers: list[list[str]] = [[] for _ in questions]
    for turn in range(max(len(q.turns) for q in questions)):
        by_temperature: dict[float, list[int]] = {}
        keys: dict[int, str] = {}
        for i, question in enumerate(questions):
            if turn >= len(question.turns):
                continue
            temperature = settings.temperature.get(question.category, OTHER_TEMPERATURE)
            keys[i] = digest(
                {
                    "model": model,
                    "chat": _chat(question, answers[i]),
                    "temperature": temperature,
                    "max_new_tokens": settings.max_new_tokens,
                    "seed": _SEED,
                }
            )
            kept = cache.get(keys[i]) if model is not None else None
            if kept is None:
                by_temperature.setdefault(temperature, []).append(i)
            else:
                answers[i].append(kept)
        for temperature, places in sorted(by_temperature.items()):
            chats = [_chat(questions[i], answers[i]) for i in places]
            said = generate(
                chats, temperature=temperature, max_new_tokens=settings.max_new_tokens, seed=_SEED
            )
            for i, text in zip(places, said, strict=True):
                answers[i].append(text)
                if model is not None:
                    cache.put(keys[i], text, model=model, question_id=questions[i].question_id, turn=turn + 1)
    return answers


def _chat(question: Question, answers: Sequence[str]) -> Chat:
    """The conversation up to the next question."""
    chat = []
    for asked, said in zip(question.turns, answers, strict=False):
        chat += [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]
    return [*chat, {"role": "user", "content": question.turns[len(answers)]}]


def _judgement(asked: _Asked, text: str | None, failure: str | Failure | None) -> Judgement:
    rating = None if text is None else parse_verdict(text)
    why = None
    if text is None:
        why = failure.text if isinstance(failure, Failure) else "not answered"
    elif rating is None:
        why = f"no rating from 1 to 10 in {text[-200:]!r}"
    return Judgement(asked.question.question_id, asked.question.category, asked.turn, rating, why, asked.key)


def _result(judgements: Sequence[Judgement], judge: str, setting: str) -> MtBenchResult:
    by_question: dict[str, list[Judgement]] = {}
    for one in judgements:
        by_question.setdefault(one.question_id, []).append(one)
    complete: dict[str, tuple[str, float]] = {}
    for name, ones in by_question.items():
        ratings = [one.score for one in ones if one.score is not None]
        if len(ratings) == len(ones):
            complete[name] = (ones[0].category, statistics.fmean(ratings))
    turns = sorted({one.turn for one in judgements})
    categories = dict.fromkeys(one.category for one in judgements)
    return MtBenchResult(
        mean=_mean([value for _, value in complete.values()]),
        turns={t: _mean([j.score for j in judgements if j.turn == t and j.score is not None]) for t in turns},
        categories={c: _mean([value for own, value in complete.values() if own == c]) for c in categories},
        failed=sum(one.score is None for one in judgements),
        judgements=tuple(judgements),
        judge=judge,
        setting=setting,
    )


def _mean(values: Sequence[float]) -> Score:
    if not values:
        return Score(None, None, 0)
    spread = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
    return Score(statistics.fmean(values), spread, len(values))


def _setting(settings: MtBench, prompts: Prompts, questions: Sequence[Question]) -> str:
    asked: Mapping[str, Any] = {
        "settings": settings.model_dump(
            mode="json",
            include={"judge", "request", "temperature", "max_new_tokens", "reference_categories"},
        ),
        "questions": [asdict(question) for question in questions],
        "prompts": prompts.to_dict(),
    }
    return digest(asked)
