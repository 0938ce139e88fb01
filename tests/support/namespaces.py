"""Machines with addresses and names of their own on this machine: network namespaces on a bridge (Linux, root).

One idea: the bridge lies in a namespace, too, so that nothing of this machine's own network is touched and no packet
leaves what was made here.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from typing import Self

__all__ = ["Machine", "Network", "can_make_namespaces"]


def can_make_namespaces() -> bool:
    """Whether this process may make network namespaces, and has the tools for it."""
    if os.geteuid() != 0 or not all(shutil.which(tool) for tool in ("ip", "unshare")):
        return False
    name = f"sft{os.getpid()}-try"
    made = subprocess.run(["ip", "netns", "add", name], check=False, capture_output=True).returncode == 0
    if made:
        _ip("netns", "del", name)
    return made


@dataclass(frozen=True)
class Machine:
    """One namespace: a command with ``prefix`` before it runs there, under the same process id."""

    name: str
    address: str
    prefix: tuple[str, ...]


class Network:
    """A bridge and the machines on it; they are gone when the block ends."""

    def __init__(self) -> None:
        self._name = f"sft{os.getpid()}-{os.urandom(2).hex()}"
        self._machines: list[Machine] = []

    def add(self) -> Machine:
        """Another machine, ``10.77.0.N``."""
        number = len(self._machines) + 1
        name, port, switch = f"{self._name}-{number}", f"p{number}", self._switch
        _ip("netns", "add", name)
        named = ("unshare", "--uts", "sh", "-c", 'hostname "$0" && exec "$@"', f"machine{number}")
        machine = Machine(name, f"10.77.0.{number}", ("ip", "netns", "exec", name, *named))
        self._machines.append(machine)
        _ip("-n", switch, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", name)
        _ip("-n", switch, "link", "set", port, "master", "br0", "up")
        _ip("-n", name, "address", "add", f"{machine.address}/16", "dev", "eth0")
        for device in ("lo", "eth0"):
            _ip("-n", name, "link", "set", device, "up")
        _ip(
            "-n", name, "route", "add", "default", "dev", "eth0"
        )  # Ray asks for the way out to find its address
        return machine

    def cut(self, machine: Machine) -> None:
        """Pull its cable: packets vanish, and no connection is closed."""
        port = f"p{self._machines.index(machine) + 1}"
        _ip("-n", self._switch, "link", "set", port, "down")

    def __enter__(self) -> Self:
        self._switch = f"{self._name}-switch"
        _ip("netns", "add", self._switch)
        _ip("-n", self._switch, "link", "add", "br0", "type", "bridge")
        _ip("-n", self._switch, "link", "set", "br0", "up")
        return self

    def __exit__(self, *_: object) -> None:
        for name in (*(machine.name for machine in self._machines), self._switch):
            subprocess.run(["ip", "netns", "del", name], check=False)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)
