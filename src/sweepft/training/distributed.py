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
"""Linux ioctl for the IPv4 address of an interface (netdevice(7))."""
_PATIENCE = timedelta(minutes=30)
"""Time-out of collectives, DeepSpeed's default; torch gives NCCL ten minutes."""


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
        port: Port of rank 0's listener.
        threads: CPU threads this rank may use.
        gpus: This rank's share of a GPU; 0 trains on the CPU, less than 1 limits its memory to that share.
        listener: Rank 0's socket at ``address`` and ``port``, taken over
            (``sweepft.training.rendezvous.open_listener``); opened here by default.
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
    _use_interface(interface_towards(address))
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


def _use_interface(interface: str | None) -> None:
    """Use the rendezvous' interface for tensors too, unless the user's environment names another one.

    By default gloo listens at the address of this machine's host name, often the loopback, where ranks of other
    machines never reach it. NCCL picks the fastest interface itself, but the loopback only on request.
    """
    if interface is not None:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
    if interface == "lo":
        os.environ.setdefault("NCCL_SOCKET_IFNAME", interface)


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
