"""The house: which room may import which, and how large its files and functions are."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "meft_runner"
FILES = sorted(PACKAGE.rglob("*.py"))
# A room may import those on lower floors; rooms of one floor do not know each other.
FLOORS = {
    name: floor
    for floor, names in enumerate(
        [
            ["errors", "files", "__init__"],
            ["config", "reversible"],
            ["backbones", "memory"],
            ["methods", "tasks", "records"],
            ["run"],
            ["reports"],
            ["sweeps", "predict", "memory_report", "sharing"],
            ["api", "cli"],
            ["__main__"],
        ]
    )
    for name in names
}
ALONE = {"reversible": set(), "memory": {"reversible"}}  # usable without the rest


def module_of(path):
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(module):
    return module.split(".")[1] if "." in module else "__init__"


MODULES = {module_of(path): path for path in FILES}


def imports_of(path):
    """Returns the modules of ours that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in MODULES else node.module)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name for name in found if name.split(".")[0] == "meft_runner"}


IMPORTS = {module: imports_of(path) for module, path in MODULES.items()}


def test_every_room_has_its_floor():
    assert {room_of(module) for module in MODULES} == set(FLOORS)


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down(module):
    room = room_of(module)
    others = {room_of(name) for name in IMPORTS[module]} - {room}
    upwards = {other for other in others if FLOORS[other] >= FLOORS[room]}
    assert not upwards, f"{module} imports {upwards}"
    if room in ALONE:
        assert others <= ALONE[room]


def test_no_module_imports_itself_by_a_detour():
    inner = {module: names - {module} for module, names in IMPORTS.items() if MODULES[module].name != "__init__.py"}
    list(TopologicalSorter(inner).static_order())  # raises a CycleError that names the modules


def test_few_files_stand_outside_of_rooms():
    assert len(list(PACKAGE.glob("*.py"))) <= 5
    assert (PACKAGE / "cli.py").read_text(encoding="utf-8").count("\n") < 90


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_and_functions_are_small_and_described(path):
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= 250
    tree = ast.parse(text)
    inner = {
        id(child)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
        for child in ast.walk(node)
        if child is not node
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < 50, node.name
            if not node.name.startswith("_") and id(node) not in inner:
                assert ast.get_docstring(node), node.name
                assert node.returns is not None, node.name


def test_tests_import_helpers_and_no_other_tests():
    for path in Path(__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tests"):
                names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
                assert not any(".test_" in name for name in names), path
                assert node.module.startswith("tests.helpers"), path
