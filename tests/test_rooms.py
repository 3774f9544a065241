"""The rooms of the package: imports run one way, no folder and no file grows without bound."""

from __future__ import annotations

import ast
from collections import defaultdict
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "clip_adapt"
# From what is imported by all to what imports all; rooms in one row do not import each other.
ORDER = (
    ("errors",),
    ("system",),
    ("config",),
    ("data", "backbone"),
    ("inputs",),
    ("method",),
    ("adapted",),
    ("evaluation",),
    ("training",),
    ("pages",),
    ("objectives",),
    ("runs",),
    ("sweeps",),
    ("api", "estimator", "testing", "cli"),
    ("train", "evaluate", "predict", "sweep", "report"),
    ("__main__",),
)
RANK = {room: rank for rank, rooms in enumerate(ORDER) for room in rooms}


@cache
def modules():
    """Return the file of every module of the package, by its full name."""
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in PACKAGE.rglob("*.py")
    }


@cache
def arrows():
    """Return what every module imports, inside functions and for types alone included."""
    found = defaultdict(set)
    for name, path in modules().items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            for target in named(node):
                owner = owner_of(target)
                if owner not in (None, name, "clip_adapt"):
                    found[name].add(owner)
    return found


def named(node):
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        assert node.level == 0, "imports are absolute"
        return [f"{node.module}.{alias.name}" for alias in node.names]
    return []


def owner_of(target):
    while target and target not in modules():
        target = target.rpartition(".")[0]
    return target or None


def room_of(module):
    return module.split(".")[1]


def test_every_room_has_its_place_in_the_order():
    rooms = {room_of(name) for name in modules() if name != "clip_adapt"}
    assert rooms == RANK.keys()


def test_imports_run_one_way():
    wrong = [
        f"{module} imports {target}"
        for module, targets in arrows().items()
        for target in targets
        if module != "clip_adapt"
        and room_of(module) != room_of(target)
        and RANK[room_of(module)] <= RANK[room_of(target)]
    ]
    assert wrong == []


def test_imports_make_no_circle():
    done, path = set(), []

    def walk(module):
        assert module not in path, " > ".join([*path[path.index(module) :], module])
        if module not in done:
            path.append(module)
            for target in sorted(arrows()[module]):
                walk(target)
            path.pop()
            done.add(module)

    for module in modules():
        walk(module)


def test_no_module_names_a_method():
    wrong = [m for m, path in modules().items() if "clip_adapt.methods." in path.read_text()]
    allowed = {"clip_adapt.method.finding"}  # which makes the name from what it was asked for
    assert set(wrong) <= allowed


def test_no_file_is_longer_than_300_lines_without_a_reason():
    for name, path in modules().items():
        text = path.read_text(encoding="utf-8")
        if len(text.splitlines()) > 300:
            assert "This file is long because" in text, f"{name} has no reason to be so long"


def test_no_folder_is_a_heap():
    for folder in {path.parent for path in modules().values()}:
        count = len(list(folder.glob("*.py")))
        assert count <= 16, f"{folder} holds {count} modules"


def test_no_name_stands_for_two_classes():
    found = defaultdict(list)
    for path in modules().values():
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef):
                found[node.name].append(str(path.relative_to(ROOT)))
    assert len(found) > 100
    assert {name: paths for name, paths in found.items() if len(paths) > 1} == {}
