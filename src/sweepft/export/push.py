"""Upload the winner to the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from sweepft.errors import Problem, ProblemsError, SweepftError
from sweepft.files import inside
from sweepft.spec import is_hub_id

_LEFT_OUT: Final = ("spec.yaml", "trl.yaml", "train.py", "deepspeed.json")
"""Files that hold paths of this machine."""


class PushError(ProblemsError):
    """The winner cannot be uploaded."""


def push_best(
    run: Path, repo: str, *, private: bool = True, adapter: bool = False, with_specs: bool = False
) -> str:
    """Upload ``best/`` of a run as a model repository, which is created if it is not there.

    The token is that of ``HF_TOKEN`` or of ``hf auth login``.

    Args:
        run: The run folder.
        repo: ``org/name``.
        private: Whether a new repository is private; an existing one stays as it is.
        adapter: Whether to upload the adapter alone, of a winner that has one.
        with_specs: Whether to upload the files to train it again, which name folders of this machine.
    Returns:
        The address of the repository.
    Raises:
        PushError: If the run has no winner, or the name is none of the hub.
        SweepftError: With key ``push.hub`` if the hub refuses or cannot be reached.
    """
    if not is_hub_id(repo):
        raise PushError([Problem("push", "repo", "must be org/name", "name a repository of the hub", repo)])
    folder = inside(run, "best", "adapter") if adapter else inside(run, "best")
    if not folder.is_dir():
        what = "adapter" if adapter else "best"
        remedy = "write it with sweepft report RUN, once a trial has completed and its weights are kept"
        raise PushError([Problem(str(run), what, f"has no folder {folder.name}", remedy)])
    from huggingface_hub import HfApi

    ignored = [] if with_specs else list(_LEFT_OUT)
    if not adapter:
        ignored.append("adapter/*")
    try:
        api = HfApi()
        address = str(api.create_repo(repo, private=private, exist_ok=True))
        api.upload_folder(
            repo_id=repo, folder_path=folder, ignore_patterns=ignored, commit_message=f"Winner of {run.name}"
        )
    except Exception as error:  # of the hub's client, of which there are many, and of the network
        remedy = (
            "check the name, the network and the token (HF_TOKEN, or hf auth login) and its right to write"
        )
        raise SweepftError(f"{repo}: cannot be uploaded: {error}\n  {remedy}", key="push.hub") from error
    return address
