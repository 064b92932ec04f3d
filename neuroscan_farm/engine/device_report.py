"""What torch sees of this machine, as JSON in a file: from a process of its own, which a broken driver may take down.

`python -m neuroscan_farm.engine.device_report FILE`; `doctor` runs it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch


def device_report() -> dict[str, Any]:
    """Return torch's version and build, and of each device its name, its memory, and whether it computes."""
    report: dict[str, Any] = {"torch": torch.__version__, "cuda_build": torch.version.cuda, "devices": []}
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        device: dict[str, Any] = {"name": torch.cuda.get_device_name(index), "error": None}
        try:
            device["free"], device["total"] = torch.cuda.mem_get_info(index)
            ones = torch.ones(64, 64, device=f"cuda:{index}")
            if float((ones @ ones)[0, 0]) != 64.0:
                device["error"] = "a product of ones is not what it should be"
        except RuntimeError as error:
            device["error"] = str(error).splitlines()[0]
        report["devices"].append(device)
    return report


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps(device_report()), encoding="utf-8")
