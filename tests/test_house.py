"""The habits of the house, as tests: who may import whom, who may print, and that nothing stays undocumented."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
import typer.main
import yaml

from neuroscan_farm.analyses import ANALYSES, read_request
from neuroscan_farm.cli.main import app

ROOT = Path(__file__).parent.parent
OURS = ("neuroscan_farm", "workers")
MODULES = sorted(path for package in OURS for path in (ROOT / package).rglob("*.py"))
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
PAGES = [ROOT / "README.md", ROOT / "configs" / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

# What each room may import of ours, at a module's top; `errors` and the room itself go without saying.
MAY_IMPORT = {
    "__main__": {"cli"},
    "errors": set(),
    "logs": set(),
    "yaml_text": set(),
    "settings": {"logs", "yaml_text"},
    "domain": set(),
    "demo": {"domain"},
    "analyses": {"domain"},
    "probes": {"domain", "yaml_text"},
    "statistics": {"domain"},
    "store": {"domain", "yaml_text", "analyses", "probes"},
    "planning": {"domain", "demo", "store"},
    "engine": {"domain", "logs", "planning", "store"},
    "dispatch": {"domain", "logs", "store"},  # the engine is imported inside the child process alone
    "report": {"domain", "yaml_text", "analyses", "probes", "statistics", "store"},
    "checkpoints": {
        "domain",
        "planning",
        "report",
        "statistics",
        "store",
    },  # the engine only when it is needed
    "coordinator": {"domain", "logs", "analyses", "probes", "planning", "dispatch", "statistics", "store"},
    "serve": {
        "checkpoints",
        "demo",
        "domain",
        "logs",
        "yaml_text",
        "analyses",
        "probes",
        "planning",
        "dispatch",
        "statistics",
        "store",
        "report",
        "coordinator",
    },
    "cli": {  # `serve` too, but only when it is asked for: it takes packages of its own
        "checkpoints",
        "domain",
        "logs",
        "yaml_text",
        "analyses",
        "probes",
        "planning",
        "dispatch",
        "statistics",
        "store",
        "report",
        "coordinator",
        "settings",
    },
    "workers": {"domain", "logs", "planning", "dispatch", "store", "coordinator", "settings"},
}
HEAVY = {"torch", "transformers", "accelerate"}
# Run by those who train the bundled model, and by nothing else.
TRAINING = {f"neuroscan_farm.demo.{name}" for name in ("train", "measure", "tokenizer")}
# Besides the command line, the settings and the workers: what writes the environment that a child will see.
DOORS = {f"neuroscan_farm.dispatch.{name}" for name in ("devices", "local_child", "celery_queue")}


def name_of(path: Path) -> str:
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


TREES = {name_of(path): ast.parse(path.read_text(encoding="utf-8")) for path in MODULES}


def room_of(module: str) -> str:
    """The package below neuroscan_farm, or `workers`."""
    parts = module.split(".")
    return "workers" if parts[0] == "workers" else parts[1] if len(parts) > 1 else ""


def imports(module: str, *, everywhere: bool = False) -> Iterator[str]:
    """Names that a module imports: at its top, or anywhere in it, but not for types alone."""
    todo: list[ast.AST] = list(TREES[module].body)
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            todo += node.orelse
        elif everywhere or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            todo += ast.iter_child_nodes(node)


def ours(module: str) -> set[str]:
    """Our modules among those that a module imports at its top; `a.b.thing` is the module `a.b`."""
    found = set()
    for imported in imports(module):
        parts = imported.split(".")
        known = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
        found |= {next((name for name in known if name in TREES), "")} - {"", module}
    return found


def nodes(module: str, *kinds: type[ast.AST]) -> list[ast.AST]:
    return [node for node in ast.walk(TREES[module]) if isinstance(node, kinds)]


def test_every_room_is_on_the_plan_of_the_house() -> None:
    assert {room_of(module) for module in TREES} - {""} == set(MAY_IMPORT)


def test_imports_go_in_the_direction_of_the_house() -> None:
    astray = {
        f"{module} -> {imported}"
        for module in TREES
        for imported in ours(module)
        if room_of(imported) not in {room_of(module), "", "errors", *MAY_IMPORT.get(room_of(module), ())}
    }
    assert not astray


def test_the_package_never_imports_the_workers() -> None:
    astray = {
        module
        for module in TREES
        if room_of(module) != "workers"
        and any(name.split(".")[0] == "workers" for name in imports(module, everywhere=True))
    }
    assert not astray


def test_torch_is_reached_through_the_engine_alone() -> None:
    astray = {
        f"{module} -> {name}"
        for module in set(TREES) - TRAINING
        for name in imports(module, everywhere=True)
        if room_of(module) != "engine" and name.split(".")[0] in HEAVY
    }
    assert not astray
    assert not {module for module in set(TREES) - TRAINING if ours(module) & TRAINING}


def test_the_domain_is_values_and_needs_no_library_but_pydantic() -> None:
    for module in TREES:
        if room_of(module) in {"domain", "errors"}:
            roots = {name.split(".")[0] for name in imports(module, everywhere=True)} - {"neuroscan_farm"}
            assert roots <= set(sys.stdlib_module_names) | {"pydantic"}, module
            assert not roots & {"os", "pathlib", "io", "socket", "subprocess", "logging"}, (
                f"{module} does input or output"
            )


def test_no_module_imports_itself_in_a_circle() -> None:
    try:
        TopologicalSorter({module: ours(module) for module in TREES}).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_only_the_command_line_prints() -> None:
    printing = {"print", "sys.stdout.write", "typer.echo"}
    astray = {
        f"{module}:{call.lineno}"
        for module in set(TREES) - TRAINING
        for call in nodes(module, ast.Call)
        if room_of(module) != "cli" and ast.unparse(call.func) in printing
    }
    assert not astray


def test_the_environment_is_read_at_the_doors_alone() -> None:
    astray = {
        f"{module}:{node.lineno}"
        for module in set(TREES) - TRAINING - DOORS
        for node in nodes(module, ast.Attribute)
        if room_of(module) not in {"cli", "settings", "workers"}
        and ast.unparse(node) in {"os.environ", "os.getenv"}
    }
    assert not astray


def test_every_module_says_what_it_is_for_and_has_a_name_of_its_own() -> None:
    assert not {module for module, tree in TREES.items() if not ast.get_docstring(tree)}
    nameless = {"utils", "util", "common", "helpers", "misc"}
    assert not {module for module in TREES if module.rpartition(".")[2] in nameless}, (
        "a concept that was not named yet"
    )


def test_no_module_is_longer_than_four_hundred_lines() -> None:
    lines = {name_of(path): len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES}
    assert not {module: count for module, count in lines.items() if count > 400}


def commands() -> list[str]:
    """Every command of the program, as a person types it."""
    found = []
    for name, one in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        inner = getattr(one, "commands", None)
        found += [f"{name} {below}" for below in inner] if inner else [name]
    return found


def test_every_command_is_documented() -> None:
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert not [name for name in commands() if f"neuroscan-farm {name}" not in text]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_every_ready_request_is_a_request_that_is_explained_and_documented(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.startswith("# "), "its first line says what it is for"
    read_request(yaml.safe_load(text), where=path.name)
    assert any(path.name in page.read_text(encoding="utf-8") for page in PAGES)


def test_there_is_a_ready_request_and_it_can_be_planned_as_it_is() -> None:
    assert ROOT / "configs" / "demo.yaml" in CONFIGS


@pytest.mark.parametrize("name", ANALYSES)
def test_every_analysis_is_documented_with_all_its_parameters(name: str) -> None:
    analysis = ANALYSES[name]
    assert analysis.name == name
    assert analysis.summary
    assert all(field.description for field in analysis.parameters.model_fields.values())


def test_no_test_is_skipped_for_good_or_mocks() -> None:
    for path in sorted((ROOT / "tests").rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        marks = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        assert not marks & {"pytest.mark.skip", "pytest.mark.xfail"}, path
        assert "unittest.mock" not in {
            node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)
        }, path
