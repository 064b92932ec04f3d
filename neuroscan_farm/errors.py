"""Every error that is ours, as one tree. Each carries one message: where, what was found, what is accepted, the mend.

    NeuroscanError                  exit 1
    ├── RequestError                exit 5   the request contradicts itself or the model
    ├── ProbeError                  exit 5   a probe or one of its samples is wrong
    ├── ModelError                  exit 5   a model is missing, broken or not a decoder
    │   └── GateError               exit 5   the engine does not reproduce this model exactly
    ├── RunError                    exit 5   a run directory is missing, damaged or another request's
    ├── StorageError                exit 1   the disk refused (full, read-only)
    ├── BrokerError                 exit 4   the broker or its workers cannot be reached
    ├── WorkerError                 exit 1   a worker could not start
    ├── WaitTimeout                 exit 6   waiting ended before the run did
    └── CancelledRun                exit 1   somebody cancelled the run

An error that is not in this tree is our bug and shows its traceback.
"""

from __future__ import annotations


class NeuroscanError(Exception):
    """Any error that we explain to the user in one message, without a traceback."""

    exit_code = 1


class RequestError(NeuroscanError):
    """A request that contradicts itself or does not fit the model; raised before any GPU time is spent."""

    exit_code = 5


class ProbeError(NeuroscanError):
    """A probe that cannot be asked; the message lists every problem with its sample number."""

    exit_code = 5


class ModelError(NeuroscanError):
    """A model that is missing, broken or not a decoder."""

    exit_code = 5


class GateError(ModelError):
    """The engine's replay differs from the model itself; the message names the fact that failed."""


class RunError(NeuroscanError):
    """A run directory that is missing, damaged, or belongs to another request."""

    exit_code = 5


class StorageError(NeuroscanError):
    """The disk refused: full, read-only, or not permitted."""


class BrokerError(NeuroscanError):
    """The broker, or every worker behind it, is out of reach."""

    exit_code = 4


class WorkerError(NeuroscanError):
    """A worker that cannot start: no device, or devices other than asked for."""


class WaitTimeout(NeuroscanError):
    """Waiting for a run ended before the run did; the run goes on."""

    exit_code = 6


class CancelledRun(NeuroscanError):
    """The run was cancelled while somebody waited for it; what is finished stays."""
