"""Writes a picture of the docs from a run. Needs a chromium.

python docs/picture.py RUN PROBE                        docs/images/heatmap.png, as `heatmap-log_odds`
python docs/picture.py RUN PROBE FIGURE NAME            another figure of the report, as docs/images/NAME.png
"""

from __future__ import annotations

import sys
from pathlib import Path

from neuroscan_farm.report.circuits import circuit_of
from neuroscan_farm.report.cross_probe import cross_probe
from neuroscan_farm.report.figures import figures, probe_figures
from neuroscan_farm.report.findings import read_findings
from neuroscan_farm.report.multi_probe import multi_probe
from neuroscan_farm.store.run_directory import RunDirectory

if __name__ == "__main__":
    root, probe = sys.argv[1:3]
    wanted, name = sys.argv[3:5] if len(sys.argv) > 3 else ("heatmap-log_odds", "heatmap")
    findings = read_findings(RunDirectory.open(Path(root)))
    drawn = figures(findings, probe=probe, circuit=circuit_of(findings))
    drawn += probe_figures(findings, several=multi_probe(findings), cross=cross_probe(findings))
    (figure,) = [one.figure for one in drawn if one.name == wanted]
    figure.layout.title.subtitle.font.size = 11  # a page breaks the line, a picture cannot
    figure.write_image(Path(__file__).parent / "images" / f"{name}.png", width=840, scale=1.5)
