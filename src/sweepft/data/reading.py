"""How the rows of a source are to be read, what reading them counts, and the fault of a row that cannot be used."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

FORMS: Final = (
    "give each row `messages` ([{role, content}, ...]), `prompt` and `completion`, `instruction` and `output`, "
    "`question` and `answer`, ShareGPT's `conversations`, or `text`"
)


class RowFault(Exception):
    """A row that cannot be used as it is.

    Attributes:
        key: The column or message that is wrong.
        rule: The rule that is broken.
        value: The value found, if showing it helps.
        remedy: What to do.
        detail: What is special about this row; rows whose key and rule are equal are reported together.
    """

    def __init__(
        self, key: str, rule: str, value: Any = None, remedy: str = FORMS, *, detail: str = ""
    ) -> None:
        super().__init__(rule)
        self.key, self.rule, self.value, self.remedy, self.detail = key, rule, value, remedy, detail

    @property
    def kind(self) -> tuple[str, str]:
        """Equal for rows with the same fault, whichever message has it."""
        return re.sub(r"\d+", "*", self.key), self.rule


@dataclass(frozen=True)
class Options:
    """How the rows of a source are to be read; the keys of a source in the spec.

    Attributes:
        domain: Domain of all rows; by default the row's own.
        format: Name of the format; by default it is recognised.
        columns: Key of a format to the name of the column.
        system: System turn of conversations without one.
        roles: Role as written to role of the template.
        train_on: ``all`` or ``last`` assistant turns, or roles whose turns are learned.
    """

    domain: str | None = None
    format: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    system: str | None = None
    roles: Mapping[str, str] = field(default_factory=dict)
    train_on: str | tuple[str, ...] = "all"


@dataclass
class Reading:
    """How a source is read, and what reading found beside its rows.

    Attributes:
        options: How.
        formats: Rows by the name of their format.
        unused: Rows by column that is not used; keys of messages as ``messages[].key``.
        roles: Messages by role as written and role as read, where they differ.
        nulls: Rows by the column or key in which keys of objects were null, and were left out.
        odd: Rows by what is unusual about their turns, with the place of the first one.
    """

    options: Options = Options()
    formats: Counter[str] = field(default_factory=Counter)
    unused: Counter[str] = field(default_factory=Counter)
    roles: Counter[tuple[str, str]] = field(default_factory=Counter)
    nulls: Counter[str] = field(default_factory=Counter)
    odd: dict[str, tuple[int, str]] = field(default_factory=dict)

    def note_odd(self, what: str, where: str) -> None:
        """Count a row with unusual turns."""
        n, first = self.odd.get(what, (0, where))
        self.odd[what] = n + 1, first
