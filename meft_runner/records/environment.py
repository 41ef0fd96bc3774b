"""What a run is made by: versions, commit and device, and the time."""

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from meft_runner.records.schema import Environment, Git

_PACKAGES = (
    "meft-runner", "torch", "transformers", "peft", "datasets", "evaluate", "accelerate", "scikit-learn", "hydra-core",
)  # fmt: skip


def environment(device: str) -> Environment:
    """Returns versions, commit and device of this process; nothing secret."""
    return Environment(
        python=platform.python_version(),
        platform=f"{platform.system()} {platform.machine()}",
        packages={name: _version(name) for name in _PACKAGES},
        git=_git_state(Path(__file__).parent),
        device=device,
        cpu_count=os.cpu_count(),
    )


def now() -> str:
    """Returns the time in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git_state(folder: Path) -> Git | None:
    """Returns commit and dirty flag of this package's own checkout, None where it is installed elsewhere."""

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", __file__)
        return Git(commit=git("rev-parse", "HEAD"), dirty=bool(git("status", "--porcelain", "--untracked-files=no")))
    except (OSError, subprocess.SubprocessError):
        return None
