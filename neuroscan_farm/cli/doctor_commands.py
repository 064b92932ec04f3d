"""`doctor` and `workers`: whether everything is as it should be, and who works on what."""

from __future__ import annotations

import json
import os
from dataclasses import asdict

import typer

from neuroscan_farm.cli.checks import Check, exit_code_of, fail
from neuroscan_farm.cli.run_commands import BrokerOption, JsonOption, duration
from neuroscan_farm.dispatch.farm_records import Presence
from neuroscan_farm.errors import RequestError
from neuroscan_farm.settings import Settings, load_settings


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("doctor")(doctor)
    app.command("workers")(workers)


def doctor(as_json: JsonOption = False, broker: BrokerOption = None) -> None:
    """Check this machine and its farm: one line for each thing, with the mend. Exit code 0 unless something fails."""
    checks = _checks(load_settings(), broker)
    if as_json:
        level = next((level for level in ("fail", "warn") if any(c.level == level for c in checks)), "ok")
        found = [check.to_json_dict() for check in checks]
        print(json.dumps({"schema_version": 1, "level": level, "checks": found}))
    else:
        for check in checks:
            print(check.line())
    code = exit_code_of(checks)
    if code:
        raise typer.Exit(code)


def _checks(settings: Settings, broker: str | None) -> list[Check]:
    from neuroscan_farm.cli.farm_checks import farm_checks
    from neuroscan_farm.cli.machine_checks import machine_checks
    from neuroscan_farm.dispatch.places_here import read_places

    try:
        places = read_places(
            roots=settings.roots, path_map=settings.path_map, runs_dir=str(settings.runs_dir)
        )
    except RequestError as error:
        return [fail("settings", str(error), "mend it", exit_code=5)]
    on_this_machine = machine_checks(
        runs_dir=settings.runs_dir,
        cache_dir=settings.cache_dir,
        cache_gb=settings.cache_gb,
        environment=os.environ,
    )
    on_the_farm = farm_checks(
        broker or settings.broker_url,
        settings.queue,
        asked_for=broker is not None or "broker_url" in settings.model_fields_set,
        run_location=places.run_location,
    )
    return [*on_this_machine, *on_the_farm]


def workers(as_json: JsonOption = False, broker: BrokerOption = None) -> None:
    """List the farm's workers: where they are, which model they hold, what they are doing and for how long."""
    from neuroscan_farm.dispatch.broker import Broker

    settings = load_settings()
    farm = Broker(broker or settings.broker_url, queue=settings.queue)
    now, found = farm.now(), farm.workers()
    farm.close()
    if as_json:
        print(json.dumps({"schema_version": 1, "now": now, "workers": [asdict(worker) for worker in found]}))
        return
    if not found:
        print("no worker is on this broker; start one with: neuroscan-farm worker")
        return
    rows: list[tuple[str, ...]] = [
        ("NAME", "HOST", "DEVICE", "STATE", "SINCE", "BEAT", "MEMORY", "MODEL", "DOING")
    ]
    rows += [_row(worker) for worker in found]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _row(worker: Presence) -> tuple[str, ...]:
    doing = "waits"
    if worker.run_id is not None:
        doing = f"{worker.run_id} {worker.shard_id} {worker.task_id or 'loading the model'}"
    return (
        worker.name,
        worker.host,
        worker.device,
        worker.state,
        # By the worker's own clock, which began to count.
        "-" if worker.since is None else duration(worker.clock + worker.heartbeat_age - worker.since),
        f"{worker.heartbeat_age:.0f} s",
        "-" if worker.memory_mb is None else f"{worker.memory_mb:,} MB",
        worker.model or "-",
        doing,
    )
