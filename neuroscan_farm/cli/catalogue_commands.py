"""`probes`, `models` and `config`: what there is, and whether it is right. None of them loads a weight."""

from __future__ import annotations

import dataclasses
import itertools
import json
from typing import Annotated

import typer
import yaml

from neuroscan_farm.cli.progress import note
from neuroscan_farm.cli.run_commands import JsonOption
from neuroscan_farm.planning.facts import read_facts
from neuroscan_farm.planning.model_source import find_model
from neuroscan_farm.probes.catalogue import catalogue, load_probe
from neuroscan_farm.settings import load_settings, user_file

probes_app = typer.Typer(no_args_is_help=True, help="Built-in and custom probes.", rich_markup_mode=None)
models_app = typer.Typer(
    no_args_is_help=True, help="What a model's folder says of itself.", rich_markup_mode=None
)
config_app = typer.Typer(no_args_is_help=True, help="The settings in force.", rich_markup_mode=None)


def register(app: typer.Typer) -> None:
    """Add the groups of this module."""
    app.add_typer(probes_app, name="probes")
    app.add_typer(models_app, name="models")
    app.add_typer(config_app, name="config")


@probes_app.command("ls")
def probes_ls(as_json: JsonOption = False) -> None:
    """List the built-in probes."""
    entries = catalogue()
    if as_json:
        print(json.dumps({"schema_version": 1, "probes": [dataclasses.asdict(entry) for entry in entries]}))
        return
    for entry in entries:
        print(f"{entry.name:<16} {entry.n_samples:>3} samples  {entry.description}")


@probes_app.command("show")
def probes_show(
    probe: Annotated[str, typer.Argument(help="A built-in name or a file.")], as_json: JsonOption = False
) -> None:
    """Print a probe's questions and right answers."""
    loaded = load_probe(probe)
    if as_json:
        print(json.dumps(loaded.to_json_dict(), ensure_ascii=False, indent=1))
        return
    print(f"{loaded.name}: {loaded.description} ({len(loaded.samples)} samples, digest {loaded.digest})")
    for number, sample in enumerate(loaded.samples, start=1):
        answer = sample.answer if sample.answer is not None else "?"
        print(f"{number:>3} [{sample.category}] answer {answer}  {loaded.text_of(sample)!r}")


@probes_app.command("validate")
def probes_validate(
    probe: Annotated[str, typer.Argument(help="A JSON or YAML file, or a built-in name.")],
) -> None:
    """Check a probe; every problem is listed at once with its sample number. Exit code 5 if there is one."""
    loaded = load_probe(probe)
    unlabelled = len(loaded.unlabelled())
    print(f"{loaded.name}: {len(loaded.samples)} samples, valid")
    if unlabelled:
        note(
            f"{unlabelled} samples have no right answer; only --metric expected_score can rank by this probe"
        )


@probes_app.command("audit")
def probes_audit(
    probes: Annotated[
        list[str] | None,
        typer.Argument(metavar="PROBE...", help="Built-in names or files; none with --run is the run's own."),
    ] = None,
    run: Annotated[
        str | None, typer.Option(help="A run of these probes: its baseline's scores beside the blind ones.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Say what blind answers score on a probe, what is wrong with it, and what a run could see with it.

    Warnings go to stderr; they do not change the exit code.
    """
    from neuroscan_farm.cli.probe_audit import audit_text, audits_dict, read_audits

    audits = read_audits(probes or [], run=run)
    if as_json:
        print(json.dumps(audits_dict(audits), ensure_ascii=False))
    else:
        print("\n\n".join(audit_text(one) for one in audits))
    for one in audits:
        for warning in one.warnings:
            note(warning)


@models_app.command("inspect")
def models_inspect(
    model: Annotated[str, typer.Argument(help="A folder, a hub id, or `demo`.")],
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub id.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Print a model's depth, width, family and fingerprint, without loading it."""
    facts = read_facts(find_model(model, revision=revision, weights=False))
    data = {
        name: str(value) if name == "folder" else value for name, value in dataclasses.asdict(facts).items()
    }
    if as_json:
        print(json.dumps({"schema_version": 1, **data}))
        return
    for name, value in data.items():
        print(f"{name:<16} {_of_layers(value) if isinstance(value, tuple) else value}")


def _of_layers(numbers: tuple[int, ...]) -> str:
    """Say a number of each layer in few words, as in `2 x 4,096, 1 x 8,192`."""
    return ", ".join(f"{len(list(same))} x {number:,}" for number, same in itertools.groupby(numbers))


@config_app.command("show")
def config_show(as_json: JsonOption = False) -> None:
    """Print the settings in force and where the user's file would be."""
    from neuroscan_farm.dispatch.broker_url import redacted

    settings = load_settings().model_dump(mode="json")
    settings["broker_url"] = redacted(settings["broker_url"])
    settings["serve_token"] = "***" if settings["serve_token"] else ""
    if as_json:
        print(json.dumps({"schema_version": 1, "user_file": str(user_file()), "settings": settings}))
        return
    print(f"# {user_file()}{'' if user_file().is_file() else ' (not there)'}")
    print(yaml.safe_dump({"settings": settings}, sort_keys=False), end="")
