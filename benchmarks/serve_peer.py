"""A peer as a contender: its own backend, loaded once, and its own scan function, timed. Runs in the peers' environment.

Nothing of theirs is changed. layer-scan is timed around `layer_scan.scanner.run_scan`, which its `scan` command calls;
neuro-scan around `run_ablation_scan` and `run_circuit_detection`, which its `circuit` command calls one after the
other. Loading, reports and heatmaps are outside. A progress bar is part of their scan and has no terminal here.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from protocol import Answer, serve, timed


class LayerScan:
    """The duplication grid of layer-scan."""

    def load(self, *, model: str, probe: str, threads: int) -> Answer:
        """Load the model as its command does, in float32."""
        from layer_scan.backends.transformers_backend import TransformersBackend
        from layer_scan.probes.custom import CustomProbe

        torch.set_num_threads(threads)
        self._backend = TransformersBackend()
        self._backend.load(model, dtype="float32")
        self._probe = CustomProbe(probe)
        for sample in self._probe.get_samples():  # weights are read from disk when they are touched first
            self._backend.forward_with_duplication(sample.full_text, None)
        return {}

    def round(self, *, samples: int, min_block: int, step: int, skip_early: int) -> Answer:
        """Scan once and return the seconds, and each configuration's scores by sample."""
        from layer_scan.config import ScanConfig
        from layer_scan.scanner import run_scan

        config = ScanConfig(
            model_path="",
            probe_name="custom",
            min_block_size=min_block,
            step=step,
            skip_early=skip_early,
            batch_size=samples,
            dtype="float32",
        )
        spent, report = timed(lambda: run_scan(self._backend, self._probe, config))
        scores = {f"{r.config.i},{r.config.j}": r.per_sample_scores for r in report.results}
        return {**spent, "scores": scores, "baseline": report.baseline_score}


class NeuroScan:
    """The exhaustive pairs of neuro-scan, with the single ablations that they are compared to."""

    def load(self, *, model: str, probe: str, threads: int) -> Answer:
        """Load the model as its command does, in float32."""
        from neuro_scan.backends.transformers_backend import TransformersBackend
        from neuro_scan.probes.custom import CustomProbe

        torch.set_num_threads(threads)
        self._backend = TransformersBackend()
        self._backend.load(model, dtype="float32")
        self._probe = CustomProbe(probe)
        for sample in self._probe.get_samples():  # weights are read from disk when they are touched first
            self._backend.forward(sample.full_text)
        return {}

    def round(self, *, samples: int) -> Answer:
        """Scan once and return the seconds, and each configuration's mean score."""
        from neuro_scan.circuit import CircuitConfig, run_circuit_detection
        from neuro_scan.config import NeuroScanConfig
        from neuro_scan.scanner import run_ablation_scan

        config = NeuroScanConfig(model_path="", probe_name="custom", batch_size=samples, dtype="float32")

        def scan() -> tuple[float, list[Any], Any]:
            baseline, _, singles = run_ablation_scan(self._backend, self._probe, config)
            pairs = run_circuit_detection(
                self._backend, self._probe, singles, baseline, CircuitConfig(strategy="exhaustive")
            )
            return baseline, singles, pairs

        spent, (baseline, singles, pairs) = timed(scan)
        scores = {str(single.layer_idx): single.score for single in singles}
        scores |= {f"{p.layer_i},{p.layer_j}": baseline - p.joint_delta for p in pairs.interactions}
        return {**spent, "scores": scores, "baseline": baseline}


if __name__ == "__main__":
    peer = {"layer-scan": LayerScan, "neuro-scan": NeuroScan}[sys.argv[1]]()
    serve({"load": peer.load, "round": peer.round})
