"""One request to an OpenAI-compatible endpoint, tried until it is answered, refused, or its tries are used up.

One idea: what goes wrong comes back as a value with a text. No exception of the HTTP library leaves this module, so
that the key, which lies in its frames, cannot travel with one.
"""
# MERGED Answers and verdicts on disk, each in a file named by the SHA-256 of what was asked.
# MERGED Many questions to one judge: several at once, each answer kept as it comes, and an end to asking nobody.

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import random
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from email.message import Message
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Final, Literal

from sweepft.errors import JudgeError, StorageError

REQUESTS: Final = "requests.jsonl"


RESPONSES: Final = "responses.jsonl"


def digest(asked: Mapping[str, Any]) -> str:
    """SHA-256 of plain data, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(asked, sort_keys=True, ensure_ascii=True).encode()).hexdigest()


class TextCache:
    """A folder of texts.

    Args:
        folder: Made when the first text is kept.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, key: str) -> Path:
        """Where the text of a key lies."""
        return self.folder / key[:2] / f"{key}.json"

    def get(self, key: str) -> str | None:
        """The text, or None where there is none or its file is damaged."""
        try:
            text = json.loads(self.path(key).read_text(encoding="utf-8"))["text"]
        except (OSError, ValueError, LookupError, TypeError):
            return None
        return text if isinstance(text, str) else None

    def put(self, key: str, text: str, **about: Any) -> None:
        """Keep a text, all or nothing; ``about`` stands beside it for people.

        Raises:
            StorageError: If it cannot be written.
        """
        _write(self.path(key), json.dumps({"text": text, **about}, indent=1))

    def write_requests(self, bodies: Mapping[str, Mapping[str, Any]]) -> Path:
        """Write requests by key as a batch file; returns its path.

        Raises:
            StorageError: If it cannot be written.
        """
        path = self.folder / REQUESTS
        rows = (
            {"custom_id": key, "method": "POST", "url": "/v1/chat/completions", "body": body}
            for key, body in bodies.items()
        )
        _write(path, "".join(json.dumps(row) + "\n" for row in rows))
        return path

    def take_responses(self, keys: Iterable[str]) -> None:
        """Keep the texts of these keys from a batch's outcome, where its file is there; broken lines are left."""
        wanted = set(keys)
        try:
            lines = (self.folder / RESPONSES).read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return
        for line in lines:
            try:
                row = json.loads(line)
                key, text = row["custom_id"], row["response"]["body"]["choices"][0]["message"]["content"]
            except (ValueError, LookupError, TypeError):
                continue
            if key in wanted and isinstance(text, str):
                self.put(key, text, source=RESPONSES)


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd, name = tempfile.mkstemp(dir=path.parent, prefix=".new-")
        try:
            with os.fdopen(fd, "w", encoding="utf-8") as file:
                file.write(text)
            os.replace(name, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(name)
            raise
    except OSError as error:
        raise StorageError(
            f"{path}: cannot be written: {error.strerror}\n  free space or name another folder: evaluate.mt_bench.cache"
        ) from error


_AGAIN: Final = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 520, 522, 524, 529})


_REFUSED: Final = frozenset({301, 302, 303, 307, 308, 401, 403, 404, 405})


_LONGEST_PAUSE: Final = 120.0


_LARGEST_REPLY: Final = 1 << 24


_LONGEST_TEXT: Final = 400


_SHORTEST_SECRET: Final = 8


@dataclass(frozen=True)
class Failure:
    """Why there is no answer.

    Attributes:
        kind: ``request``: this request is not answered, others may be; ``tries``: all tries failed; ``refused``: nobody
            with this key, model or address is answered.
        text: For people; holds no key.
    """

    kind: Literal["request", "tries", "refused"]
    text: str


class _Key:
    """A key that does not show itself."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._value = os.environ.get(name, "").strip()
        if not (self._value.isascii() and self._value.isprintable() and " " not in self._value):
            raise JudgeError(
                f"environment variable {name}: must be one word of printable ASCII\n  set it to the bare key"
            )

    def __repr__(self) -> str:
        return "<key>"

    def sign(self, request: urllib.request.Request) -> None:
        if self._value:
            request.add_unredirected_header("Authorization", f"Bearer {self._value}")

    def hide(self, text: str) -> str:
        """The text without the key. Placeholders such as EMPTY are no secrets and may stay."""
        return text.replace(self._value, "<key>") if len(self._value) >= _SHORTEST_SECRET else text


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A key goes to the address in the spec, not where that points to."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


class Endpoint:
    """Chat completions by HTTP; may be used by many threads at once.

    Args:
        base_url: Up to and without ``/chat/completions``.
        key_env: Environment variable that holds the key, read now; where it is not set, none is sent.
        retries: Further tries after the first.
        timeout: Seconds to wait, a try.
        sleep: Waits so many seconds.
        jitter: A number in [0, 1), by which pauses are spread.
    Raises:
        JudgeError: If what the variable holds cannot be a key.
    """

    def __init__(
        self,
        base_url: str,
        key_env: str,
        retries: int,
        timeout: float,
        sleep: Callable[[float], None] = time.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.base_url = base_url
        self._key = _Key(key_env)
        self._retries = retries
        self._timeout = timeout
        self._sleep = sleep
        self._jitter = jitter
        self._opener = urllib.request.build_opener(_NoRedirect)

    def ask(self, body: Mapping[str, Any]) -> str | Failure:
        """The text of the first choice, or why there is none.

        Args:
            body: Of the request: model, messages and options.
        """
        payload = json.dumps(body).encode()
        tried = 0
        while True:
            reply, pause = self._try(payload)
            tried += 1
            if not isinstance(reply, Failure):
                return self._key.hide(reply)
            text = _one_line(self._key.hide(reply.text))  # cut only then, lest a part of the key be left
            if reply.kind != "tries":
                return Failure(reply.kind, text)
            if tried > self._retries:
                return Failure("tries", f"{text} ({tried} tries)")
            self._sleep(min(_LONGEST_PAUSE, max(pause, 2.0 ** (tried - 1) * (0.5 + self._jitter() / 2))))

    def _try(self, payload: bytes) -> tuple[str | Failure, float]:
        """The answer, or why there is none, and the least seconds to wait before the next try."""
        request = urllib.request.Request(
            f"{self.base_url}/chat/completions", payload, {"Content-Type": "application/json"}
        )
        self._key.sign(request)
        try:
            with self._opener.open(request, timeout=self._timeout) as response:
                return _text_of(response.read(_LARGEST_REPLY)), 0.0
        except urllib.error.HTTPError as error:
            return self._refusal(error)
        except (OSError, http.client.HTTPException) as error:  # URLError and timeouts are OSErrors
            return Failure("tries", str(error) or type(error).__name__), 0.0
        except ValueError as error:  # an address that no name server could know
            return Failure("refused", str(error)), 0.0

    def _refusal(self, error: urllib.error.HTTPError) -> tuple[Failure, float]:
        try:
            said = error.read(_LARGEST_REPLY).decode(errors="replace")
        except (OSError, http.client.HTTPException):
            said = ""
        text = f"HTTP {error.code}"
        if error.code in (401, 403):
            text += f", environment variable {self._key.name} must hold a key that is good there"
        text += f": {said}" if said else ""
        if error.code in _AGAIN:
            return Failure("tries", text), retry_after(error.headers)
        return Failure("refused" if error.code in _REFUSED else "request", text), 0.0


def _text_of(reply: bytes) -> str | Failure:
    try:
        choice = json.loads(reply)["choices"][0]
        text = choice["message"]["content"]
    except (ValueError, LookupError, TypeError):
        return Failure("tries", f"what came back is not a chat completion: {reply.decode(errors='replace')}")
    if not isinstance(text, str):
        return Failure("request", f"the judge gave no text (finish_reason {choice.get('finish_reason')!r})")
    return text


def retry_after(headers: Message) -> float:
    """Seconds that the server asks to wait; 0 where it does not say, or not so that one understands it."""
    asked = headers.get("Retry-After", "").strip()
    if asked.isdecimal():
        return float(asked)
    try:  # a date, by the server's own clock
        return (parsedate_to_datetime(asked) - parsedate_to_datetime(headers["Date"])).total_seconds()
    except (ValueError, TypeError, KeyError):
        return 0.0


def _one_line(text: str) -> str:
    return " ".join(text.split())[:_LONGEST_TEXT]


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
