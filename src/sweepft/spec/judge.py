"""The section that says how MT-Bench is judged: by whom, over which questions, with which prompts.

One idea: a spec may be shown to anybody, so it names the environment variable that holds the key, never the key.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from sweepft.spec.fields import LocalPath, NonNegative, NonNegativeInt, Positive, PositiveInt, Section, broken

__all__ = ["OTHER_TEMPERATURE", "MtBench"]

OTHER_TEMPERATURE: Final = 0.7
"""Sampling temperature of categories that the spec does not name."""


def _endpoint(url: str) -> str:
    try:
        parts = urlsplit(url)
        sound = parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        sound = False
    if not sound:
        raise broken(
            "must be an http(s) address", "for example http://127.0.0.1:8000/v1 for a server of your own"
        )
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise broken(
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
