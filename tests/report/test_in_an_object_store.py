"""A run in an object store has its report there too."""

from __future__ import annotations

from neuroscan_farm.report.write import export, write_report
from tests.report.conftest import build_run


def test_the_report_of_a_run_in_an_object_store_is_written_beside_its_parts(bucket: str) -> None:
    run = build_run(f"{bucket}/run")
    place = run.place.below("report")
    place.write("best-9.mergekit.yaml", b"of an earlier report")
    files = write_report(run, top_k=3)
    written = {entry.name for entry in place.entries()}
    assert {"index.html", "summary.txt", "summary.json", "results.json", "configurations.csv"} <= written
    assert {name for name in written if name.startswith("best-")} == {
        f"best-{k}.mergekit.yaml" for k in (1, 2, 3)
    }
    assert files.page == f"{bucket}/run/report/index.html"
    assert files.folder == f"{bucket}/run/report"
    assert place.read("summary.txt").decode() == files.summary
    assert export(run, format="mergekit") == place.read("best-1.mergekit.yaml").decode()
    run.parts.compact()
    assert write_report(run, top_k=3).summary == files.summary
