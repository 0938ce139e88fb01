"""Set-up of a rank: its GPU or share of one, and the network that joins the ranks."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from support.namespaces import Network, can_make_namespaces
from sweepft.slot.rank import Rank
from sweepft.training.distributed import check_reach, join, self_test, use_interface
from sweepft.training.memory import device_memory, memory_share
from sweepft.training.rank_environment import device_index, set_rank_environment


def test_join__refuses_a_gpu_that_torch_does_not_see(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delenv("SWEEPFT_PRETEND_GPUS", raising=False)
    with pytest.raises(
        RuntimeError, match=r"given 0\.5 GPU and torch .* sees none: install a CUDA build of torch"
    ):
        join(0, 1, "127.0.0.1", 1, 1, 0.5)


RANK = """
import sys, torch
from sweepft.training.distributed import join
rank, address = int(sys.argv[1]), sys.argv[2]
join(rank, 2, address, 29500, 1, 0)
seen = torch.tensor([rank + 1.0])
torch.distributed.all_reduce(seen)
print("sum", seen.item())
"""


@pytest.mark.skipif(not can_make_namespaces(), reason="needs root and iproute2, for network namespaces")
def test_join__two_machines_with_unresolvable_names():
    """As on a Debian machine, whose own name leads to the loopback: gloo would listen there, out of reach of the others."""
    with Network() as network:
        machines = [network.add(), network.add()]
        ranks = [
            subprocess.Popen(
                [*machine.prefix, sys.executable, "-c", RANK, str(i), machines[0].address],
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            )
            for i, machine in enumerate(machines)
        ]  # fmt: skip
        try:
            for rank in ranks:
                output, _ = rank.communicate(timeout=300)
                assert "sum 3.0" in output, output[-3000:]
        finally:
            for rank in ranks:
                rank.kill()
                rank.wait()


@pytest.mark.parametrize(
    ("gpus", "gib", "share"), [(0.5, 80, 0.4875), (0.25, 24, 0.25 - 1 / 24), (0.1, 8, 0.05)]
)
def test_memory_share__leaves_room_for_overhead(gpus, gib, share):
    assert memory_share(gpus, gib * 2**30) == pytest.approx(share)


def test_open_listener__holds_the_port(monkeypatch):
    monkeypatch.setattr("ray.util.get_node_ip_address", lambda: "127.0.0.1")
    context = SimpleNamespace(get_node_id=lambda: "n", get_accelerator_ids=lambda: {"GPU": []})
    monkeypatch.setattr("ray.get_runtime_context", lambda: context)
    first, other = (object.__new__(Rank) for _ in range(2))
    for index, rank in enumerate((first, other)):
        rank._index, rank._listener, rank._log_file, rank._beats = index, None, "", None
    port = first.where()["port"]
    with pytest.raises(OSError, match="in use"):
        socket.create_server(("127.0.0.1", port))
    assert first.where()["port"] == port
    for rank in (first, other):
        rank.where()
        rank._listener.close()


def test_check_reach__names_the_pair_of_nodes():
    with socket.create_server(("127.0.0.1", 0)) as there:
        check_reach("n1", [("n2", "127.0.0.1", there.getsockname()[1])])
        closed = there.getsockname()[1]
    with pytest.raises(
        RuntimeError, match=r"node n1 cannot reach node n3 \(127\.0\.0\.1:\d+\): Connection refused"
    ):
        check_reach("n1", [("n3", "127.0.0.1", closed)])


@pytest.mark.parametrize(
    ("interface", "nodes", "given", "gloo", "nccl"),
    [
        ("eth1", True, None, "eth1", "=eth1"),
        ("eth1", False, None, "eth1", None),
        ("lo", False, None, "lo", "=lo"),
        ("eth1", True, "ib0", "eth1", "ib0"),  # the user's own stays
        (None, True, None, None, None),
    ],
)
def test_use_interface__of_rays_node_on_several_nodes(monkeypatch, interface, nodes, given, gloo, nccl):
    monkeypatch.setattr(os, "environ", {"NCCL_SOCKET_IFNAME": given} if given else {})
    use_interface(interface, several_nodes=nodes)
    assert (os.environ.get("GLOO_SOCKET_IFNAME"), os.environ.get("NCCL_SOCKET_IFNAME")) == (gloo, nccl)


@pytest.mark.parametrize(
    ("ids", "visible", "place"),
    [
        ([3], "3", 0),  # Ray shows the rank its own GPU only
        (["3"], None, 3),  # or all of them
        (["3"], "2,3", 1),
        ([5], "GPU-a,GPU-b", 0),
        (["GPU-b"], "GPU-a,GPU-b", 1),
        ([], None, 0),
    ],
)
def test_device_index__is_the_gpu_that_ray_gave(ids, visible, place):
    assert device_index(ids, visible) == place


def test_set_rank_environment__spec_before_defaults(monkeypatch):
    monkeypatch.setattr(os, "environ", {"NCCL_DEBUG": "INFO"})
    set_rank_environment({"NCCL_SOCKET_IFNAME": "ib0", "TOKENIZERS_PARALLELISM": "true"})
    assert os.environ == {
        "NCCL_DEBUG": "INFO", "NCCL_SOCKET_IFNAME": "ib0", "TOKENIZERS_PARALLELISM": "true",
        "PYTORCH_ALLOC_CONF": "expandable_segments:True", "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }  # fmt: skip
    monkeypatch.setattr(os, "environ", {"PYTORCH_CUDA_ALLOC_CONF": "max_split_size_mb:64"})
    set_rank_environment({})
    assert "PYTORCH_ALLOC_CONF" not in os.environ


@pytest.mark.gpu
def test_self_test__passes_on_a_sound_gpu():
    self_test(torch.device("cuda", 0))


@pytest.mark.gpu
def test_join__limits_memory_to_the_share():
    total = torch.cuda.get_device_properties(0).total_memory
    share = memory_share(0.25, total)
    torch.cuda.set_per_process_memory_fraction(share, 0)
    try:
        with pytest.raises(torch.OutOfMemoryError):
            torch.empty(int(0.3 * total), dtype=torch.uint8, device="cuda")
        assert device_memory(torch.device("cuda", 0))[1] == int(total * share)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, 0)
