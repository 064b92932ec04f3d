"""Writes docs/images/heatmap.png from a run: `python docs/picture.py runs/demo`. Needs kaleido and a chromium."""

from __future__ import annotations

import sys
from pathlib import Path

from neuroscan_farm.report.findings import read_findings
from neuroscan_farm.report.heatmap import heatmap
from neuroscan_farm.store.run_directory import RunDirectory

if __name__ == "__main__":
    figure = heatmap(read_findings(RunDirectory.open(Path(sys.argv[1]))), probe=None)
    figure.write_image(Path(__file__).parent / "images" / "heatmap.png", width=900, scale=1.5)
