"""The run that a worker opened last: its next order is most often for the same one."""

from __future__ import annotations

from neuroscan_farm.store.run_directory import RunDirectory


class LastRun:
    """Opens runs, and keeps what was read of the last one's parts as long as it is opened again."""

    def __init__(self) -> None:
        self._run: RunDirectory | None = None

    def open(self, location: str) -> RunDirectory:
        """See `RunDirectory.open`; the manifest is read anew each time."""
        run = RunDirectory.open(location)
        if self._run is None or (self._run.location, self._run.manifest) != (run.location, run.manifest):
            self._run = run
        return self._run
