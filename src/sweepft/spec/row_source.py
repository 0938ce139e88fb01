"""Where the rows of a source are, and how its columns, roles and turns are read: the keys that all sources have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from sweepft.spec.fields import PositiveInt, Section, invalid

RowFormat = Literal["messages", "sharegpt", "prompt_completion", "alpaca", "question_answer", "text"]

COLUMN_FIELDS: Final = (
    *("messages", "conversations", "prompt", "completion", "instruction", "input", "output", "history"),
    *("question", "answer", "text", "system", "tools", "domain", "role", "content"),
)
"""What `columns` may map: the columns of the formats, and the keys of a message (`role`, `content`)."""
ROLES: Final = ("system", "developer", "user", "assistant", "tool")
"""Roles that `roles` may map to."""
LEARNABLE: Final = ("assistant", "user", "system", "developer")
"""Roles whose turns can be learned: results of tools never are."""


def _known_fields(columns: Mapping[str, str]) -> Mapping[str, str]:
    for name in columns:
        if name not in COLUMN_FIELDS:
            rule = f"{name} is not a column that a row is read from"
            raise invalid(rule, f"map one of {', '.join(COLUMN_FIELDS)} to the name of your column")
    named = [column for name, column in columns.items() if name not in ("role", "content")]
    twice = next((column for column in named if named.count(column) > 1), None)
    if twice is not None:
        raise invalid(f"must not read the column {twice} twice", "map each of your columns to one key")
    return columns


def _known_roles(roles: Mapping[str, str]) -> Mapping[str, str]:
    for name, role in roles.items():
        if role not in ROLES:
            rule = f"{name} must be mapped to a role of chat templates"
            raise invalid(rule, f"write one of {', '.join(ROLES)}, for example roles: {{{name}: user}}")
    return roles


def _train_on(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _learnable(value: str | tuple[str, ...]) -> str | tuple[str, ...]:
    if isinstance(value, str):
        if value not in ("all", "last"):
            raise invalid("must be all, last or a list of roles", "for example train_on: [assistant, user]")
        return value
    wrong = [role for role in value if role not in LEARNABLE]
    if wrong:
        rule = f"turns of role {wrong[0]} cannot be learned"
        raise invalid(rule, f"list roles among {', '.join(LEARNABLE)}")
    return value


_Text = Annotated[str, Field(min_length=1)]
TrainOn = Annotated[
    str | Annotated[tuple[str, ...], Field(min_length=1)],
    BeforeValidator(_train_on, json_schema_input_type=Literal["all", "last"] | list[str]),
    AfterValidator(_learnable),
]


class RowForm(Section):
    """How the columns and turns of rows are read."""

    format: RowFormat | None = None
    """Format of the rows, where their columns fit several: `messages`, `sharegpt` (`conversations`),
    `prompt_completion`, `alpaca` (`instruction`, `input`, `output`), `question_answer` or `text`. By default it is
    recognised by the columns."""
    columns: Annotated[Mapping[str, _Text], AfterValidator(_known_fields)] | None = None
    """Columns by other names: key of a format to the name in the data, e.g. `{prompt: question, completion: answer}`.
    `role` and `content` rename the keys of messages; a dot goes into an object (`answers.text`)."""
    system: _Text | None = None
    """System turn of every conversation that has none."""
    roles: Annotated[Mapping[str, str], AfterValidator(_known_roles)] | None = None
    """Roles by other names, e.g. `{customer: user, agent: assistant}`."""


class _Parts(Section):
    config: _Text | None = None
    """Configuration (subset) of a hub data set, or of a folder cloned from the hub; by default its only one."""
    revision: _Text | None = None
    """Commit, tag or branch of a hub data set; pin a commit for runs that must be repeatable."""
    split: _Text | None = None
    """Split of a hub data set or folder, or a part of one as `datasets` writes it: `train[:10%]`, `train+test`,
    `train[1000:]`. By default its only split, else `train` (`test` for test sets)."""


class RowSource(RowForm, _Parts):
    """How a source of rows is found and read."""

    train_on: TrainOn = "all"
    """Turns that are learned: `all` assistant turns, only the `last` one, or those of a list of roles
    (`[assistant, user]`). A turn with `weight: 0` never is."""
    limit: PositiveInt | None = None
    """Maximum number of rows, drawn with `data.seed`; by default all."""
