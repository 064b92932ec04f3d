"""What can happen to a run's files: damage, strangers, doubles, compactors that die. None of it is our own doing."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from neuroscan_farm.store.run_directory import RunDirectory


def parts_of(run: RunDirectory) -> list[Path]:
    """The part files of a run."""
    return sorted(path for path in (run.root / "parts").glob("*.parquet") if not path.name.startswith("."))


def truncate_a_part(run: RunDirectory, rng: random.Random) -> bool:
    """Cut a part short, as a disk that lied about a flush does."""
    parts = parts_of(run)
    if not parts:
        return False
    part = rng.choice(parts)
    try:
        data = part.read_bytes()
        part.write_bytes(data[: rng.randrange(len(data))])
    except FileNotFoundError:  # joined with others at this very moment
        return False
    return True


def flip_a_bit(run: RunDirectory, rng: random.Random) -> bool:
    """Damage the end of a part, where Parquet says what is where."""
    parts = parts_of(run)
    if not parts:
        return False
    part = rng.choice(parts)
    try:
        data = bytearray(part.read_bytes())
        data[-rng.randrange(1, 9)] ^= 0xFF
        part.write_bytes(data)
    except FileNotFoundError:
        return False
    return True


def remove_a_part(run: RunDirectory, rng: random.Random) -> bool:
    """Lose a part."""
    parts = parts_of(run)
    if not parts:
        return False
    rng.choice(parts).unlink(missing_ok=True)
    return True


def put_a_part_in_anothers_place(run: RunDirectory, rng: random.Random) -> bool:
    """Copy a part over another one."""
    parts = parts_of(run)
    if len(parts) < 2:
        return False
    one, other = rng.sample(parts, 2)
    try:
        shutil.copyfile(one, other)
    except FileNotFoundError:
        return False
    return True


def double_a_part(run: RunDirectory, rng: random.Random) -> bool:
    """Put a copy of a part beside it, under a name that the store itself gives to parts of shards."""
    parts = [part for part in parts_of(run) if part.stem.startswith("s")]
    if not parts:
        return False
    part = rng.choice(parts)
    try:
        shutil.copyfile(
            part, part.with_name(f"{part.stem.split('-')[0]}-{rng.randrange(16**12):012x}.parquet")
        )
    except FileNotFoundError:
        return False
    return True


def put_a_stranger_there(run: RunDirectory, rng: random.Random) -> bool:
    """Put something that is no part at all among them."""
    (run.root / "parts").mkdir(exist_ok=True)
    (run.root / "parts" / f"s{rng.randrange(16**12):012x}.parquet").write_bytes(rng.randbytes(300))
    return True


def kill_a_compactor(run: RunDirectory, rng: random.Random) -> bool:
    """Join the parts, and be killed at any moment of it."""
    process = subprocess.Popen(
        [sys.executable, "-m", "neuroscan_farm", "compact", str(run.root)], stderr=subprocess.DEVNULL
    )
    time.sleep(rng.uniform(0.4, 1.6))
    process.kill()
    process.wait()
    return True


def compact(run: RunDirectory, rng: random.Random) -> bool:
    """Join the parts in the middle of the run."""
    run.parts.compact()
    return True


FILES = (
    truncate_a_part,
    flip_a_bit,
    remove_a_part,
    put_a_part_in_anothers_place,
    double_a_part,
    put_a_stranger_there,
    kill_a_compactor,
    compact,
)


def kill(pid: int, signum: signal.Signals = signal.SIGKILL) -> bool:
    """Send a signal; False where the process is gone."""
    try:
        os.kill(pid, signum)
    except ProcessLookupError:
        return False
    return True
