"""Accounts for the time of a sweep's slots, from its ledger.

A slot's time is wall time from the start of its ranks until the end of its last trial. Time that belongs to no phase is
counted as *waiting*.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from sweepft.ledger import read_ledger

__all__ = ["PHASES", "SlotTime", "slot_times"]
PHASES = ("steps", "data", "records", "evaluate", "switch", "other", "waiting")


@dataclass
class SlotTime:
    """Seconds of one slot.

    Attributes:
        trials: Number of trials it ran.
        start: Start of its ranks, once per slot: processes, imports, process group, model, engine.
        ready: Unix seconds at which its ranks were up.
        end: Unix seconds of its last row.
        switches: Each warm switch: from taking a trial until the engine is ready.
        seconds: By phase: ``steps`` inside optimizer steps (forward, backward, update), ``data`` waiting for their
            batches, ``records`` collecting the ranks' losses, ``evaluate`` validation losses, ``switch`` warm
            resets, ``other`` between calls in the slot, ``waiting`` for the driver (loop, search, ledger).
    """

    trials: int = 0
    start: float = 0.0
    ready: float = 0.0
    end: float = 0.0
    switches: list[float] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PHASES, 0.0))

    @property
    def warm_seconds(self) -> float:
        """Wall seconds since its ranks were up."""
        return self.end - self.ready

    def share(self, phase: str, with_start: bool = False) -> float:
        """Fraction of the slot's time spent in a phase; ``with_start`` includes the start of its ranks in that time."""
        whole = self.warm_seconds + (self.start if with_start else 0.0)
        return self.seconds[phase] / whole if whole > 0 else 0.0


def slot_times(run_dir: Path) -> dict[str, SlotTime]:
    """Time of every slot by name, in the order in which they came up."""
    slots: dict[str, SlotTime] = defaultdict(SlotTime)
    slot_of: dict[str, str] = {}
    cold: set[str] = set()
    for row in read_ledger(run_dir):
        name = row.get("trial_id") or ""
        if row["kind"] == "start":
            slot = slots[row["slot"]]
            slot_of[name] = row["slot"]
            slot.trials += 1
            if row["warm"]:
                slot.switches.append(row["switch_seconds"])
            else:
                cold.add(name)
                slot.start += row["switch_seconds"]
        elif row["kind"] == "steps":
            slot, phases = slots[slot_of[name]], row["phase_seconds"]
            waited = phases.get("data", 0.0)
            stepping = sum(row["history"]["seconds"]) - waited
            slot.seconds["steps"] += stepping
            slot.seconds["data"] += waited
            slot.seconds["records"] += phases["train"] - stepping
            if name not in cold:
                slot.seconds["switch"] += phases.get("switch", 0.0)
            slot.seconds["evaluate"] += phases.get("evaluate", 0.0)
            slot.seconds["other"] += phases["other"]
            if not slot.ready:  # the first report includes the start of the ranks as "switch"
                slot.ready = row["time"] - (sum(phases.values()) - phases.get("switch", 0.0))
        if name in slot_of:
            slots[slot_of[name]].end = row["time"]
    for slot in slots.values():
        slot.seconds["waiting"] = slot.warm_seconds - sum(slot.seconds.values())
    return dict(slots)
