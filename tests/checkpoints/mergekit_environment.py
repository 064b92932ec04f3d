"""The environment of mergekit: its own, because it is a program that we call and no library that we import.

python -m tests.checkpoints.mergekit_environment     make it, or say why it cannot be made
"""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "benchmarks" / ".work" / "mergekit"
PROGRAM = FOLDER / "bin" / "mergekit-yaml"

# torch first and pinned: a plain `torch` would bring gigabytes of CUDA packages where a CPU build is at hand.
PACKAGES = (("torch==2.13.0",), ("torch==2.13.0", "transformers==5.23.0", "mergekit==0.1.5"))


def make() -> None:
    """Make the environment where it is not there yet.

    Raises:
        SystemExit: a package cannot be installed; the message says which and why.
    """
    if PROGRAM.exists():
        return
    venv.create(FOLDER, with_pip=True, clear=True)
    for packages in PACKAGES:
        command = [
            FOLDER / "bin" / "python",
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
        ]
        done = subprocess.run([*command, *packages], stderr=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            why = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise SystemExit(f"mergekit: {' '.join(packages)} could not be installed ({why})")


if __name__ == "__main__":
    make()
    print(f"mergekit: {PROGRAM}")
    sys.exit(0)
