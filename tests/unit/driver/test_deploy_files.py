"""The manifests in deploy/ are of the kind they say, and their commands are sweepft's own."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
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


TASKS = {
    "skypilot.yaml": {
        "name": str, "resources": dict, "workdir": str, "envs": dict, "secrets": dict, "setup": str, "run": str,
    },
    "dstack.yml": {
        "type": str, "name": str, "image": str, "env": list, "files": list, "commands": list, "resources": dict,
        "spot_policy": str, "retry": dict,
    },
}  # fmt: skip
"""Fields that are used, with their types: of a SkyPilot task, and of a dstack task. They are written by hand; where the
projects themselves are installed, `test_task_files__are_what_the_projects_take` asks them."""

READERS = {
    "skypilot.yaml": (
        "sky",
        "SKYPILOT_PYTHON",
        "import jsonschema, sky, sys, yaml; from sky.utils import schemas\n"
        "task = yaml.safe_load(sys.stdin)\n"
        "jsonschema.validate(task, schemas.get_task_schema())\n"
        "sky.Task.from_yaml_config(task, secrets_overrides=[('HF_TOKEN', 'x')])\n",
    ),
    "dstack.yml": (
        "dstack",
        "DSTACK_PYTHON",
        "import sys, yaml; from dstack._internal.core.models.configurations import parse_run_configuration\n"
        "parse_run_configuration(yaml.safe_load(sys.stdin))\n",
    ),
}
"""How each project reads a task: its module, the variable that may name an interpreter which has it, and the program."""


@pytest.mark.parametrize("name", TASKS)
def test_task_files__have_known_fields_and_go_on_from_the_mirror(name: str, tmp_path: Path) -> None:
    task = yaml.safe_load((DEPLOY / name).read_text())
    fields(task, TASKS[name])
    text = task["run"] if "run" in task else "\n".join(task["commands"])
    subprocess.run(["bash", "-n"], input=text, text=True, check=True)
    commands = re.findall(r"(?:exec |\$\()(sweepft [^)\n]*)", text)
    assert [c.split()[1] for c in commands] == ["fetch", "run", "resume"]
    for command in commands:
        check_command(shlex.split(command))
    # what the script does by what the mirror answers
    tool = tmp_path / "sweepft"
    tool.write_text(
        '#!/bin/sh\n[ "$1" = fetch ] || { echo "$1" >> did; exit 0; }\n[ -z "$ANSWER" ] && exit 0\n'
        'printf \'{"error": {"key": "%s"}}\' "$ANSWER"\nexit 2\n'
    )
    tool.chmod(0o755)
    script = re.sub(r"export PATH=\S+|(?m:^(?:apt-get|python3|/opt).*)", "", text)
    for answer, did in (("", "resume"), ("mirror.no_run", "run"), ("mirror.unreachable", None)):
        (tmp_path / "did").unlink(missing_ok=True)
        env = {
            "PATH": f"{tmp_path}:/usr/bin:/bin",
            "MIRROR": "s3://b/f",
            "ANSWER": answer,
            "HOME": str(tmp_path),
        }
        done = subprocess.run(["bash", "-c", script], cwd=tmp_path, env=env, check=False)
        assert (done.returncode == 0) == (did is not None)
        assert ((tmp_path / "did").read_text().split() if did else []) == ([did] if did else [])


@pytest.mark.full
@pytest.mark.parametrize("name", READERS)
def test_task_files__are_what_the_projects_take(name: str) -> None:
    module, variable, program = READERS[name]
    python = os.environ.get(variable, sys.executable)
    found = subprocess.run([python, "-c", f"import {module}"], capture_output=True, check=False)
    if found.returncode:
        pytest.skip(f"{module} is not installed here; name an interpreter that has it in {variable}")
    text = (DEPLOY / name).read_text()
    task = yaml.safe_load(text)
    for content, right in ((text, True), (yaml.safe_dump(task | {"nonesuch": 1}), False)):
        read = subprocess.run(
            [python, "-c", program], input=content, text=True, capture_output=True, check=False
        )
        assert (read.returncode == 0) is right, read.stderr[-2000:]


def test_dockerfile__installs_the_wheel_with_known_extras_and_runs_as_a_user() -> None:
    import tomllib

    text = (DEPLOY / "Dockerfile").read_text()
    steps = re.findall(r"(?m)^([A-Z]+) ", text)
    assert {"FROM", "RUN", "ENV", "COPY", "USER", "WORKDIR", "ENTRYPOINT", "CMD"} == set(steps)
    known = tomllib.loads((DEPLOY.parent / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for name in (DEPLOY / "Dockerfile", *(DEPLOY / name for name in TASKS)):
        for extras in re.findall(r"(?:wheel|sweepft)\[([a-z0-9,]+)\]", name.read_text()):
            assert set(extras.split(",")) <= known.keys()
    assert steps.index("USER") < steps.index("ENTRYPOINT")
