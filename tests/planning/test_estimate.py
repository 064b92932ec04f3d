"""The estimate of cost: its numbers are the closed forms of the full grid, and time is only told once it was measured."""

from __future__ import annotations

from pathlib import Path

import pytest

from neuroscan_farm.coordinator.prepare import prepare
from neuroscan_farm.planning.estimate import Estimate, count_tokens, estimate
from tests.paper_models import finish, paper_model, paper_plan, paper_probe


def of(plan, **keywords) -> Estimate:  # type: ignore[no-untyped-def]
    return estimate(plan.request, plan.facts, plan.probes, plan.shards, **keywords)


@pytest.mark.parametrize("depth", [1, 6, 14, 80])
def test_the_full_grid_costs_what_the_closed_forms_say(tmp_path: Path, depth: int) -> None:
    samples = 3
    plan = paper_plan(
        paper_model(tmp_path / "m", num_hidden_layers=depth),
        paper_probe(tmp_path / "p.json", samples=samples),
    )
    cost = of(plan)
    naive = sum(depth + j - i for i in range(depth) for j in range(i + 1, depth + 1))
    shared = depth * (depth + 1) * (2 * depth + 1) // 6
    assert cost.tasks == 1 + depth * (depth + 1) // 2
    assert cost.evaluations_naive == samples * (naive + depth), "the grid, and the baseline once"
    assert cost.evaluations_shared == samples * (shared + depth)


def test_at_eighty_layers_sharing_halves_the_work(tmp_path: Path) -> None:
    plan = paper_plan(
        paper_model(tmp_path / "m", num_hidden_layers=80), paper_probe(tmp_path / "p.json", samples=1)
    )
    cost = of(plan)
    assert (cost.evaluations_naive - 80, cost.evaluations_shared - 80) == (347_760, 173_880)


def test_the_boundary_cache_holds_every_boundary_of_every_token(tmp_path: Path) -> None:
    plan = paper_plan(
        paper_model(tmp_path / "m"), paper_probe(tmp_path / "p.json"), engine={"dtype": "bfloat16"}
    )
    cost = of(plan)
    assert cost.tokens_exact
    assert cost.boundary_bytes == (6 + 1) * cost.tokens * 32 * 2


def test_tokens_are_counted_with_the_models_own_tokenizer_and_estimated_where_it_has_none(
    tmp_path: Path,
) -> None:
    plan = paper_plan(paper_model(tmp_path / "m"), paper_probe(tmp_path / "p.json", samples=3))
    exact, is_exact = count_tokens(plan.facts.folder, plan.probes)
    assert is_exact
    assert exact >= 3
    (plan.facts.folder / "tokenizer.json").unlink()
    assert count_tokens(plan.facts.folder, plan.probes) == (round(4 * 3 / 3.5), False)
    (plan.facts.folder / "tokenizer.json").write_text("{")
    assert count_tokens(plan.facts.folder, plan.probes)[1] is False, (
        "the engine will say what is wrong with it"
    )


def test_time_is_unknown_until_a_shard_of_this_model_was_timed(tmp_path: Path) -> None:
    plan = paper_plan(paper_model(tmp_path / "m"), paper_probe(tmp_path / "p.json"))
    run = prepare(plan, tmp_path / "run", executor="local")
    assert of(plan).seconds is None
    assert of(plan, timed=[run]).seconds is None, "no part, no time"
    finish(run)
    seconds = of(plan, timed=[run]).seconds
    spent = 0.01 * sum(len(shard.tasks) for shard in run.shards()) * 3
    assert seconds == pytest.approx(spent, rel=0.2), (
        "the rows of the very same plan took as long as they took"
    )


def test_the_time_of_another_model_or_dtype_tells_nothing(tmp_path: Path) -> None:
    probe = paper_probe(tmp_path / "p.json")
    run = prepare(paper_plan(paper_model(tmp_path / "m"), probe), tmp_path / "run", executor="local")
    finish(run)
    assert of(paper_plan(paper_model(tmp_path / "n", weights=b"others"), probe), timed=[run]).seconds is None
    assert of(paper_plan(tmp_path / "m", probe, engine={"dtype": "bfloat16"}), timed=[run]).seconds is None


def test_a_damaged_run_among_those_that_were_timed_is_passed_over(tmp_path: Path) -> None:
    plan = paper_plan(paper_model(tmp_path / "m"), paper_probe(tmp_path / "p.json"))
    damaged = prepare(plan, tmp_path / "damaged", executor="local")
    finish(damaged)
    (damaged.root / "plan.parquet").unlink()
    whole = prepare(plan, tmp_path / "whole", executor="local")
    finish(whole)
    assert of(plan, timed=[damaged, whole]).seconds is not None
