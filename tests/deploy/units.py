"""Reads systemd units strictly: every section and key must be one that we know, every value be of its form."""

from __future__ import annotations

import re
from pathlib import Path

_YES_NO = r"yes|no"
_TEXT = r".+"
_UNIT = r"[A-Za-z0-9@:._-]+\.(service|target)"
_UNITS = rf"{_UNIT}( {_UNIT})*"
_SECONDS = r"\d+"
_ABSOLUTE = r"/\S+"

# What our units may say, from systemd.unit(5), systemd.service(5), systemd.exec(5) and systemd.kill(5).
KEYS = {
    "Unit": {
        "Description": _TEXT,
        "Documentation": r"https://\S+",
        "Wants": _UNITS,
        "After": _UNITS,
        "PartOf": _UNITS,
        "RequiresMountsFor": _ABSOLUTE,
        "StartLimitIntervalSec": _SECONDS,
    },
    "Service": {
        "Type": r"exec|notify|simple",
        "User": r"[a-z][a-z0-9-]*",
        "Group": r"[a-z][a-z0-9-]*",
        "UMask": r"0[0-7]{3}",
        "Environment": r"[A-Z_]+=\S+",
        "EnvironmentFile": r"-?/\S+",
        "ExecStart": r"/\S+( \S+)*",
        "KillSignal": r"SIGTERM",
        "KillMode": r"mixed",
        "TimeoutStopSec": _SECONDS,
        "SuccessExitStatus": r"\d+",
        "Restart": r"on-failure",
        "RestartSec": _SECONDS,
        "RestartPreventExitStatus": r"\d+( \d+)*",
        "CacheDirectory": r"\S+",
        "CacheDirectoryMode": r"0[0-7]{3}",
        "ProtectSystem": r"strict",
        "ReadWritePaths": _ABSOLUTE,
        "ProtectHome": r"yes|no|read-only|tmpfs",
        "PrivateTmp": _YES_NO,
        "PrivateDevices": _YES_NO,
        "NoNewPrivileges": _YES_NO,
        "CapabilityBoundingSet": r"",
        "ProtectClock": _YES_NO,
        "ProtectControlGroups": _YES_NO,
        "ProtectHostname": _YES_NO,
        "ProtectKernelLogs": _YES_NO,
        "ProtectKernelModules": _YES_NO,
        "ProtectKernelTunables": _YES_NO,
        "RestrictAddressFamilies": r"AF_\w+( AF_\w+)*",
        "RestrictNamespaces": _YES_NO,
        "RestrictRealtime": _YES_NO,
        "RestrictSUIDSGID": _YES_NO,
        "LockPersonality": _YES_NO,
        "RemoveIPC": _YES_NO,
        "LimitNOFILE": r"\d+",
    },
    "Install": {"WantedBy": _UNITS},
}
REPEATABLE = {"Environment", "EnvironmentFile"}

Unit = dict[str, dict[str, list[str]]]


def read_unit(path: Path) -> Unit:
    """Sections, keys and values of a unit; what systemd would ignore with a warning is an error here."""
    unit: Unit = {}
    section = None
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        where = f"{path.name}:{number}: {line!r}"
        if not line or line.startswith("#"):
            continue
        if match := re.fullmatch(r"\[(\w+)\]", line):
            section = match[1]
            assert section in KEYS, where
            assert section not in unit, where
            unit[section] = {}
            continue
        key, equals, value = line.partition("=")
        assert equals, where
        assert section is not None, where
        assert key in KEYS[section], where
        assert re.fullmatch(KEYS[section][key], value), where
        assert key not in unit[section] or key in REPEATABLE, where
        unit[section].setdefault(key, []).append(value)
    return unit
