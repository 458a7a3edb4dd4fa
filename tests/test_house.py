"""The house stands: imports only go down, rooms have subjects, every test file is collected."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import perpixel

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "perpixel"

# Rooms of one floor may not import each other; encoders may import layers, so layers lie half a floor lower.
FLOORS = {
    "images": 0,
    "labels": 0.5,
    "layers": 1,
    "encoders": 1.5,
    "classical": 1.8,
    "models": 2,
    "data": 3,
    "inference": 3,
    "losses": 3,
    "metrics": 3,
    "engine": 4,
    "planning": 4,
    "apps": 5,
}
OPEN_TO_ALL = {"errors", "files", "compiled"}
# Modules that may import torch when they are imported. The others stay quick to import, and NumPy only.
TORCH_ROOMS = {"layers", "encoders", "classical", "models", "losses", "inference", "engine"}
TORCH_FILES = {
    "data.batches",
    "data.volume_batches",
    "data.instance_crops",
    "apps.training",
    "apps.preparing",
    "apps.tasks",
    "planning.rehearsal",
}
WITHOUT_SUBJECT = {"utils", "util", "common", "core", "base", "helpers", "helper", "misc", "shared", "lib", "tools"}
# Files in tests/ that are no tests: fixtures and makers of test data.
TEST_SUPPORT = {"conftest.py", "__init__.py"}


def module_name(path: Path) -> str:
    """src/perpixel/data/formats/voc.py -> data.formats.voc; a package is called by its folder; the root is ''."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def room(module: str) -> str:
    return module.partition(".")[0]


def imports(module: str, *, only_at_import: bool = False) -> Iterator[str]:
    """Full names that a module imports, those inside functions included; imports for type checkers only are not."""
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    for node in walk(tree, into_functions=not only_at_import):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: a relative import: write the full name"
            source = node.module or ""
            for alias in node.names:
                full = f"{source}.{alias.name}"
                yield full if full.removeprefix("perpixel.") in MODULES else source


def walk(node: ast.AST, *, into_functions: bool) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            continue
        if not into_functions and isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        yield child
        yield from walk(child, into_functions=into_functions)


def own_imports(module: str) -> Iterator[str]:
    """Modules of this package that a module imports, without the package's name."""
    for name in imports(module):
        if name == "perpixel":
            yield ""
        elif name.startswith("perpixel."):
            target = name.removeprefix("perpixel.")
            assert target in MODULES, f"{module} imports {name}, which does not exist"
            yield target


@pytest.mark.parametrize("module", [m for m in MODULES if m])
def test_imports_go_down(module: str) -> None:
    here = room(module)
    for target in own_imports(module):
        there = room(target)
        if there in OPEN_TO_ALL or there == here:
            continue
        assert here not in OPEN_TO_ALL, f"{module} imports {target}: errors, files and compiled stand below every room"
        if target == "":
            assert here == "apps", f"{module} imports perpixel itself, which stands above every room"
            continue
        assert FLOORS[there] < FLOORS[here], (
            f"{module} imports {target}: {there} is on floor {FLOORS[there]:g}, {here} on floor {FLOORS[here]:g}; "
            "imports only go down"
        )


def test_no_import_runs_in_a_circle() -> None:
    edges = {module: set(own_imports(module)) - {module, ""} for module in MODULES if module}
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, f"circular import: {' -> '.join((*path[path.index(module) :], module))}"
        if module in done:
            return
        for target in sorted(edges[module]):
            visit(target, (*path, module))
        done.add(module)

    for module in edges:
        visit(module, ())


def test_torch_is_imported_where_it_is_needed_only() -> None:
    heavy = {"torch", "torchvision", "timm", "lightning_fabric"}
    for module in MODULES:
        if room(module) in TORCH_ROOMS or module in TORCH_FILES:
            continue
        found = {name.partition(".")[0] for name in imports(module, only_at_import=True)} & heavy
        assert not found, f"{module} imports {found} when it is imported: do it inside the function that needs it"


def test_every_room_has_a_floor_a_subject_and_a_docstring() -> None:
    rooms = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert rooms == set(FLOORS), "a room is missing here or in the package"
    assert set(perpixel.ROOMS) == rooms
    for name in rooms:
        docstring = ast.get_docstring(ast.parse((PACKAGE / name / "__init__.py").read_text(encoding="utf-8"))) or ""
        assert len(docstring.split()) >= 3, f"{name}/__init__.py: say what the room is for"


def test_no_module_without_a_subject() -> None:
    for module, path in MODULES.items():
        assert path.stem not in WITHOUT_SUBJECT and path.parent.name not in WITHOUT_SUBJECT, (
            f"{module}: name its subject"
        )
    folders = {path.parent for path in MODULES.values()}
    assert all((folder / "__init__.py").is_file() for folder in folders), "a folder of modules without __init__.py"


def test_every_module_says_what_it_is() -> None:
    for module, path in MODULES.items():
        assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), f"{module or 'perpixel'}: no docstring"


def test_every_test_file_is_collected() -> None:
    for path in (ROOT / "tests").rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = [n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.ClassDef)]
        has_tests = any(name.startswith(("test_", "Test")) for name in names)
        where = path.relative_to(ROOT)
        if path.name.startswith("test_"):
            assert has_tests, f"{where}: no test in it"
        elif path.name not in TEST_SUPPORT:
            assert not has_tests, f"{where}: its tests are never run: call the file test_*.py"


def test_no_two_tests_of_one_file_share_a_name() -> None:
    for path in (ROOT / "tests").rglob("test_*.py"):
        body = ast.parse(path.read_text(encoding="utf-8")).body
        names = [node.name for node in body if isinstance(node, ast.FunctionDef)]
        twice = {name for name in names if names.count(name) > 1}
        assert not twice, f"{path.relative_to(ROOT)}: {twice} would run once only"


def test_test_files_mirror_the_rooms() -> None:
    folders = {path.name for path in (ROOT / "tests").iterdir() if path.is_dir() and any(path.glob("**/test_*.py"))}
    assert folders <= {*FLOORS, "contracts", "fuzz"}


def test_import_perpixel_is_light() -> None:
    code = "import sys, perpixel; print(sorted({'torch', 'numpy', 'pydantic'} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_public_names_are_found() -> None:
    assert perpixel.metrics.confusion_matrix([0, 1], [0, 1], num_classes=2).tolist() == [[1, 0], [0, 1]]
    assert set(perpixel.EXPORTS) | {"InputError", "__version__"} == set(perpixel.__all__)
    assert {"metrics", "create_model"} <= set(dir(perpixel))
    with pytest.raises(AttributeError, match="no attribute 'frobnicate'"):
        perpixel.frobnicate  # noqa: B018


@pytest.mark.parametrize("name", sorted(perpixel.EXPORTS))
def test_every_export_exists(name: str) -> None:
    assert getattr(perpixel, name) is not None


def test_version_is_the_project_s() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["version"] == perpixel.__version__


def test_constraints_are_exact_and_cover_the_project() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").split()
    assert all(line.count("==") == 1 and "@" not in line and "/" not in line for line in lines)
    pinned = {line.partition("==")[0].lower().replace("_", "-") for line in lines}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"], *(p for extra in project["optional-dependencies"].values() for p in extra)]
    names = {"".join(c if c.isalnum() or c in "-_." else " " for c in line).split()[0].lower() for line in wanted}
    assert names - {"perpixel"} <= pinned
