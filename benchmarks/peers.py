"""The environment of the peers, layer-scan and neuro-scan: their own virtual environment with our versions of torch.

    python benchmarks/peers.py            make it, or say why it cannot be made

Both need accelerate without declaring it, so it is named here.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WORK = Path(__file__).resolve().parent / ".work"

TORCH = "torch==2.13.0"
PACKAGES = ("layer-scan==0.2.2", "neuro-scan==0.2.3", "accelerate", "transformers")


def python_of_peers(folder: Path) -> Path:
    """Return where the peers' interpreter is, or would be."""
    return folder / "bin" / "python"


def find_peers(folder: Path | None = None) -> Path | None:
    """Return the peers' interpreter, or None where the environment is missing or incomplete."""
    python = python_of_peers(folder or WORK / "peers")
    if not python.exists():
        return None
    check = "import layer_scan.scanner, neuro_scan.circuit, accelerate"
    found = subprocess.run([python, "-c", check], capture_output=True, check=False)
    return python if found.returncode == 0 else None


def make_peers(folder: Path) -> Path:
    """Make the environment and return its interpreter.

    Raises:
        SystemExit: a package cannot be installed; the message says which and why.
    """
    if (python := find_peers(folder)) is not None:
        return python
    venv.create(folder, with_pip=True, clear=True)
    python = python_of_peers(folder)
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    # torch first and pinned: a plain `torch` would bring gigabytes of CUDA packages where a CPU build is at hand.
    for packages in ((TORCH,), PACKAGES):
        command = [*install, "--constraint", ROOT / "constraints.txt", *packages]
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            why = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise SystemExit(
                f"peers: {' '.join(packages)} could not be installed ({why}); "
                "`make bench` goes on without them and says so"
            )
    return python


def versions(python: Path) -> dict[str, str]:
    """Return the versions that the peers' environment holds."""
    names = ("layer-scan", "neuro-scan", "torch", "transformers", "accelerate")
    code = f"import importlib.metadata as m; print(*[m.version(n) for n in {names!r}])"
    found = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    return dict(zip(names, found.stdout.split(), strict=True))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--folder", type=Path, default=WORK / "peers", help="where (%(default)s)")
    made = make_peers(parser.parse_args().folder)
    print(f"peers: {', '.join(f'{name} {version}' for name, version in versions(made).items())}")
    sys.exit(0)
