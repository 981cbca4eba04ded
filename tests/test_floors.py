"""Imports run one way: every module stands on a floor and sees only what is below it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FLOORS = ["mlgym_mcp.catalog", "mlgym_mcp.grading", "mlgym_mcp.session", "mlgym_mcp.tools", "mlgym_mcp.serving"]
PACKAGES = {"mlgym_mcp": ROOT, "mlgym_sandbox": ROOT / "sandbox", "mlgym_clients": ROOT / "clients"}
STDLIB_ONLY = [
    "mlgym_mcp/__init__.py",
    "mlgym_mcp/catalog/building.py",
    "mlgym_mcp/catalog/confined.py",
    "mlgym_mcp/cli/entry.py",
    "mlgym_mcp/grading/api.py",
    "mlgym_mcp/grading/branching.py",
    "mlgym_mcp/grading/errors.py",
    "mlgym_mcp/grading/players.py",
    "mlgym_mcp/grading/referee.py",
    "mlgym_mcp/grading/rollouts.py",
    "mlgym_mcp/grading/strata.py",
    "mlgym_mcp/grading/strict.py",
    "mlgym_mcp/grading/tar_reader.py",
    "mlgym_mcp/grading/wire.py",
    "mlgym_mcp/loading.py",
    "mlgym_mcp/serving/relay.py",
    "sandbox/mlgym_sandbox/__init__.py",
    "sandbox/mlgym_sandbox/home.py",
]
for program in ("runner", "player"):
    STDLIB_ONLY += sorted(str(p.relative_to(ROOT)) for p in ROOT.glob(f"sandbox/mlgym_sandbox/inside/{program}/*.py"))


def modules() -> list[tuple[str, Path]]:
    found = []
    for package, root in PACKAGES.items():
        for path in sorted((root / package).rglob("*.py")):
            name = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
            found.append((name, path))
    return found


def imports(path: Path, *, at_start_only: bool = False) -> set[str]:
    """Names of imported modules; with ``at_start_only`` those that merely importing the file loads."""
    tree = ast.parse(path.read_text())
    names: set[str] = set()

    def visit(node: ast.AST) -> None:
        if at_start_only and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            return
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            return
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add(str(node.module))
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(tree)
    return names


def floor_of(name: str) -> int | None:
    for i, floor in enumerate(FLOORS):
        if name == floor or name.startswith(floor + "."):
            return i
    return None


@pytest.mark.parametrize(("name", "path"), modules(), ids=lambda value: value if isinstance(value, str) else "")
def test_a_module_imports_only_from_floors_below_its_own(name: str, path: Path) -> None:
    for imported in imports(path):
        if name.startswith("mlgym_sandbox"):
            assert not imported.startswith(("mlgym_mcp", "mlgym_clients", "mcp")), f"the sandbox knows no {imported}"
        if name.startswith("mlgym_mcp") and not name.startswith("mlgym_mcp.cli"):
            assert not imported.startswith("mlgym_clients"), f"the server does not know its clients: {imported}"
            assert not imported.startswith("mlgym_mcp.cli"), f"nothing stands on the command line: {imported}"
        if name.startswith("mlgym_clients") and imported.startswith("mlgym_mcp"):
            assert imported.startswith(("mlgym_mcp.api", "mlgym_mcp.records")), (
                f"clients know only the wire: {imported}"
            )
        if name.startswith("mlgym_mcp.tools"):
            assert imported.split(".")[0] != "mcp", "tools know no MCP"
        if name.startswith("mlgym_mcp.records"):
            assert imported != "mlgym_mcp.session.session", "records read episodes, never a live session"
        mine, theirs = floor_of(name), floor_of(imported)
        if mine is not None and theirs is not None:
            assert theirs <= mine, f"{name} stands below {imported}"


def test_nothing_of_the_server_imports_a_task() -> None:
    for name, path in modules():
        assert not any(i == "tasks" or i.startswith("tasks.") for i in imports(path)), name


@pytest.mark.parametrize("file", STDLIB_ONLY)
def test_what_runs_in_sandboxes_graders_and_relays_loads_only_the_standard_library(file: str) -> None:
    import sys

    allowed = {Path(f).with_suffix("").as_posix().replace("/", ".").removeprefix("sandbox.") for f in STDLIB_ONLY}
    allowed |= {"mlgym_mcp", "mlgym_mcp.grading.wire", "mlgym_mcp.grading.errors"}
    for imported in imports(ROOT / file, at_start_only=True):
        assert imported.split(".")[0] in sys.stdlib_module_names or imported in allowed, f"{file} imports {imported}"


def test_tasks_are_data_without_packages() -> None:
    assert not list((ROOT / "tasks").rglob("__init__.py"))


@pytest.mark.parametrize("program", ["runner", "player"])
def test_the_modules_of_programs_inside_import_each_other_one_way(program: str) -> None:
    prefix = f"mlgym_sandbox.inside.{program}."
    below = {name: {i for i in imports(path) if i.startswith(prefix)} for name, path in modules() if prefix in name}
    while free := [name for name, needed in below.items() if not needed]:
        for name in free:
            del below[name]
        for needed in below.values():
            needed.difference_update(free)
    assert not below, f"these import each other in a circle: {sorted(below)}"
