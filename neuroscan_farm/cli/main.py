"""The entry point: commands are registered here, and errors become one message and an exit code."""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

import typer

import neuroscan_farm
from neuroscan_farm.cli import (
    catalogue_commands,
    control_commands,
    doctor_commands,
    export_commands,
    farm_commands,
    finding_commands,
    run_commands,
    serve_command,
    watch_commands,
)
from neuroscan_farm.errors import NeuroscanError
from neuroscan_farm.logs import set_up_logs, without_secrets
from neuroscan_farm.settings import load_settings

app = typer.Typer(
    name="neuroscan-farm",
    help="Which layers of a decoder language model could be run twice, skipped or re-ordered, and what would it do?",
    epilog="Exit codes: 0 done, 1 error, 2 usage, 3 finished with failed tasks, 4 broker or workers out of reach, "
    "5 model, request or run invalid or missing, 6 waiting timed out, 130 and 143 signals.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

run_commands.register(app)
control_commands.register(app)
watch_commands.register(app)
finding_commands.register(app)
export_commands.register(app)
farm_commands.register(app)
serve_command.register(app)
doctor_commands.register(app)
catalogue_commands.register(app)


@app.callback(invoke_without_command=True)
def _options(
    context: typer.Context,
    version: bool = typer.Option(False, "--version", help="Print the version and exit."),
) -> None:
    if version:
        print(f"neuroscan-farm {neuroscan_farm.__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        print(context.get_help())
        raise typer.Exit(2)


def run_program() -> None:
    """Run the command that the command line names."""
    app(standalone_mode=True)


def run_guarded(command: Callable[[], Any]) -> int:
    """Run `command`; our errors print one message, signals end it in order, everything else is our bug."""
    signal.signal(signal.SIGTERM, _terminated)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a path may hold bytes that are no text
    try:
        settings = load_settings()
        set_up_logs(settings.log_level, settings.log_format)
        command()
    except NeuroscanError as error:
        print(f"error: {without_secrets(str(error))}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except _Terminated:
        return 143
    except BrokenPipeError:  # the reader of our output went away, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return 0


class _Terminated(BaseException):
    """SIGTERM, raised where the program is, so that it lets go of its workers in order."""


def _terminated(_signum: int, _frame: object) -> None:
    raise _Terminated
