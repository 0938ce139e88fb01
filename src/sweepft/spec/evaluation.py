"""The ``evaluate`` section: who the finalists are, what they are scored on, and what orders them.

One idea: a sealed test set is a task with one metric, ``loss``; so ``rank_by`` names either the same way.
"""
# MERGED The section that says how MT-Bench is judged: by whom, over which questions, with which prompts.

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator

from sweepft.spec.fields import (
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


"""Sampling temperature of categories that the spec does not name."""


def _endpoint(url: str) -> str:
    try:
        parts = urlsplit(url)
        sound = parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        sound = False
    if not sound:
        raise invalid(
            "must be an http(s) address", "for example http://127.0.0.1:8000/v1 for a server of your own"
        )
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise invalid(
            "must hold no user, password, query or fragment",
            "put the key into the environment: key_env names it",
        )
    return url.rstrip("/")


class MtBench(Section):
    """MT-Bench: two-turn questions, answered by the finalist and judged from 1 to 10 by another model, through any
    endpoint that speaks OpenAI's chat completions."""

    questions: LocalPath
    """The questions: JSON Lines (also .gz) of `question_id`, `category`, `turns`, as FastChat's `question.jsonl`."""
    judge: Annotated[str, Field(min_length=1)]
    """Name of the judging model at the endpoint."""
    base_url: Annotated[str, AfterValidator(_endpoint)] = "https://api.openai.com/v1"
    """Address of the endpoint, up to and without `/chat/completions`."""
    key_env: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")] = "OPENAI_API_KEY"
    """Environment variable of the driver that holds the key; where it is not set, none is sent. The key itself stands
    in no file."""
    prompts: LocalPath | None = None
    """Judge prompts as in FastChat's `judge_prompts.jsonl`; by default sweepft's own, whose scores compare with each
    other but not with published ones."""
    references: LocalPath | None = None
    """Reference answers as in FastChat's `reference_answer/*.jsonl`; by default the questions' own `reference`."""
    reference_categories: Annotated[tuple[str, ...], Field(strict=False)] = ("math", "reasoning", "coding")
    """Categories whose judge is shown the reference answer, where there is one."""
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
    """Temperature of the finalist's answers by category; others are sampled at 0.7."""
    max_new_tokens: PositiveInt = 1024
    """Tokens of an answer, at most."""
    request: Mapping[str, Any] = {"temperature": 0, "max_tokens": 2048}
    """What is sent to the judge beside model and messages; newer models may want `max_completion_tokens` instead."""
    retries: NonNegativeInt = 5
    """Further tries of a request after 408, 409, 429, a server's error or a broken connection, with growing pauses;
    `Retry-After` is honoured, up to two minutes."""
    timeout: Positive = 120.0
    """Seconds to wait for the judge, a try."""
    concurrency: PositiveInt = 8
    """Requests under way at once."""
    cache: LocalPath | None = None
    """Folder of answers and verdicts, shared by sweeps if you like; by default in the run folder."""


_Name = Annotated[str, Field(min_length=1, max_length=200)]


class Finalists(Section):
    """Which completed trials are scored. Their weights are kept, whatever `keep` says."""

    top: PositiveInt = 3
    """The best by the objective."""
    random: NonNegativeInt = 0
    """And that many other completed ones drawn at random: what the search has gained over chance."""


class HarnessTask(Section):
    """A task of the lm-evaluation-harness with settings of its own."""

    name: _Name
    """A harness task or group (`mmlu`, `gsm8k`, `leaderboard`), or one of a folder in `include_path`."""
    limit: PositiveInt | None = None
    """Items at most (of a group: of each of its tasks)."""
    num_fewshot: NonNegativeInt | None = None
    """Examples before each item; by default the task's own."""
    chat_template: bool | None = None
    """Whether items are put as chat turns."""


class Replicates(Section):
    """Best configurations trained again with fresh seeds: other sample orders and dropout."""

    top: PositiveInt = 3
    """Of that many of the finalists by the objective."""
    seeds: Annotated[int, Field(ge=2)] = 3
    """Fresh seeds for each. A mean and an interval need two."""


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
    """After the last trial: finalists and the base model on the sealed test sets and on benchmarks. Harness tasks need
    `pip install 'sweepft[eval]'`."""

    finalists: Finalists = Finalists()
    """Which completed trials are scored."""
    tasks: Annotated[tuple[_Task, ...], Field(strict=False)] = ()
    """Tasks of the lm-evaluation-harness, by name or as mappings. The sealed `data.test` sets are always scored."""
    include_path: Paths = ()
    """Folders with task files of your own. Relative data files in them start from the folder."""
    limit: PositiveInt | None = None
    """Items of a task at most; by default all."""
    num_fewshot: NonNegativeInt | None = None
    """Examples before each item; by default each task's own."""
    batch_size: PositiveInt = 8
    """Items a rank runs at once; halved where they do not fit in memory."""
    chat_template: bool = True
    """Whether items are put as chat turns by the model's chat template, as it was trained."""
    rank_by: _RankBy = "objective"
    """What orders the finalists: `objective`, a task (`gsm8k`), one of its metrics (`gsm8k.exact_match`), a test set
    (`NAME.loss`), or a mapping of these to weights: then their weighted mean, losses counted negative."""
    mt_bench: MtBench | None = None
    """MT-Bench: two-turn questions, rated by a judging model; a task called `mt_bench` with the metric `score`."""
    replicates: Replicates | None = None
    """Train the best ones again with fresh seeds, so that the winner's uncertainty holds seed noise."""

    @model_validator(mode="after")
    def _once(self) -> Evaluate:
        names = [task.name for task in self.each_task()]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise invalid(f"must not name a task twice: {twice}", "keep one of them in tasks")
        if self.replicates is not None and self.replicates.top > self.finalists.top:
            rule = f"must confirm finalists only: confirm.top {self.replicates.top} > finalists.top {self.finalists.top}"
            raise invalid(rule, "raise finalists.top or lower confirm.top")
        return self

    def each_task(self) -> Iterator[HarnessTask]:
        """The tasks with every setting filled in."""
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
        """What orders the finalists, each with its weight."""
        return {self.rank_by: 1.0} if isinstance(self.rank_by, str) else dict(self.rank_by)
