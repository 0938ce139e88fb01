"""Requests to the judge, through the ``openai`` package: retried, several at a time, each reply stored at once.

A request that fails comes back as a `Failure`, a value with a text. No exception of the HTTP library leaves this
module, because its frames hold the API key.
"""

from __future__ import annotations

import ipaddress
import logging
import os
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, Literal
from urllib.parse import urlsplit

from sweepft.errors import JudgeError
from sweepft.evaluation.mt_bench.cache import RESPONSES, TextCache

_REFUSED: Final = frozenset({301, 302, 303, 307, 308, 401, 403, 404, 405})
_UNAVAILABLE: Final = frozenset({408, 409, 429})  # and all from 500 on: what the package retries
_LONGEST_TEXT: Final = 400
_SHORTEST_SECRET: Final = 8
_DOWN_AFTER: Final = 3


@dataclass(frozen=True)
class Failure:
    """Why there is no reply.

    Attributes:
        kind: ``request``: this request is rejected, others may succeed; ``unavailable``: all tries failed; ``refused``:
            no request with this key, model or address will succeed.
        text: For people; does not contain the key.
    """

    kind: Literal["request", "unavailable", "refused"]
    text: str


Replies = dict[str, "str | Failure"]
"""The judge's text, or why there is none, by key of the request."""


class JudgeClient:
    """Chat completions of an OpenAI-compatible endpoint; safe to use from many threads.

    Redirects are not followed, so that the key goes to the address in the spec only.

    Args:
        base_url: Up to and without ``/chat/completions``.
        key_env: Environment variable that holds the API key, read now; no key is sent where it is not set.
        retries: Further tries after the first, with growing pauses; a ``Retry-After`` of up to two minutes is
            honoured, a longer one ends the tries.
        timeout: Seconds a try may take, from its connection to the last byte of the reply.
        over_http: Whether a key may be sent over plain http to another machine.
    Raises:
        JudgeError: If the variable's value cannot be a key, or may not be sent to this address.
    """

    def __init__(
        self, base_url: str, key_env: str, retries: int, timeout: float, *, over_http: bool = False
    ) -> None:
        import openai

        from sweepft.evaluation.mt_bench.deadline import limit_requests

        for library in ("openai", "httpx2", "httpcore2"):  # their debug lines hold headers, and so the key
            logging.getLogger(library).setLevel(logging.WARNING)
        self.base_url = base_url
        self._key_env = key_env
        self._key = read_key(key_env, base_url, over_http=over_http)
        self._headers = {} if self._key else {"Authorization": openai.Omit()}
        http = openai.DefaultHttpxClient(
            follow_redirects=False,
            trust_env=not is_loopback(base_url),  # a proxy would read the key
        )
        limit_requests(http, timeout)
        self._client = openai.OpenAI(
            api_key=self._key or "none",
            base_url=base_url,
            max_retries=retries,
            timeout=timeout,
            http_client=http,
        )

    def ask(self, body: Mapping[str, Any]) -> str | Failure:
        """The text of the first choice, or why there is none.

        Args:
            body: The request: ``model``, ``messages`` and options, which are sent as they are.
        """
        import openai

        options = {key: value for key, value in body.items() if key not in ("model", "messages")}
        try:
            reply = self._client.chat.completions.create(
                model=body["model"],
                messages=body["messages"],
                extra_body=options,
                extra_headers=self._headers,
            )
            choice = reply.choices[0]
            text, why = choice.message.content, choice.finish_reason
        except openai.APIStatusError as error:
            return self._status_failure(error.status_code, error.response.text)
        except openai.OpenAIError as error:
            return Failure("unavailable", self._readable(str(error.__cause__ or error)))
        except (AttributeError, LookupError, TypeError, ValueError, RecursionError) as error:
            return Failure("unavailable", self._readable(f"the reply is not a chat completion: {error}"))
        if not isinstance(text, str):
            return Failure("request", f"the judge returned no text (finish_reason {why!r})")
        return self._without_key(text)

    def _status_failure(self, status: int, text: str) -> Failure:
        what = f"HTTP {status}"
        if status in (401, 403):
            what += f", the environment variable {self._key_env} must hold a valid key for this endpoint"
        kind: Literal["request", "unavailable", "refused"] = "request"
        if status in _UNAVAILABLE or status >= 500:
            kind = "unavailable"
        elif status in _REFUSED:
            kind = "refused"
        return Failure(kind, self._readable(f"{what}: {text}" if text else what))

    def _without_key(self, text: str) -> str:
        """The text without the key. Placeholders such as EMPTY are no secrets and may stay."""
        return text.replace(self._key, "<key>") if len(self._key) >= _SHORTEST_SECRET else text

    def _readable(self, text: str) -> str:
        # The key is removed before the text is cut, so that no part of it remains at the end.
        return " ".join(self._without_key(text).split())[:_LONGEST_TEXT]


def is_loopback(url: str) -> bool:
    """Whether an address is on this machine."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def read_key(name: str, base_url: str, *, over_http: bool = False) -> str:
    """The API key in an environment variable; empty where there is none.

    Args:
        name: Of the variable.
        base_url: Where it is to be sent.
        over_http: Whether it may be sent over plain http to another machine.
    Raises:
        JudgeError: If the value cannot be a key, or may not be sent to this address.
    """
    value = os.environ.get(name, "").strip()
    problem = None
    if not (value.isascii() and value.isprintable() and " " not in value):
        problem = (
            f"environment variable {name}: must be one word of printable ASCII\n  set it to the key alone",
            "key",
        )
    elif (
        value and not over_http and not base_url.lower().startswith("https://") and not is_loopback(base_url)
    ):
        rule = f"{base_url}: the key in {name} would cross the network in clear text"
        remedy = f"use https://, unset {name} if the judge needs no key, or write allow_http_key: true"
        problem = f"evaluate.mt_bench.base_url: {rule}\n  {remedy}", "http"
    if problem is not None:
        del value  # tracebacks that show local variables must not show it
        raise JudgeError(problem[0], key=f"mt_bench.{problem[1]}")
    return value


def ask_all(
    client: JudgeClient, bodies: Mapping[str, Mapping[str, Any]], cache: TextCache, concurrency: int
) -> Replies:
    """Ask the judge every request, and store each reply as soon as it is there.

    Args:
        client: The judge.
        bodies: Requests by key.
        cache: Takes the replies.
        concurrency: Requests at a time.
    Raises:
        JudgeError: If the judge is down or refuses. The replies so far are stored, the missing requests are written to
            a file.
        StorageError: If the cache cannot be written.
    """
    breaker = _CircuitBreaker(client)
    replies: Replies = {}

    def ask(key: str) -> None:
        reply = breaker.ask(bodies[key])
        if reply is None:
            return
        if isinstance(reply, str):
            cache.put(key, reply, model=bodies[key].get("model"))
        replies[key] = reply

    with ThreadPoolExecutor(concurrency) as pool:
        tasks = [pool.submit(ask, key) for key in bodies]
        try:
            for task in tasks:
                task.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    failure = breaker.failure or _all_unavailable(replies)
    if failure is not None:
        missing = {key: body for key, body in bodies.items() if not isinstance(replies.get(key), str)}
        raise _judge_error(client, failure, missing, cache)
    return replies


class _CircuitBreaker:
    """Stops asking once the judge refuses, or is unavailable for several requests in a row."""

    def __init__(self, client: JudgeClient) -> None:
        self._client = client
        self._lock = threading.Lock()
        self._in_a_row = 0
        self.failure: Failure | None = None

    def ask(self, body: Mapping[str, Any]) -> str | Failure | None:
        """The reply; None once the breaker has opened."""
        if self.failure is not None:
            return None
        reply = self._client.ask(body)
        with self._lock:
            failed = isinstance(reply, Failure) and reply.kind == "unavailable"
            self._in_a_row = self._in_a_row + 1 if failed else 0
            if isinstance(reply, Failure) and (reply.kind == "refused" or self._in_a_row >= _DOWN_AFTER):
                self.failure = self.failure or reply
        return reply


def _all_unavailable(replies: Replies) -> Failure | None:
    """The first failure, if every one of a few requests found the judge unavailable."""
    failures = [reply for reply in replies.values() if isinstance(reply, Failure)]
    if len(failures) < len(replies) or any(failure.kind != "unavailable" for failure in failures):
        return None
    return failures[0] if failures else None


def _judge_error(
    client: JudgeClient, why: Failure, missing: Mapping[str, Mapping[str, Any]], cache: TextCache
) -> JudgeError:
    path = cache.write_requests(missing)
    refused = why.kind == "refused"
    return JudgeError(
        f"evaluate.mt_bench.base_url: {client.base_url}: the judge {'refuses' if refused else 'cannot be reached'}: "
        f"{why.text}\n"
        f"  {len(missing)} verdicts are missing; the others are stored. Correct the settings and evaluate again.\n"
        f"  Without network: have {path} answered elsewhere (OpenAI's batch format) and save the result\n"
        f"  as {path.with_name(RESPONSES)}",
        key="mt_bench.refused" if refused else "mt_bench.unreachable",
    )
