"""Random faults over a sweep of three thousand tasks: `make chaos`, with its outcome kept among the results."""

from __future__ import annotations

import json
import subprocess
import sys

from options import Options
from results import HERE, Measured


def run(options: Options) -> Measured:
    """Shoot at a farm, then at a local run."""
    faults, tasks = (20, 300) if options.quick else (200, 3000)
    for name, more in (("farm", []), ("local", ["--local"])):
        options.say(f"faults/{name}")
        command = [sys.executable, "-m", "tests.faults.chaos", "--faults", str(faults), "--tasks", str(tasks)]
        ended = subprocess.run(
            [*command, *more], cwd=HERE.parent, stdout=subprocess.PIPE, text=True, check=False
        )
        if ended.returncode not in (0, 1):
            raise SystemExit(f"{' '.join(command)} failed")
        yield f"faults/{name}", json.loads(ended.stdout[ended.stdout.index("\n{") :])
