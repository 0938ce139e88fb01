"""Bring the ranks of one slot together: process group, device, threads, network interface."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import socket
import struct
import sys
from datetime import timedelta

import torch
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # exported, if not by name

from sweepft.training.comm_op import load_op, own_tools_first
from sweepft.training.memory import memory_share
from sweepft.training.rendezvous import open_listener

_SIOCGIFADDR = 0x8915
"""Linux' request for an interface's IPv4 address (netdevice(7))."""
_PATIENCE = timedelta(minutes=30)
"""For collectives, as DeepSpeed has it; torch gives NCCL ten."""


def join(
    rank: int,
    world_size: int,
    address: str,
    port: int,
    threads: int,
    gpus: float,
    listener: socket.socket | None = None,
) -> torch.device:
    """Initialise torch.distributed through DeepSpeed; returns this rank's device.

    Args:
        rank: 0 <= rank < world_size.
        world_size: Ranks of the slot.
        address: Host of rank 0.
        port: Of rank 0's listener there.
        threads: CPU threads this rank may use.
        gpus: What this rank was given of a GPU; 0 trains on the CPU, less than 1 holds it to that share of the memory.
        listener: Of rank 0 (``sweepft.training.rendezvous.listen``), at ``address`` and ``port``; taken over. Made here
            where it is not given.
    Raises:
        RuntimeError: If it was given a GPU and torch sees none, or the communication op of CPUs cannot be built.
    """
    own_tools_first()
    use_gpu = gpus > 0 and not _pretend()
    if use_gpu and not torch.cuda.is_available():
        raise RuntimeError(
            f"this rank was given {gpus:g} GPU and torch {torch.__version__} sees none: install a CUDA build of torch, "
            "or set resources.gpus_per_worker: 0"
        )
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK="0",  # Ray shows each rank only its own device
        WORLD_SIZE=str(world_size),
        MASTER_ADDR=address,
        MASTER_PORT=str(port),
        DS_ACCELERATOR="cuda" if use_gpu else "cpu",
    )
    torch.set_num_threads(max(1, threads))
    import deepspeed

    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    if use_gpu:
        torch.cuda.set_device(0)
        if gpus < 1:
            total = torch.cuda.get_device_properties(0).total_memory
            torch.cuda.set_per_process_memory_fraction(memory_share(gpus, total), 0)
    else:
        load_op()
    _speak_through(interface_towards(address))
    torch.distributed.init_process_group(
        "nccl" if use_gpu else "gloo",
        store=_store(rank, world_size, address, port, listener),
        rank=rank,
        world_size=world_size,
        timeout=_PATIENCE,
    )
    deepspeed.init_distributed(
        dist_backend="nccl" if use_gpu else "gloo", auto_mpi_discovery=False, verbose=False
    )
    return torch.device("cuda", 0) if use_gpu else torch.device("cpu")


def interface_towards(address: str) -> str | None:
    """Name of the network interface by which this machine reaches an address; None where that cannot be told.

    Of this machine's own addresses it is the interface that holds them. Linux and IPv4; of IPv6 the loopback only.
    """
    if sys.platform != "linux":
        return None
    if address == "::1":
        return "lo"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as way:
        try:
            way.connect((address, 9))  # of datagrams: nothing is sent
            own = socket.inet_aton(way.getsockname()[0])
        except OSError:
            return None
        for _, name in socket.if_nameindex():
            with contextlib.suppress(OSError):  # an interface without an address
                request = struct.pack("256s", name.encode())
                if fcntl.ioctl(way.fileno(), _SIOCGIFADDR, request)[20:24] == own:
                    return name
    return None


def _speak_through(interface: str | None) -> None:
    """Have the ranks' tensors go the way on which the ranks meet, unless the user names another one.

    Left alone, gloo listens where this machine's own name leads, which is often the loopback: ranks of other machines
    would wait for it for ever. NCCL looks for the fastest way itself, but takes the loopback only where it is told to.
    """
    if interface is not None:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
    if interface == "lo":
        os.environ.setdefault("NCCL_SOCKET_IFNAME", interface)


def _pretend() -> bool:
    """Whether GPUs are only counted: a sweep's placement can then be tried where there are none."""
    return os.environ.get("SWEEPFT_PRETEND_GPUS") == "1"


def _store(rank: int, world_size: int, address: str, port: int, listener: socket.socket | None) -> TCPStore:
    """Where the ranks meet. Rank 0 listens at its node's address alone, where torch would listen at every one."""
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
