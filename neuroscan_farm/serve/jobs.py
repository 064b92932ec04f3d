"""Checkpoints that are written for clients of the API, each by a process of its own, into the one folder that is set."""

from __future__ import annotations

import json
import re
import subprocess
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from neuroscan_farm.domain.identity import content_digest
from neuroscan_farm.domain.paths import LayerPath
from neuroscan_farm.errors import RequestError
from neuroscan_farm.serve.config import ServeConfig
from neuroscan_farm.serve.local_work import PROGRAM, _end, _last_error
from neuroscan_farm.serve.result_models import Job
from neuroscan_farm.serve.runs import LiveRun
from neuroscan_farm.store.atomic import storage_errors, write_text

_ID = re.compile(r"[a-z0-9]{12}")
_RECORDS = ".jobs"


class Jobs:
    """The jobs of a server; what is known of them lies beside the checkpoints, and survives the server."""

    def __init__(self, config: ServeConfig) -> None:
        self._folder = config.materialize
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._lock = threading.Lock()

    @property
    def enabled(self) -> bool:
        """Whether there is a folder for checkpoints."""
        return self._folder is not None

    def close(self) -> None:
        """End what is being written: a half-written checkpoint has no name, and is written again when it is asked for."""
        for process in self._running.values():
            _end(process)

    def start(self, run: LiveRun, path: LayerPath) -> tuple[Job, bool]:
        """Write a configuration as a checkpoint; return the job, and whether it is a new one.

        Raises:
            RequestError: there is no folder to write to.
            StorageError: the disk refused.
        """
        folder = self._where()
        number = content_digest([run.run_id, str(path)], length=12)
        name = f"{re.sub(r'[^A-Za-z0-9._-]', '-', run.directory.manifest.model_name)[:40]}-{number}"
        with self._lock:
            known = self.job(number)
            if known is not None and known.state in {"running", "finished"}:
                return known, False
            records = folder / _RECORDS
            with storage_errors(records):
                records.mkdir(exist_ok=True)
            record = {
                "id": number,
                "run": run.id,
                "path": str(path),
                "folder": name,
                "started": datetime.now(UTC).isoformat(timespec="seconds"),
            }
            write_text(records / f"{number}.json", json.dumps(record))
            # What an interrupted process left has another name; `materialize` refuses a folder that holds something.
            command = [
                *PROGRAM, "materialize", run.directory.location, "--path", str(path), "--output", str(folder / name)
            ]  # fmt: skip
            with storage_errors(records), (records / f"{number}.log").open("wb") as sink:
                self._running[number] = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=sink,
                    start_new_session=True,
                )
        started = self.job(number)
        assert started is not None
        return started, True

    def job(self, number: str) -> Job | None:
        """Return a job; None where there is none of this id."""
        if self._folder is None or _ID.fullmatch(number) is None:
            return None
        record = self._record(self._folder / _RECORDS / f"{number}.json")
        return None if record is None else self._told(record)

    def of(self, run: LiveRun) -> list[Job]:
        """The jobs of a run, the newest first."""
        if self._folder is None:
            return []
        records = map(self._record, (self._folder / _RECORDS).glob("*.json"))
        found = [self._told(record) for record in records if record is not None and record["run"] == run.id]
        return sorted(found, key=lambda job: (job.started, job.id), reverse=True)

    def _where(self) -> Path:
        if self._folder is None:
            raise RequestError(
                "this server writes no checkpoints; name a folder in NEUROSCAN_SERVE_MATERIALIZE, or use "
                "`neuroscan-farm materialize`"
            )
        return self._folder

    def _record(self, file: Path) -> dict[str, Any] | None:
        try:
            record = json.loads(file.read_text(encoding="utf-8"))
            return record if {"id", "run", "path", "folder", "started"} <= set(record) else None
        except (OSError, ValueError, TypeError):
            return None

    def _told(self, record: dict[str, Any]) -> Job:
        folder, number = self._where(), record["id"]
        process, told = self._running.get(number), folder / _RECORDS / f"{number}.log"
        says = "neuroscan-farm verify proves that it is what was measured"
        code = None if process is None else process.poll()
        if process is not None and code is None:
            state, says = "running", "it is being written"
        elif (folder / record["folder"] / "config.json").is_file():
            state = "finished"
        elif error := _last_error(told):
            state, says = "failed", error
        elif process is not None:
            state, says = "failed", f"its process ended with exit code {code}"
        else:
            state, says = "interrupted", "the server ended before it was written; ask for it again"
        return Job(state=state, says=says, **record)
