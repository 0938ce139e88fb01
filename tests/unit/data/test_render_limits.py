"""A chat template that does not end, or fills memory, is refused with the key of the spec."""

from __future__ import annotations

import pytest

from support.errors import raises
from sweepft.data import render_limits, trace
from sweepft.data.render_limits import OutOfHand
from sweepft.data.rows import Turn
from sweepft.data.trace import Tracer

TURNS = (Turn("user", "Question"), Turn("assistant", "Answer"))
NESTED = "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}{% endfor %}{% endfor %}{% endfor %}"


@pytest.mark.parametrize(
    "template",
    [
        NESTED,
        "{{ 'a' * 10**10 }}",
        "{{ '%10000000000d' % 1 }}",
        "{{ 'a'.ljust(10**10) }}",
        "{% set x = 'a' * 10**6 %}{{ x * 70 }}",
        "{% macro f() %}{{ f() }}{{ f() }}{{ f() }}{% endmacro %}{% for i in range(9999) %}{{ messages * 9999 }}{% endfor %}",
    ],
)
def test_render__out_of_hand_is_refused(template: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(render_limits, "SECONDS", 0.3)
    monkeypatch.setattr(render_limits, "MEMORY", 1 << 28)
    with raises(OutOfHand, "model.chat_template"):
        Tracer(template, {}, marked=False).trace(TURNS)


@pytest.mark.parametrize(
    "template",
    [
        "{{ 1 / 0 }}",
        "{{ 9**99999999 }}",
        "{% set n = namespace(x=9) %}{% for i in range(40) %}{% set n.x = n.x * n.x %}{% endfor %}",
        "{{ f( }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{{ " + "(" * 5000,
    ],
)
def test_render__other_faults_are_of_the_conversation(template: str) -> None:
    with pytest.raises(ValueError, match="chat template"):
        Tracer(template, {}, marked=False).trace(TURNS)


def test_render__limits_are_lifted_afterwards() -> None:
    import resource
    import signal

    before = resource.getrlimit(resource.RLIMIT_DATA), signal.getsignal(signal.SIGVTALRM)
    assert trace.Tracer("{{ messages[0].content }}", {}, marked=False).render(TURNS).text == "Question"
    assert (resource.getrlimit(resource.RLIMIT_DATA), signal.getsignal(signal.SIGVTALRM)) == before
    assert signal.getitimer(signal.ITIMER_VIRTUAL) == (0.0, 0.0)
