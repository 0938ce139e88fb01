"""The table of secrets that are recognised by their text: tokens of known services, and values beside a telling name.

What the table misses is listed in SECURITY.md.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Final

REDACTED: Final = "[redacted]"

Span = tuple[int, int, str]
"""Start and end of a secret in a text, and what it is."""


@dataclass(frozen=True)
class Shape:
    """A kind of secret.

    Attributes:
        name: What it is, for an error.
        marks: Every text with such a secret contains one of these.
        pattern: The secret.
        part: Start and end of the secret in a match, or None where it is none.
    """

    name: str
    marks: tuple[str, ...]
    pattern: re.Pattern[str]
    part: Callable[[re.Match[str]], tuple[int, int] | None] = lambda found: found.span()


def _token(name: str, *prefixes: str, rest: str = r"[A-Za-z0-9_-]{16,}") -> Shape:
    """A token that begins with a fixed text, wherever no letter or digit stands before it."""
    beginning = "|".join(map(re.escape, prefixes))
    return Shape(name, prefixes, re.compile(rf"(?<![A-Za-z0-9])(?:{beginning}){rest}"))


def _user_and_password(found: re.Match[str]) -> tuple[int, int] | None:
    """The part of a basic authorization, if it is one."""
    coded = found["coded"]
    try:
        return (
            found.span("coded")
            if b":" in base64.b64decode(coded + "=" * (-len(coded) % 4), validate=True)
            else None
        )
    except binascii.Error:
        return None


def _of_an_address(found: re.Match[str]) -> tuple[int, int] | None:
    """The user and password of ``scheme://user:password@host``, or the token of ``https://token@host``."""
    rest, start = found["rest"][:400], found.start("rest")
    user, colon, _ = rest.partition(":")
    if colon and not re.search("[@/]", user) and not re.match(r"\d{1,5}(?:[/?#]|$)", rest[len(user) + 1 :]):
        end = rest.rfind("@", 0, len(rest) - 1)
    else:
        end = rest.find("@", 0, len(rest) - 1) if found["scheme"].endswith(("http", "https")) else -1
        end = -1 if "/" in rest[: max(end, 0)] else end
    return (start, start + end) if end > 0 else None


_MIXED = r"(?:(?=[A-Za-z_]{0,40}[0-9])[A-Za-z0-9_]{16,}[\w-]*|[A-Za-z0-9_-]{40,})"
"""At least 16 characters without a hyphen, with a digit among the first ones: unlike words joined by hyphens."""

SHAPES: Final[tuple[Shape, ...]] = (
    _token("a Hugging Face token", "hf_", "api_org_", rest=r"(?:(?=[a-z]{0,40}[A-Z0-9])[A-Za-z0-9]{16,}|[a-z]{30,})"),
    _token("an API key", "sk-", rest=rf"(?:[a-z0-9]{{2,12}}-){{0,3}}{_MIXED}"),  # OpenAI, Anthropic and others
    _token("an API key", "sk_", rest=r"[0-9a-f]{40,}"),
    _token("a Stripe key", "sk_live_", "sk_test_", "rk_live_", "rk_test_", "whsec_"),
    _token("a GitHub token", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", rest=r"\w{20,}"),
    _token("a GitLab token", "glpat-", "gldt-", "glrt-", "glcbt-", "gloas-"),
    _token("an AWS access key", "AKIA", "ASIA", "ABIA", "ACCA", rest=r"[A-Z0-9]{16}(?![A-Za-z0-9])"),
    _token("a Google key", "AIza", "GOCSPX-", "ya29.", rest=r"[A-Za-z0-9._-]{20,}"),
    _token("a Google refresh token", "1//0", rest=r"[\w-]{30,}"),
    _token("a Slack token", *(f"xox{c}-" for c in "abeoprs"), "xapp-", rest=r"[\w-]{10,}"),
    _token("a Weights & Biases key", "wandb_v1_"),
    _token("a Groq key", "gsk_", rest=r"[A-Za-z0-9]{16,}"),
    _token("an NVIDIA key", "nvapi-"),
    _token("a Replicate token", "r8_", rest=r"[A-Za-z0-9]{20,}"),
    _token("an npm token", "npm_", rest=r"[A-Za-z0-9]{20,}"),
    _token("a PyPI token", "pypi-Ag", rest=r"[\w-]{16,}"),
    _token("a Docker token", "dckr_pat_", "dckr_oat_"),
    _token("a Databricks token", "dapi", rest=r"[0-9a-f]{32}(?:-\d)?"),
    _token("an xAI, Perplexity or Together key", "xai-", "pplx-", "tgp_v1_", rest=_MIXED),
    _token("a RunPod, Jina or Pinecone key", "rpa_", "jina_", "pcsk_", rest=r"[A-Za-z0-9_]{20,}"),
    _token("a LangSmith key", "lsv2_pt_", "lsv2_sk_"),
    _token("a Notion or Linear key", "ntn_", "lin_api_", rest=r"[A-Za-z0-9]{20,}"),
    _token("a Grafana token", "glsa_", "glc_", rest=r"[A-Za-z0-9_=]{20,}"),
    _token("a HashiCorp Vault token", "hvs.", "hvb.", rest=r"[\w-]{20,}"),
    _token("a SendGrid key", "SG.", rest=r"[\w-]{16,}\.[\w-]{16,}"),
    _token("a DigitalOcean token", "dop_v1_", "doo_v1_", rest=r"[0-9a-f]{32,}"),
    _token("a Shopify token", "shpat_", "shpss_", rest=r"[0-9a-fA-F]{32}"),
    _token("an Atlassian token", "ATATT3x", "ATCTT3x"),
    _token("an age key", "AGE-SECRET-KEY-1", rest=r"[A-Z0-9]{40,}"),
    Shape("an Azure client secret", ("8Q~", "7Q~"), re.compile(r"[\w.~-]{3}[78]Q~[\w.~-]{31,34}")),
    Shape("a Telegram token", (":AA",), re.compile(r"(?<!\d)\d{8,10}:AA[\w-]{32,}")),
    Shape("a JSON Web Token", ("eyJ",), re.compile(r"(?<![A-Za-z0-9])eyJ[\w-]{10,}(?:\.[\w-]*){2,4}")),
    Shape(
        "a private key",
        ("PRIVATE KEY",),
        re.compile(
            r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY"
            r".*?(?:-----END [A-Z0-9 ]{0,40}PRIVATE KEY[A-Z ]{0,10}-----|\Z)",
            re.DOTALL,
        ),
    ),
    Shape(
        "a webhook address",
        ("hooks.slack.com", "/api/webhooks/", "webhook.office.com", "chat.googleapis.com"),
        re.compile(
            r"https?://(?:hooks\.slack\.com/[a-z]{1,20}/|discord(?:app)?\.com/api/webhooks/"
            r"|[\w-]{1,60}\.webhook\.office\.com/|chat\.googleapis\.com/v1/spaces/)[^\s'\"<>]+"
        ),
    ),
    Shape(
        "a user and password in an address",
        ("@",),
        re.compile(r"(?P<scheme>[A-Za-z0-9+]{1,20})://(?P<rest>(?:(?!://)[^\s'\"<>])+)"),
        _of_an_address,
    ),
    Shape(
        "a bearer token",
        ("earer", "EARER"),
        re.compile(r"(?<=\b[Bb]earer )(?=[\w~+/-]{0,400}[\d_.~+/=-][\w~+/=-])[\w.~+/-]{12,}=*|(?<=\bBEARER )\S{12,}"),
    ),
    Shape(
        "a user and password",
        ("asic ", "ASIC "),
        re.compile(r"\b(?:[Bb]asic|BASIC) (?P<coded>[A-Za-z0-9+/]{6,}={0,2})"),
        _user_and_password,
    ),
)  # fmt: skip


# --- names --------------------------------------------------------------------------------------------

_VARIABLE: Final = re.compile(
    r"TOKEN(?!IZER)|SECRET|PASSWORD|PASSWD|PASSPHRASE|PASS$|(?:^|_)PASS_|(?:^|_)PWD(?:_|$)|CREDENTIAL|(?:^|_)CREDS?(?:_|$)"
    r"|WEBHOOK|(?:^|_)PAT(?:_|\d|$)|(?:^|_)KEYS?(?:_|\d|$)|APIKEY|ACCESSKEY|PRIVATEKEY|(?:^|_)AUTH(?:_|$)|AUTHORIZATION"
    r"|(?:^|_)SAS(?:_|$)|CONNECTION_STRING|(?:^|_)DSN$",
    re.I,
)
_ABOUT_ONE: Final = re.compile(
    r"^(?:OLD)?PWD$|_(?:MODE|TYPE|METHOD|NAME|HOST|PORT|SOCK|COUNT|SIZE|LENGTH|ENABLED|PROVIDER|ALGORITHM)$",
    re.I,
)
"""Variables that say something about a secret, and folders of the shell."""

_WORDS: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_BESIDE: Final = re.compile(
    r"(?:^|_)(?:API|ACCESS|ACCOUNT|SECRET|PRIVATE|SIGNING|ENCRYPTION|SHARED|MASTER|SUBSCRIPTION|LICENSE)_?KEY(?:_?ID)?$"
    r"|APIKEY$|SECRET(?:_?KEY)?$|(?:SECRET_ACCESS_KEY|ACCESS_KEY_ID)$"
    r"|PASSWORD$|PASSWD$|PASSPHRASE$|(?:^|_)PWD$|TOKEN$|CREDENTIALS?$|(?:^|_)AUTHORIZATION$|WEBHOOK(?:_?URL)?$"
    r"|^AUTHKEY$|X_AMZ_(?:SIGNATURE|CREDENTIAL|SECURITY_TOKEN)$|^(?:SIG|SHARED_?ACCESS_?SIGNATURE)$"
)
"""Names, in capitals with underscores, beside which a text shows a secret."""

_OF_A_MODEL: Final = re.compile(
    r"(?:^|_)(?:EOS|BOS|PAD|UNK|SEP|CLS|MASK|IMAGE|VIDEO|AUDIO|STOP|START|END|NEXT|FIRST|LAST|PREV|N|NUM|MAX|MIN|PER|BY"
    r"|SPECIAL|ADDED|SYSTEM|USER|ASSISTANT|THINK|THINKING|GENERATED|NEW|A|ONE|EACH|UNEXPECTED|INVALID)_TOKEN$"
)
_IN_CAPITALS: Final = re.compile(r"[A-Z][A-Z0-9_]*")
_PASSWORDS: Final = re.compile(r"PASS|PWD|SECRET|KEY|AUTHORIZATION")


@cache
def names_a_secret(variable: str) -> bool:
    """Whether an environment variable of this name holds a secret."""
    return _VARIABLE.search(variable) is not None and _ABOUT_ONE.search(variable) is None


@cache
def _beside(name: str) -> str | None:
    """The name in capitals with underscores, if a value beside it in a text is a secret."""
    name = name.rpartition(".")[2] if "." in name else name
    if _IN_CAPITALS.fullmatch(name) and len(name) > 3:
        return name if names_a_secret(name) and not _OF_A_MODEL.search(name) else None
    capitals = re.sub(r"[^A-Z0-9]+", "_", _WORDS.sub("_", name).upper()).strip("_")
    return capitals if _BESIDE.search(capitals) and not _OF_A_MODEL.search(capitals) else None


# --- values beside a name -----------------------------------------------------------------------------

_TELLING: Final = re.compile(
    r"key|KEY|Key|token|TOKEN|Token|secret|SECRET|Secret|passw|PASSW|Passw|passphrase|PASS|pwd|PWD|Pwd|auth|AUTH|Auth"
    r"|cred|CRED|Cred|[wW]ebhook|WEBHOOK|DSN|CONNECTION_STRING|[sS]ignature|(?<![A-Za-z])(?:sig|PAT|SAS)(?![A-Za-z])"
)
"""Each name beside which a text shows a secret contains one of these."""

_BEGINNING: Final = re.compile(r"[A-Za-z_][\w.-]*\Z")
_NAME: Final = re.compile(r"[A-Za-z_][\w.-]{1,63}")
_MARK: Final = re.compile(r"\\?[\"']?[ \t]{0,3}(?:=>|:=|=|:|%3[Dd])[ \t]{0,3}")
_AFTER_FLAG: Final = re.compile(r"[ \t]{1,3}(?=[^\s-])")
_VALUE: Final = re.compile(
    r'\\"(?:[^"\\]|\\[^"]){0,9999}\\"|"(?:[^"\\]|\\.){0,9999}"|\'(?:[^\'\\]|\\.){0,9999}\''
    r"|\\?[\"']?[^\s&'\",;)}\]<>|\\]+"
)
_HEADER: Final = re.compile(
    r"(?P<name>[Aa]uthorization|AUTHORIZATION)\\?[\"']?[ \t]{0,3}[:=][ \t]{0,3}\\?[\"']?"
    r"(?i:basic|bearer|token|apikey|digest)[ \t]{1,3}(?P<value>[^\s'\",\\]+)"
)

_HARMLESS: Final = re.compile(
    r"-?\d{1,7}(?:\.\d+)?(?![\w+=-])|<[^>]*>|\[[A-Z_]+\]|\[redacted|(?:true|false|none|null|auto|yes|no)$|\*+$|\$\{?\w+\}?$"
    r"|\{",
    re.I,
)
_NUMBER: Final = re.compile(r"\d")
_SIGNS: Final = re.compile(r"\d|[A-Z][a-z]*[A-Z]|[a-z][A-Z]|[+/=_~-]")


def values_beside_names(text: str) -> Iterator[Span]:
    """Values in ``name=value``, ``name: value``, ``--name value`` and the like, by their names."""
    end = -1
    for word in _TELLING.finditer(text):
        if word.start() < end:
            continue  # in a name or value that was looked at already
        before = _BEGINNING.search(text, max(0, word.start() - 48), word.start())
        name = _NAME.match(text, before.start() if before is not None else word.start())
        if name is None:
            continue
        end = name.end()
        telling = _beside(name[0])
        mark = None if telling is None else _MARK.match(text, end)
        if telling is not None and mark is None and text.startswith("--", max(0, name.start() - 2)):
            mark = _AFTER_FLAG.match(text, end)
        value = None if mark is None else _VALUE.match(text, mark.end())
        if telling is None or mark is None or value is None:
            continue
        span = _secret_part(telling, mark[0], value)
        if span is not None:
            end = span[1]
            yield *span, f"a value beside {name[0]}"
    for found in _HEADER.finditer(text):
        yield *found.span("value"), f"a value beside {found['name']}"


def _secret_part(name: str, mark: str, found: re.Match[str]) -> tuple[int, int] | None:
    """The value without its quotes, if it is a secret."""
    if name in ("SIG", "PWD") and "=" not in mark:
        return None
    (start, end), value = found.span(), found[0]
    quote = next((q for q in ('\\"', '"', "'") if value.startswith(q)), "")
    value, start = value.removeprefix(quote), start + len(quote)
    if quote and value.endswith(quote):
        value, end = value.removesuffix(quote), end - len(quote)
    elif "=" not in mark and not _plausible(name, value, found.string[end : end + 1]):
        return None
    harmless = _HARMLESS.match(value) is not None
    if value.isdecimal() and _PASSWORDS.search(name):
        harmless = False
    return None if not value or harmless or is_path(value) else (start, end)


def _plausible(name: str, value: str, after: str) -> bool:
    """Whether a word after ``name:`` is a secret rather than the next word of a sentence."""
    if len(value) < 4:
        return False
    last = after in ("", "\n", "\r") and _PASSWORDS.search(name) is not None
    return last or len(value) >= 20 or _SIGNS.search(value) is not None


def is_path(value: str) -> bool:
    """Whether a value names a file or folder: it exists, or the folder at its root does."""
    if not value.startswith(("/", "~", "./", "../")) or "\0" in value or len(value) > 4096:
        return False
    path = os.path.expanduser(value)
    parts = path.split("/")
    root = "/" + parts[1] if path.startswith("/") and len(parts) > 2 else None
    try:
        return os.path.exists(path) or (root not in (None, "/") and os.path.isdir(str(root)))
    except (OSError, ValueError):
        return False
