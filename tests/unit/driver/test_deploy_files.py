"""The manifests in deploy/ are of the kind they say, and their commands are sweepft's own."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import click
import pytest
import yaml

from sweepft.cli.main import cli

DEPLOY = Path(__file__).parents[3] / "deploy"

JOB_FIELDS = {
    "entrypoint": str, "submissionMode": str, "backoffLimit": int, "shutdownAfterJobFinishes": bool,
    "ttlSecondsAfterFinished": int, "rayClusterSpec": dict,
}  # fmt: skip
"""Fields of a ray.io/v1 RayJob that are used, with their types in KubeRay's schema."""
HEAD_FIELDS = {"serviceType": str, "rayStartParams": dict, "template": dict}
WORKER_FIELDS = {
    "groupName": str, "replicas": int, "minReplicas": int, "maxReplicas": int,
    "rayStartParams": dict, "template": dict,
}  # fmt: skip


def fields(found: dict, known: dict[str, type]) -> None:
    assert set(found) == set(known)
    for key, kind in known.items():
        assert isinstance(found[key], kind), key


def check_command(words: list[str]) -> None:
    """A sweepft command line with known options and the right number of arguments."""
    assert words[0] == "sweepft"
    command = cli.commands[words[1]]
    with click.Context(command, resilient_parsing=True) as context:
        command.parse_args(context, words[2:])
    assert not context.args
    known = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= known


@pytest.fixture(scope="module")
def job() -> dict:
    return yaml.safe_load((DEPLOY / "kuberay-rayjob.yaml").read_text())


def test_ray_job_file__has_the_fields_of_its_kind(job: dict) -> None:
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert re.fullmatch(r"[a-z0-9-]{1,47}", job["metadata"]["name"])
    fields(job["spec"], JOB_FIELDS)
    cluster = job["spec"]["rayClusterSpec"]
    assert set(cluster) == {"rayVersion", "authOptions", "headGroupSpec", "workerGroupSpecs"}
    assert cluster["authOptions"] == {"mode": "token"}
    fields(cluster["headGroupSpec"], HEAD_FIELDS)
    (workers,) = cluster["workerGroupSpecs"]
    fields(workers, WORKER_FIELDS)
    assert workers["minReplicas"] <= workers["replicas"] <= workers["maxReplicas"]
    for group in (cluster["headGroupSpec"], workers):
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())


def test_ray_job_file__every_pod_mounts_the_run_folder(job: dict) -> None:
    cluster = job["spec"]["rayClusterSpec"]
    run = re.search(r"--out (\S+)", job["spec"]["entrypoint"])[1]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        (container,) = pod["containers"]
        mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        assert all(name in volumes for name in mounts.values())
        shared = next(name for path, name in mounts.items() if run.startswith(path + "/"))
        assert "persistentVolumeClaim" in volumes[shared]
        limits = container["resources"]["limits"]
        assert limits == container["resources"]["requests"]
        assert all("value" not in entry for entry in container["env"] if "TOKEN" in entry["name"])


def test_ray_job_file__entrypoint_runs_or_resumes(job: dict) -> None:
    shell, flag, script = shlex.split(job["spec"]["entrypoint"])
    assert (shell, flag) == ("bash", "-c")
    commands = re.findall(r"exec (sweepft [^;]*)", script)
    assert [c.split()[1] for c in commands] == ["resume", "run"]
    for command in commands:
        check_command(shlex.split(command))


def test_slurm_script__exclusive_nodes_and_own_ray() -> None:
    file = DEPLOY / "slurm.sbatch"
    text = file.read_text()
    subprocess.run(["bash", "-n", str(file)], check=True)
    asked = dict(re.findall(r"^#SBATCH --([a-z-]+)(?:=(.*))?$", text, re.M))
    assert {"exclusive", "requeue", "nodes", "gpus-per-node", "time", "signal"} <= set(asked)
    code = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    assert "ray stop" not in code
    assert "symmetric-run" not in code
    assert "sleep" not in code, "it waits for nodes, not for times"
    ran = code.replace("\\\n", " ")
    first_step = code.index("srun ")
    for setting in ("export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK", "export RAY_AUTH_MODE=token"):
        assert code.index(setting) < first_step
    starts = re.findall(r"ray start [^\n]*", ran)
    assert len(starts) == 2
    assert all('"${has[@]}"' in start for start in starts)
    assert re.search(r'has=\(--num-cpus="\$SLURM_CPUS_PER_TASK" --num-gpus=', code)
    commands = re.findall(r"(?:^|\s)(sweepft [^\n&]*) &", code)
    assert [c.split()[1] for c in commands] == ["resume", "run"]
    for command in commands:
        check_command(shlex.split(command))
