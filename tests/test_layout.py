"""The modules import each other downwards only; docs/layout.rst has the picture."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# The boxes of docs/layout.rst, from the lowest up. A module imports from its own box
# or from lower ones.
BOXES = [
    "_arrays _grouping tables _storage feature_cache datasets _blocks",
    "_scaling decoding _feature_side losses _heads _sampling _training",
    "metrics model_selection _stack_weights",
    "_scorers",
    "_atomic _interrupts _company _repr _zero_shot _regressor _attention baselines "
    "_classifier _stacking _search streaming",
    "_views _attention_maps plotting _report",
]
BOX = {module: number for number, box in enumerate(BOXES) for module in box.split()}


def module_level_imports(path, package):
    """(dotted module, name or None) of what a file imports when it is imported."""
    found, todo = [], list(ast.parse(path.read_text()).body)
    while todo:
        node = todo.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            todo += node.orelse
            continue
        if isinstance(node, ast.ImportFrom):
            # Of "..x" in rezsl_sk.a.b the package is rezsl_sk.
            base = package.split(".")[: len(package.split(".")) - node.level + 1]
            start = ".".join(base) + "." if node.level else ""
            module = (start + (node.module or "")).rstrip(".")
            found += [(module, alias.name) for alias in node.names]
        elif isinstance(node, ast.Import):
            found += [(alias.name, None) for alias in node.names]
        todo += ast.iter_child_nodes(node)
    return found


def edges():
    """Which rooms (modules, or packages as a whole) import which others."""
    found = {}
    for path in sorted((ROOT / "rezsl_sk").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if parts[1] == "__init__":
            continue  # lazy: imports nothing
        package = ".".join(parts[:-1])
        own = found.setdefault(parts[1], set())
        for module, name in module_level_imports(path, package):
            names = module.split(".")
            if names[0] != "rezsl_sk":
                continue
            room = names[1] if len(names) > 1 else name
            if room != parts[1]:
                own.add(room)
    return found


def test_every_module_has_a_box():
    assert set(edges()) == set(BOX)


def test_imports_point_downwards():
    upwards = [
        f"{room} imports {other}"
        for room, others in edges().items()
        for other in others
        if BOX[other] > BOX[room]
    ]
    assert not upwards


def test_no_two_modules_import_each_other_and_chains_are_short():
    graph, depth = edges(), {}

    def walk(room, path):
        assert room not in path, f"a circle of imports: {[*path, room]}"
        if room not in depth:
            depth[room] = 1 + max(
                (walk(o, [*path, room]) for o in graph[room]), default=0
            )
        return depth[room]

    for room in graph:
        walk(room, [])
    # May fall; issue C of the project wants 8.
    assert max(depth.values()) <= 11


@pytest.mark.parametrize("package", ["features"])
def test_the_extractor_uses_public_modules_alone(package):
    private = [
        f"{path.name}: {module}"
        for path in sorted((ROOT / package).rglob("*.py"))
        for module, name in module_level_imports(path, "rezsl_features")
        if module.startswith("rezsl_sk")
        and any(part.startswith("_") for part in [*module.split("."), name or ""])
        and name != "__version__"
    ]
    assert not private
