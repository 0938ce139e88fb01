"""One request to an OpenAI-compatible endpoint, tried until it is answered, refused, or its tries are used up.

One idea: what goes wrong comes back as a value with a text. No exception of the HTTP library leaves this module, so
that the key, which lies in its frames, cannot travel with one.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.message import Message
from email.utils import parsedate_to_datetime
from typing import Any, Final, Literal

from sweepft.errors import JudgeError

__all__ = ["Endpoint", "Failure", "retry_after"]

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
