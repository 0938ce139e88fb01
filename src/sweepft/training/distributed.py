"""Bring the ranks of one slot together: process group, device, threads, network interface."""

from __future__ import annotations

import contextlib
import fcntl
import importlib
import logging
import os
import socket
import struct
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # exported, if not by name

from sweepft.training.comm_op import load_op, own_tools_first
from sweepft.training.memory import memory_share
from sweepft.training.rendezvous import open_listener

_SIOCGIFADDR = 0x8915
"""Linux ioctl for the IPv4 address of an interface (netdevice(7))."""
_PATIENCE = timedelta(hours=2)
"""Time-out of collectives: longer than a coordinator waits for anything, so that ranks that hang are asked for their
stacks before torch ends them. torch gives NCCL ten minutes."""

_TEST_SIZE, _TEST_ROUNDS = 1024, 20

_PROBE_SECONDS = 10.0
"""For a node to take a connection of another one."""


def join(
    rank: int,
    world_size: int,
    address: str,
    port: int,
    threads: int,
    gpus: float,
    listener: socket.socket | None = None,
) -> torch.device:
    """`prepare` and `connect` in one: initialise torch.distributed through DeepSpeed; returns this rank's device."""
    return connect(prepare(rank, world_size, address, port, threads, gpus, listener))


@dataclass(frozen=True)
class Rendezvous:
    """A rank that has found the others, before anything is sent between them.

    Attributes:
        rank: Of this process.
        world_size: Ranks of the slot.
        device: Of this rank.
        store: Through which the ranks meet.
    """

    rank: int
    world_size: int
    device: torch.device
    store: TCPStore


def prepare(
    rank: int,
    world_size: int,
    address: str,
    port: int,
    threads: int,
    gpus: float,
    listener: socket.socket | None = None,
    *,
    own_address: str | None = None,
    device_index: int = 0,
) -> Rendezvous:
    """Set up device, threads and interfaces, and meet the other ranks. Slow where libraries are imported first.

    Args:
        rank: 0 <= rank < world_size.
        world_size: Ranks of the slot.
        address: Host of rank 0.
        port: Port of rank 0's listener.
        threads: CPU threads this rank may use.
        gpus: This rank's share of a GPU; 0 trains on the CPU, less than 1 limits its memory to that share.
        listener: Rank 0's socket at ``address`` and ``port``, taken over
            (``sweepft.training.rendezvous.open_listener``); opened here by default.
        own_address: This node's address in its Ray cluster, where the slot spans nodes: collectives use its interface.
            By default they use the one that leads to rank 0.
        device_index: This rank's GPU among those that the process sees.
    Raises:
        RuntimeError: If the rank has a GPU and torch sees none, or the CPU communication op cannot be built.
    """
    own_tools_first()
    use_gpu = gpus > 0 and not _gpus_are_pretended()
    if use_gpu and not torch.cuda.is_available():
        raise RuntimeError(
            f"this rank was given {gpus:g} GPU and torch {torch.__version__} sees none: install a CUDA build of torch, "
            "or set resources.gpus_per_worker: 0"
        )
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(device_index),
        WORLD_SIZE=str(world_size),
        MASTER_ADDR=address,
        MASTER_PORT=str(port),
        DS_ACCELERATOR="cuda" if use_gpu else "cpu",
    )
    torch.set_num_threads(max(1, threads))
    importlib.import_module("deepspeed")  # takes seconds, which `connect` must not
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    if use_gpu:
        torch.cuda.set_device(device_index)
        if gpus < 1:
            total = torch.cuda.get_device_properties(device_index).total_memory
            torch.cuda.set_per_process_memory_fraction(memory_share(gpus, total), device_index)
    else:
        load_op()
    use_interface(interface_towards(own_address or address), several_nodes=own_address is not None)
    store = _store(rank, world_size, address, port, listener)
    return Rendezvous(
        rank, world_size, torch.device("cuda", device_index) if use_gpu else torch.device("cpu"), store
    )


def connect(met: Rendezvous) -> torch.device:
    """Form the process group, test this rank's device, and send one number to all ranks; returns the device.

    What a broken network or GPU makes hang hangs here, so call it under a time limit of its own: it takes seconds.

    Raises:
        RuntimeError: If the device computes wrong numbers, or the ranks' numbers do not add up.
    """
    import deepspeed

    cuda = met.device.type == "cuda"
    backend = "nccl" if cuda else "gloo"
    torch.distributed.init_process_group(
        backend,
        store=met.store,
        rank=met.rank,
        world_size=met.world_size,
        timeout=_PATIENCE,
        device_id=met.device if cuda else None,  # NCCL then connects now, not at the first collective
    )
    deepspeed.init_distributed(dist_backend=backend, auto_mpi_discovery=False, verbose=False)
    self_test(met.device)
    total = torch.ones(1, device=met.device)
    torch.distributed.all_reduce(total)
    if int(total.item()) != met.world_size:
        raise RuntimeError(f"the ranks' first all_reduce gave {total.item():g}, not {met.world_size}")
    return met.device


def self_test(device: torch.device) -> None:
    """Multiply matrices of small whole numbers on a GPU, where every sum is exact, and compare with the CPU.

    Raises:
        RuntimeError: If a number differs: the GPU is broken, or its memory.
    """
    if device.type != "cuda":
        return
    left = (torch.arange(_TEST_SIZE * _TEST_SIZE) % 3 - 1).reshape(_TEST_SIZE, _TEST_SIZE).float()
    left[:, torch.arange(_TEST_SIZE) % 8 > 0] = 0.0  # sums below 256 are exact in bfloat16, in any order
    right = left.t().contiguous()
    expected = (left @ right).to(device)
    for dtype in (torch.bfloat16, torch.float32):
        a, b = left.to(device, dtype), right.to(device, dtype)
        for _ in range(_TEST_ROUNDS):
            if not torch.equal((a @ b).float(), expected):
                raise RuntimeError(
                    f"CUDA error: self-test of {device}: a product of whole numbers in {dtype} is wrong"
                )


def check_reach(host: str, others: Sequence[tuple[str, str, int]]) -> None:
    """Open and close a connection to each of the other nodes.

    Args:
        host: This node's name.
        others: Name, address and port of a rank's listener on each of them.
    Raises:
        RuntimeError: With the pair of nodes of the first connection that fails.
    """
    for name, address, port in others:
        try:
            socket.create_connection((address, port), timeout=_PROBE_SECONDS).close()
        except OSError as error:
            raise RuntimeError(
                f"node {host} cannot reach node {name} ({address}:{port}): {error.strerror or error}; ranks of a trial "
                "need all TCP ports between their nodes"
            ) from None


def interface_towards(address: str) -> str | None:
    """Name of the network interface by which this machine reaches an address; None where it is not known.

    For this machine's own addresses: the interface that holds them. Linux and IPv4; of IPv6 only the loopback.
    """
    if sys.platform != "linux":
        return None
    if address == "::1":
        return "lo"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((address, 9))  # a datagram socket: sends nothing
            own = socket.inet_aton(probe.getsockname()[0])
        except OSError:
            return None
        for _, name in socket.if_nameindex():
            with contextlib.suppress(OSError):  # an interface without an address
                request = struct.pack("256s", name.encode())
                if fcntl.ioctl(probe.fileno(), _SIOCGIFADDR, request)[20:24] == own:
                    return name
    return None


def use_interface(interface: str | None, several_nodes: bool) -> None:
    """Use an interface for tensors too, unless the user's environment names another one.

    By default gloo listens at the address of this machine's host name, often the loopback, where ranks of other
    machines never reach it. NCCL takes the first interface that is not the loopback or Docker's, such as a bridge of
    virtual machines; InfiniBand and EFA, where it finds them, carry its tensors whatever interface it meets through.
    """
    if interface is None:
        return
    os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
    if several_nodes or interface == "lo":
        os.environ.setdefault("NCCL_SOCKET_IFNAME", f"={interface}")  # this one, not all that begin so


def _gpus_are_pretended() -> bool:
    """Whether GPUs are only counted, to try a sweep's placement on a machine without any."""
    return os.environ.get("SWEEPFT_PRETEND_GPUS") == "1"


def _store(rank: int, world_size: int, address: str, port: int, listener: socket.socket | None) -> TCPStore:
    """The rendezvous store. Rank 0 listens at its node's address only; by default torch listens at all of them."""
    held = (listener or open_listener(address, port)).detach() if rank == 0 else None
    return TCPStore(
        address,
        port,
        world_size,
        is_master=rank == 0,
        timeout=_PATIENCE,
        wait_for_workers=False,
        master_listen_fd=held,
    )


def leave() -> None:
    """Take this rank out of its process group."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
