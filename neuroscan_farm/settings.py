"""Settings of this machine and its farm: read at two doors (the CLI, a worker's start) and handed on as values.

Precedence: environment (`NEUROSCAN_*`), then the user's file, then the default.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

import platformdirs
from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from neuroscan_farm.errors import RequestError
from neuroscan_farm.logs import LogFormat
from neuroscan_farm.yaml_text import read_yaml


def user_file() -> Path:
    """Where the user's own configuration is, if there is one."""
    return Path(platformdirs.user_config_dir("neuroscan-farm")) / "config.yaml"


class Settings(BaseSettings):
    """What is true of this machine, whatever is asked of it."""

    model_config = SettingsConfigDict(env_prefix="NEUROSCAN_", extra="ignore", frozen=True)

    runs_dir: Path | str = Field(
        Path("runs"), description="where runs are made and listed: a folder, or the URL of an object store"
    )
    cache_dir: Path = Field(
        default_factory=lambda: Path(platformdirs.user_cache_dir("neuroscan-farm")),
        description="where baseline boundaries are kept, shared by the workers of this machine",
    )
    cache_gb: float = Field(
        20.0, ge=0, description="most gigabytes (10^9 bytes) of boundaries kept; the oldest go first"
    )
    roots: str = Field(
        "",
        description="where runs may lie that a worker is given: folders and URLs, separated as in PATH; "
        "empty is any folder of the worker's own user",
    )
    path_map: str = Field(
        "",
        description="FROM=TO, several separated as in PATH: where runs and models of other machines are on this one",
    )
    broker_url: str = Field(
        "redis://127.0.0.1:6379/0", description="the broker: redis://, rediss:// or redis+socket://"
    )
    queue: str = Field(
        "neuroscan", pattern=r"^[A-Za-z0-9._-]+$", description="the farm's queue on the broker"
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "WARNING", description="DEBUG, INFO, WARNING or ERROR"
    )
    log_format: LogFormat = Field(
        "text", description="text, or json: one JSON object on each line of the log"
    )
    metrics_port: int = Field(
        0,
        ge=0,
        le=65535,
        description="where a worker or the coordinator shows its numbers to Prometheus; 0 is nowhere",
    )
    metrics_host: str = Field(
        "127.0.0.1", description="the address to show them on; 0.0.0.0 is every network of this machine"
    )

    serve_token: str = Field(
        "",
        repr=False,
        description="what `serve` asks of every client; empty asks nobody, and binds to this machine alone",
    )
    serve_names: str = Field(
        "",
        description="further host names under which `serve` is reached, such as a proxy's; separated by commas",
    )
    serve_models: str = Field(
        "",
        description="folders below which models that clients of `serve` submit may lie, separated as in PATH",
    )
    serve_hub_models: str = Field(
        "",
        description="hub ids that clients of `serve` may submit, as patterns such as Qwen/*; separated by commas",
    )
    serve_probes: str = Field(
        "",
        description="folders below which probe files that clients of `serve` submit may lie, separated as in PATH",
    )
    serve_materialize: str = Field(
        "", description="the folder in which `serve` writes checkpoints for its clients; empty writes none"
    )

    @field_validator("runs_dir", mode="before")
    @classmethod
    def _url_or_path(cls, value: object) -> object:
        return Path(value) if isinstance(value, str) and "://" not in value else value

    @field_validator("runs_dir", "cache_dir")
    @classmethod
    def _home_is_known(cls, value: Path | str) -> Path | str:
        if isinstance(value, str):
            return value.rstrip("/")
        try:
            return value.expanduser()
        except RuntimeError as error:  # ~somebody who is not there
            raise ValueError(str(error)) from error

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Leave out .env files and secrets directories; the user's file comes in through `load_settings`."""
        del settings_cls, dotenv_settings, file_secret_settings
        return env_settings, init_settings


def user_configuration() -> dict[str, Any]:
    """Return what the user's file says: `settings:` for this class, `request:` for defaults of requests.

    Raises:
        RequestError: the file is no YAML mapping or holds other keys.
    """
    path = user_file()
    if not path.is_file():
        return {}
    try:
        data = read_yaml(path.read_text(encoding="utf-8")) or {}
    except (ValueError, OSError) as error:
        raise RequestError(f"{path}: cannot be read as YAML ({error})") from error
    if not isinstance(data, dict) or set(data) - {"settings", "request"}:
        raise RequestError(f"{path}: accepted are the sections settings: and request:")
    for name, section in data.items():
        if not isinstance(section, dict | None):
            raise RequestError(f"{path}: {name} is {section!r}; accepted is a mapping of fields to values")
    return data


def load_settings() -> Settings:
    """Read the settings of this process.

    Raises:
        RequestError: a variable or the user's file holds a wrong value.
    """
    section = user_configuration().get("settings") or {}
    unknown = set(section) - set(Settings.model_fields)
    if unknown:
        raise RequestError(
            f"{user_file()}: settings.{min(unknown)} is not known; accepted: {', '.join(Settings.model_fields)}"
        )
    try:
        return Settings(**section)
    except ValidationError as error:
        lines = []
        for problem in error.errors():
            name = str(problem["loc"][0])
            variable = f"NEUROSCAN_{name.upper()}"
            source = variable if variable in os.environ else f"{user_file()}: settings.{name}"
            lines.append(f"{source} is {problem['input']!r}: {problem['msg']}")
        raise RequestError("\n".join(lines)) from error
