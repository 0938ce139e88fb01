"""Many questions to one judge: several at once, each answer kept as it comes, and an end to asking nobody.

One idea: a judge that has left three requests in a row without an answer, each after all its tries, is down; to ask the
rest would take hours and say nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from sweepft.errors import JudgeError
from sweepft.evaluate.judge.cache import RESPONSES, TextCache
from sweepft.evaluate.judge.endpoint import Endpoint, Failure

__all__ = ["Answers", "ask_all"]

_DOWN_AFTER: Final = 3

Answers = dict[str, "str | Failure"]
"""What was said to each request, by key."""


def ask_all(
    endpoint: Endpoint, bodies: Mapping[str, Mapping[str, Any]], cache: TextCache, concurrency: int
) -> Answers:
    """An answer, or why there is none, for every request that the cache does not hold.

    Args:
        endpoint: Whom to ask.
        bodies: Requests by key.
        cache: Where answers are kept at once.
        concurrency: Requests under way at once.
    Raises:
        JudgeError: If the judge is down or refuses; what it has answered is kept, and the rest lies ready as a file.
        StorageError: If the cache cannot be written.
    """
    line = _Line(endpoint)
    answers: Answers = {}

    def ask(key: str) -> None:
        said = line.ask(bodies[key])
        if said is None:
            return
        if isinstance(said, str):
            cache.put(key, said, model=bodies[key].get("model"))
        answers[key] = said

    with ThreadPoolExecutor(concurrency) as pool:
        tasks = [pool.submit(ask, key) for key in bodies]
        try:
            for task in tasks:
                task.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    cut = line.cut or _nobody(answers)
    if cut is not None:
        missing = {key: body for key, body in bodies.items() if not isinstance(answers.get(key), str)}
        raise _down(endpoint, cut, missing, cache)
    return answers


class _Line:
    """The line to the judge, cut once it is found down or refuses."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._lock = threading.Lock()
        self._in_a_row = 0
        self.cut: Failure | None = None

    def ask(self, body: Mapping[str, Any]) -> str | Failure | None:
        """What was said; None once the line is cut."""
        if self.cut is not None:
            return None
        said = self._endpoint.ask(body)
        with self._lock:
            unanswered = isinstance(said, Failure) and said.kind == "tries"
            self._in_a_row = self._in_a_row + 1 if unanswered else 0
            if isinstance(said, Failure) and (said.kind == "refused" or self._in_a_row >= _DOWN_AFTER):
                self.cut = self.cut or said
        return said


def _nobody(answers: Answers) -> Failure | None:
    """Why not one of the few requests was answered, if it was the judge and not the requests."""
    if any(not isinstance(said, Failure) or said.kind != "tries" for said in answers.values()):
        return None
    return next((said for said in answers.values() if isinstance(said, Failure)), None)


def _down(
    endpoint: Endpoint, why: Failure, missing: Mapping[str, Mapping[str, Any]], cache: TextCache
) -> JudgeError:
    path = cache.write_requests(missing)
    what = "refuses" if why.kind == "refused" else "cannot be reached"
    return JudgeError(
        f"evaluate.mt_bench.base_url: {endpoint.base_url}: the judge {what}: {why.text}\n"
        f"  {len(missing)} verdicts are not in the cache. Mend it and evaluate again; what is there is kept.\n"
        f"  Without network: have {path} answered elsewhere (it is in OpenAI's batch format), and put what comes back\n"
        f"  as {path.with_name(RESPONSES)}"
    )
