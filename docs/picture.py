"""Writes docs/images/heatmap.png from a run: `python docs/picture.py runs/demo demo-chain`. Needs a chromium."""

from __future__ import annotations

import sys
from pathlib import Path

from neuroscan_farm.report.findings import read_findings
from neuroscan_farm.report.heatmap import heatmap
from neuroscan_farm.store.run_directory import RunDirectory

if __name__ == "__main__":
    root, probe = sys.argv[1:3]
    figure = heatmap(read_findings(RunDirectory.open(Path(root))), probe=probe)
    figure.write_image(Path(__file__).parent / "images" / "heatmap.png", width=780, scale=1.5)
