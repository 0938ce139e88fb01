"""Which nodes start no trial: two different trials failed there before their first report, and there is room elsewhere.

Only new slots keep away from such a node. Slots that live on it go on, since a node may have one broken GPU of eight.
Each session begins with every node of the cluster: a resume gives all of them another chance.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from ray import tune
from ray.util.placement_group import PlacementGroup, placement_group

from sweepft.driver.control import DriverOnly
from sweepft.ledger.rows import NODE_KEPT_OUT, NODE_USED_AGAIN
from sweepft.slot.room import Node, slots_on
from sweepft.spec import Resources

_TRIALS: Final = 2
"""Different trials that must have failed on a node."""

_SHARED: Final = 3
"""Nodes on which trials fail while none has worked anywhere: the cause is then one that they share."""


@dataclass(frozen=True)
class _Failure:
    """A trial that failed on a node before its first report; ``among`` nodes, of which any may be the cause."""

    reason: str
    among: int


class NodeHealth(DriverOnly):
    """Counts the trials that could not start on each node in one session.

    Args:
        resources: What a slot needs.
        nodes: The living nodes of the cluster, by Ray's id.

    Attributes:
        kept_out: Ray's ids of the nodes on which no new slot is placed.
        worked: Whether a trial has reported in this session.
    """

    def __init__(self, resources: Resources, nodes: Callable[[], dict[str, Node]]) -> None:
        self._resources = resources
        self._nodes = nodes
        self._names: dict[str, str] = {}
        self._failures: dict[str, dict[str, _Failure]] = {}
        self._common: frozenset[str] | None = None
        self._avoided: set[str] = set()
        self._declared: set[str] = set()
        self.kept_out: frozenset[str] = frozenset()
        self.worked = False

    def name(self, node: str) -> str:
        """Host name and address of a node, as far as it is known."""
        self._names |= {node_id: found.name for node_id, found in self._nodes().items()}
        return self._names.get(node, node)

    def failed(self, trial: str, nodes: Sequence[str], reason: str, control: str | None = None) -> None:
        """A trial failed before its first report.

        Args:
            trial: Its name.
            nodes: Of the ranks that failed; of all ranks where it is unknown which one did.
            reason: What they raised.
            control: Another trial, which has trained elsewhere and failed there as well.
        """
        line = reason.splitlines()[0] if reason else ""
        for node in nodes:
            self.name(node)  # it may be gone when it is to be named
            for failing in (trial, control):
                if failing is not None:
                    self._failures.setdefault(node, {})[failing] = _Failure(line, len(nodes))
        if nodes:
            self._common = frozenset(nodes) if self._common is None else self._common & frozenset(nodes)
        self._choose()

    def reported(self, nodes: Sequence[str]) -> None:
        """A trial reported on these nodes: none of them was the cause where another one may have been."""
        self.worked = True
        doubtful = [n for n in nodes if any(found.among > 1 for found in self._failures.get(n, {}).values())]
        for node in doubtful:
            self._failures[node] = {t: found for t, found in self._failures[node].items() if found.among == 1}
        if self._avoided or doubtful:
            self._avoided.clear()
            self._choose()
        self._common = None

    def withdraw(self, trial: str) -> None:
        """A trial has failed for its own settings: that it failed on a node says nothing about the node."""
        there = [found for found in self._failures.values() if trial in found]
        for found in there:
            del found[trial]
        if there:
            self._choose()

    def avoid(self, nodes: Collection[str]) -> bool:
        """Place no new slot on these nodes, where a trial has just failed, until a trial has reported.

        Where one of several is the cause, one that took part in every failure is tried first.

        Returns:
            Whether the next slot is placed elsewhere; False where there is no room, or the cause is a shared one.
        """
        if self.shared:
            return False
        avoided = set() if self._common else set(self._avoided)
        for node in sorted(self._common or nodes, key=lambda node: -len(self._failures[node])):
            if self._room(avoided | {node}):
                avoided.add(node)
        self._avoided = avoided
        self._choose()
        return not self.kept_out.isdisjoint(nodes)

    def room_without(self, nodes: Collection[str]) -> bool:
        """Whether a slot fits the nodes that are neither kept out nor among these; False where these are unknown."""
        return bool(nodes) and self._room(self.kept_out | set(nodes))

    def avoid_common(self) -> bool:
        """`avoid` the nodes that took part in each failure so far, if there are such nodes."""
        return bool(self._common) and self.avoid(self._common or ())

    @property
    def shared(self) -> bool:
        """Whether trials fail on several nodes while none has worked anywhere: a cause that all nodes share."""
        return not self.worked and not self._common and len(self._suspects()) >= _SHARED

    def describe(self) -> str:
        """The nodes on which trials failed, a line for each, where there are several."""
        found = self._suspects()
        if len(found) < 2:
            return ""
        return "".join(f"\n  {self.name(node)}: {self._words(node)}" for node in found)

    def news(self) -> list[dict[str, Any]]:
        """Fields of the ``fault`` rows that are due since the last call: nodes kept out, or used again.

        A node is named once a trial has worked somewhere: until then the cause may be one that all nodes share.
        """
        if not self.worked:
            return []
        rows = []
        for node in sorted(self.kept_out - self._declared):
            message = f"{self.name(node)}: {self._words(node)}\n  check the machine; a resume uses it again"
            rows.append({"node": self.name(node), "message": message, "action": NODE_KEPT_OUT})
        for node in sorted(self._declared - self.kept_out):
            message = f"{self.name(node)}: the trials that failed there failed on other nodes, too"
            rows.append({"node": self.name(node), "message": message, "action": NODE_USED_AGAIN})
        self._declared = set(self.kept_out)
        return [{"error": "NodeFailed"} | row for row in rows]

    def _words(self, node: str) -> str:
        failures = self._failures[node]
        *others, last = failures
        trials = f"{', '.join(others)} and {last}" if others else last
        return f"{trials} failed there before the first report: {failures[last].reason}"

    def _suspects(self) -> list[str]:
        """Nodes on which trials failed, the most first."""
        found = [node for node, failures in self._failures.items() if failures]
        return sorted(found, key=lambda node: -len(self._failures[node]))

    def _choose(self) -> None:
        """Keep out the nodes on which most trials failed, as long as the others have room for a slot."""
        chosen: set[str] = set()
        for node in self._suspects():
            enough = len(self._failures[node]) >= _TRIALS or node in self._avoided
            if enough and self._room(chosen | {node}):
                chosen.add(node)
        self.kept_out = frozenset(chosen)

    def _room(self, without: Collection[str]) -> bool:
        rest = [node for node_id, node in self._nodes().items() if node_id not in without]
        return slots_on(rest, self._resources) > 0


class SlotPlacement(tune.PlacementGroupFactory):
    """The placement of a slot, away from nodes that are kept out when it is asked for.

    Tune holds many copies of it and compares them to reuse slots, so they must be equal whatever is kept out.

    Attributes:
        kept_out: Ray's ids of the nodes that are kept out now, in the driver's process.
    """

    kept_out: ClassVar[Callable[[], Collection[str]]] = frozenset

    def to_placement_group(self) -> PlacementGroup:
        """Ask Ray for the placement group."""
        nodes = sorted(type(self).kept_out())
        if not nodes:
            return super().to_placement_group()
        elsewhere = {"ray.io/node-id": f"!in({','.join(nodes)})"}
        return placement_group(
            self.bundles, self.strategy, bundle_label_selector=[elsewhere] * len(self.bundles)
        )
