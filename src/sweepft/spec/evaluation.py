"""The ``evaluate`` section: the choice of finalists, their benchmarks and MT-Bench, replicates, and the final ranking.

A test set counts as a task with one metric, ``loss``, so ``rank_by`` names both in the same way.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator

from sweepft.spec.fields import (
    BatchSize,
    LocalPath,
    NonNegative,
    NonNegativeInt,
    Paths,
    Positive,
    PositiveInt,
    Section,
    invalid,
)

OTHER_TEMPERATURE: Final = 0.7
"""Sampling temperature of MT-Bench categories that the spec does not name."""


def _endpoint(url: str) -> str:
    try:
        parts = urlsplit(url)
        sound = parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        sound = False
    if not sound:
        raise invalid("must be an http(s) address", "for example http://127.0.0.1:8000/v1 for a local server")
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise invalid(
            "must not contain a user, password, query or fragment",
            "put the API key into the environment variable named by key_env",
        )
    return url.rstrip("/")


def _finite(value: Any) -> Any:
    """JSON has no NaN and no infinity: the judge's server would refuse each request."""
    if isinstance(value, float) and not math.isfinite(value):
        raise invalid("must not hold numbers that are not finite", "write a number, or remove the key")
    for part in (
        value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    ):
        _finite(part)
    return value


class MtBench(Section):
    """MT-Bench: the finalist answers two-turn questions, and a judge model rates the answers from 1 to 10 through an
    OpenAI-compatible chat completions endpoint."""

    questions: LocalPath
    """Questions as JSON Lines (also .gz) with `question_id`, `category` and `turns`, like FastChat's
    `question.jsonl`.
    """
    judge: Annotated[str, Field(min_length=1)]
    """Name of the judge model at the endpoint."""
    base_url: Annotated[str, AfterValidator(_endpoint)] = "https://api.openai.com/v1"
    """Base URL of the endpoint, without `/chat/completions`."""
    key_env: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")] = "OPENAI_API_KEY"
    """Name of the driver's environment variable that holds the API key; if it is not set, no key is sent. The key is
    never written to a file."""
    allow_http_key: bool = False
    """Send the API key over plain `http` to another machine, where others on the network can read it."""
    prompts: LocalPath | None = None
    """Judge prompts in the format of FastChat's `judge_prompts.jsonl`. The default prompts are sweepft's own; scores
    obtained with them are not comparable with published scores."""
    references: LocalPath | None = None
    """Reference answers in the format of FastChat's `reference_answer/*.jsonl`; by default the questions'
    `reference`.
    """
    reference_categories: Annotated[tuple[str, ...], Field(strict=False)] = ("math", "reasoning", "coding")
    """Categories for which the judge sees the reference answer, if there is one."""
    temperature: Mapping[str, NonNegative] = {
        "writing": 0.7,
        "roleplay": 0.7,
        "stem": 0.1,
        "humanities": 0.1,
        "extraction": 0.0,
        "math": 0.0,
        "coding": 0.0,
        "reasoning": 0.0,
    }
    """Sampling temperature of the answers by category; 0.7 for other categories."""
    max_new_tokens: PositiveInt = 1024
    """Maximum tokens per answer."""
    request: Annotated[Mapping[str, Any], AfterValidator(_finite)] = {"temperature": 0, "max_tokens": 2048}
    """Further fields of the request to the judge; newer models may need `max_completion_tokens` instead of
    `max_tokens`."""
    retries: NonNegativeInt = 5
    """Retries of a request after HTTP 408, 409, 429, a server error or a connection error, with growing pauses.
    `Retry-After` is honoured up to two minutes."""
    timeout: Positive = 120.0
    """Timeout of a request, in seconds."""
    concurrency: PositiveInt = 8
    """Maximum number of concurrent requests."""
    cache: LocalPath | None = None
    """Folder to cache answers and verdicts in; several sweeps may share it. By default inside the run folder."""


_Name = Annotated[str, Field(min_length=1, max_length=200)]


class Finalists(Section):
    """Which completed trials are scored; the trial of `search.baseline` is always one of them. Their weights are kept
    independently of `keep`."""

    top: PositiveInt = 3
    """Number of trials with the best objective."""
    random: NonNegativeInt = 0
    """Number of other completed trials, drawn at random, as a baseline for the search."""


class HarnessTask(Section):
    """A task of the lm-evaluation-harness with its own settings."""

    name: _Name
    """Harness task or group (`mmlu`, `gsm8k`, `leaderboard`), or a task from `include_path`."""
    limit: PositiveInt | None = None
    """Maximum number of items (in a group: per task)."""
    num_fewshot: NonNegativeInt | None = None
    """Number of few-shot examples; by default the task's own."""
    chat_template: bool | None = None
    """Format items as chat turns."""


class Replicates(Section):
    """Replicates: the best params trained again with new seeds, which change sample order and dropout."""

    top: PositiveInt = 3
    """Number of finalists, best objective first, to replicate. The trial of `search.baseline` is replicated as well, so
    that the gain over it includes seed noise."""
    seeds: Annotated[int, Field(ge=2)] = 3
    """Number of new seeds per finalist. At least two, to compute an interval."""


def _task_kind(value: Any) -> str:
    return "as_task" if isinstance(value, dict | HarnessTask) else "as_name"


_Task = Annotated[
    Annotated[_Name, Tag("as_name")] | Annotated[HarnessTask, Tag("as_task")], Discriminator(_task_kind)
]


def _rank_kind(value: Any) -> str:
    return "as_weights" if isinstance(value, Mapping) else "as_name"


_RankBy = Annotated[
    Annotated[_Name, Tag("as_name")]
    | Annotated[Mapping[_Name, Positive], Field(min_length=1), Tag("as_weights")],
    Discriminator(_rank_kind),
]


class Evaluate(Section):
    """Evaluation after the search: scores the finalists and the base model on the test sets and on benchmarks. Harness
    tasks need `pip install 'sweepft[eval]'`."""

    finalists: Finalists = Finalists()
    """Which completed trials to score."""
    tasks: Annotated[tuple[_Task, ...], Field(strict=False)] = ()
    """Tasks of the lm-evaluation-harness, by name or as mappings. The test sets in `data.test` are always scored."""
    include_path: Paths = ()
    """Folders with your own task files. Relative data paths in them are resolved against the folder."""
    limit: PositiveInt | None = None
    """Maximum number of items per task; by default all."""
    num_fewshot: NonNegativeInt | None = None
    """Number of few-shot examples; by default each task's own."""
    batch_size: BatchSize = "auto"
    """Items per batch and rank. `auto`: the largest power of two up to 64 that half of the free GPU memory holds, or on
    CPUs a share of the machine's. Lowered if a batch does not fit in memory."""
    chat_template: bool = True
    """Format items as chat turns with the model's chat template, as in training; as plain text if there is none."""
    rank_by: _RankBy = "objective"
    """Final ranking: `objective`, a task (`gsm8k`), one of its metrics (`gsm8k.exact_match`), a test set (`NAME.loss`),
    or a mapping of these to weights, which ranks by the weighted mean with losses counted negative."""
    mt_bench: MtBench | None = None
    """MT-Bench, rated by a judge model. In `rank_by` it is the task `mt_bench` with the metric `score`."""
    replicates: Replicates | None = None
    """Train the best finalists again with new seeds, so that the winner's interval includes seed noise."""

    @model_validator(mode="after")
    def _check(self) -> Evaluate:
        names = [task.name for task in self.each_task()]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise invalid(f"must not name a task twice: {twice}", "remove one of them from tasks")
        if self.replicates is not None and self.replicates.top > self.finalists.top:
            rule = f"replicates.top {self.replicates.top} must not exceed finalists.top {self.finalists.top}"
            raise invalid(rule, "raise finalists.top or lower replicates.top")
        return self

    def each_task(self) -> Iterator[HarnessTask]:
        """The tasks with all settings filled in."""
        for task in self.tasks:
            given = HarnessTask(name=task) if isinstance(task, str) else task
            yield HarnessTask(
                name=given.name,
                limit=given.limit or self.limit,
                num_fewshot=self.num_fewshot if given.num_fewshot is None else given.num_fewshot,
                chat_template=self.chat_template if given.chat_template is None else given.chat_template,
            )

    @property
    def weights(self) -> dict[str, float]:
        """``rank_by`` as a mapping of names to weights."""
        return {self.rank_by: 1.0} if isinstance(self.rank_by, str) else dict(self.rank_by)
