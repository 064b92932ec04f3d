"""Our YAML in the real mergekit: what it merges is verified, and what it says nothing about is found out.

Not among the tests of `make test`: `make mergekit` installs mergekit and runs these.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from neuroscan_farm.checkpoints.materialize import materialize
from neuroscan_farm.checkpoints.verify import verify
from neuroscan_farm.domain.paths import Block, LayerPath
from neuroscan_farm.report.export import export
from neuroscan_farm.report.mergekit import mergekit_verdict
from tests.checkpoints.mergekit_environment import PROGRAM
from tests.checkpoints.test_families import run_of
from tests.tiny_models import make_tiny

pytestmark = pytest.mark.mergekit

PATH = LayerPath.duplicating([Block(2, 4)], 6)
FAMILIES = [
    *("gemma", "gpt2", "granite", "llama", "mistral", "mixtral", "olmo2", "phi", "phi3", "starcoder2"),
    *("gemma2", "gemma3_text", "qwen2", "qwen3"),
    *("cohere", "gpt_neox"),
    *("exaone4", "gpt_oss", "gptj", "opt", "smollm3"),
]


@pytest.mark.parametrize("family", FAMILIES)
def test_mergekit_makes_of_a_family_what_the_yaml_says_of_it(family: str, tmp_path: Path) -> None:
    assert PROGRAM.exists(), "make mergekit installs it"
    window = (
        {"sliding_window": 64} if family in ("mistral", "phi3") else {}
    )  # as their checkpoints have it: wide, or none
    run = run_of(make_tiny(family, tmp_path / "model", **window), tmp_path)
    yaml = tmp_path / "merge.yaml"
    yaml.write_text(export(run, format="mergekit", path=PATH))
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    merged = subprocess.run(
        [PROGRAM, yaml, tmp_path / "merged", "--copy-tokenizer"],
        env=environment,
        capture_output=True,
        check=False,
    )
    found = "fails"
    if merged.returncode == 0:
        certificate = verify(tmp_path / "merged", run, cache_dir=tmp_path / "cache", cache_bytes=10**9)
        assert (certificate.made_by, certificate.path) == ("mergekit", str(PATH))
        found = "exact" if certificate.is_equal else "silently wrong"
    assert found == mergekit_verdict(family), merged.stderr.decode()[-2000:]
    if found != "exact":  # the way out that the YAML points to
        made = materialize(run, PATH, tmp_path / "ours")
        assert verify(made.folder, run, cache_dir=tmp_path / "cache", cache_bytes=10**9).is_equal
