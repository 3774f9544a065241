"""What is installed, and that it works outside the checkout."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def run(words, cwd, **env):
    return subprocess.run(
        [str(w) for w in words],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": "", **env},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A folder with the wheel and the source distribution, built without the network."""
    folder = tmp_path_factory.mktemp("built")
    source = tmp_path_factory.mktemp("checkout") / "source"
    ignored = shutil.ignore_patterns(".git", "*.egg-info", "build", ".venv", "__pycache__")
    shutil.copytree(ROOT, source, ignore=ignored)
    kinds = ["--wheel", "--sdist", "--no-isolation"]
    done = run([sys.executable, "-m", "build", *kinds, "--outdir", folder, source], folder)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.fixture(scope="module")
def wheel(built):
    return next(built.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """A Python with the wheel installed beside this environment's packages."""
    folder = tmp_path_factory.mktemp("venv")
    venv.create(folder, symlinks=True)
    site = next(folder.glob("lib/python*/site-packages"), folder / "Lib" / "site-packages")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    others = [p for p in sys.path if p.endswith("site-packages")]
    # The editable install of the checkout must not answer in the wheel's place.
    (site / "others.pth").write_text(
        "".join(f"import sys; sys.path.append({p!r})\n" for p in others)
    )
    return folder / "bin" / "python"


def test_the_wheel_holds_one_top_level_name_and_everything_in_it(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    tops = {name.split("/")[0] for name in names}
    assert len(tops) == 2 and all(top.startswith("clip_adapt") for top in tops)
    expected = [
        *(f"clip_adapt/{p.relative_to(ROOT / 'clip_adapt')}" for p in files("clip_adapt")),
        *(f"clip_adapt/{p.relative_to(ROOT)}" for d in ("methods", "configs", "datasets")
          for p in files(d)),
    ]  # fmt: skip
    assert sorted(set(expected) - names) == []
    assert {"clip_adapt/lite/lite.safetensors", "clip_adapt/configs/train.yaml"} <= names


def files(folder):
    return [
        p
        for p in (ROOT / folder).rglob("*")
        if p.is_file() and "__pycache__" not in p.parts and not p.name.startswith(".")
    ]


def test_configs_and_datasets_hold_yaml_only():
    for folder in ("configs", "datasets"):
        assert {p.suffix for p in files(folder)} == {".yaml"}


def test_a_library_named_datasets_is_not_shadowed(tmp_path):
    (tmp_path / "datasets").mkdir()
    (tmp_path / "datasets" / "__init__.py").write_text("theirs = True\n")
    code = "import datasets; print(datasets.theirs)"
    done = run([sys.executable, "-c", code], ROOT, PYTHONPATH=str(tmp_path))
    # Run in the clone, where the folder datasets/ lies on sys.path first.
    assert done.stdout.strip() == "True", done.stderr


@pytest.mark.slow
def test_a_wheel_runs_outside_the_checkout(installed, tmp_path, make_folder):
    make_folder(tmp_path / "pets")
    where = (
        "import clip_adapt, clip_adapt.methods.coop as m; print(clip_adapt.__file__, m.__file__)"
    )
    done = run([installed, "-c", where], tmp_path)
    assert str(ROOT) not in done.stdout and "site-packages" in done.stdout, done.stderr
    train = ["-m", "clip_adapt.train", "dataset=pets", "shots=2", "epochs=2", "output=out"]
    done = run([installed, *train], tmp_path)
    assert done.returncode == 0, done.stderr
    image = next((tmp_path / "pets" / "test" / "cat").iterdir())
    done = run([installed, "-m", "clip_adapt", "predict", "out/adapter", image], tmp_path)
    assert done.returncode == 0 and "cat" in done.stdout, done.stderr


@pytest.mark.slow
def test_a_bare_clone_runs_without_an_install(tmp_path):
    ignored = shutil.ignore_patterns(".git", "*.egg-info", "__pycache__")
    clone = tmp_path / "clone"
    shutil.copytree(ROOT, clone, ignore=ignored)
    code = "import clip_adapt.methods.coop as m; print(m.__file__)"
    done = run([sys.executable, "-c", code], clone)
    assert done.stdout.strip() == str(clone / "methods" / "coop.py"), done.stderr
    done = run([sys.executable, "-m", "clip_adapt.train", "--help"], clone)
    assert "coop" in done.stdout and done.returncode == 0


def read_project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def name_packages(requirements):
    """Return the packages of requirement lines, in the spelling that tells them apart."""
    names = (re.match(r"[\w.-]+", line).group() for line in requirements)
    return {re.sub(r"[-_.]+", "-", name).lower() for name in names}


def list_imports(path):
    """Yield every module that a file imports, and whether it does so when it is first needed."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    inner = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Try)
    late = {id(n) for t in ast.walk(tree) if isinstance(t, inner) for n in ast.walk(t)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module]
        else:
            continue
        yield from ((name.partition(".")[0], id(node) in late) for name in names)


def test_what_is_imported_is_declared():
    project = read_project()
    needed = name_packages(project["dependencies"])
    optional = project["optional-dependencies"]
    users = [line for name in optional.keys() - {"test", "docs"} for line in optional[name]]
    extras = name_packages(users)
    brought_by = metadata.packages_distributions()
    brought_by |= {m: [m] for m in ("datasets", "medmnist", "pydicom", "pillow_heif", "pyarrow")}
    ours = {"clip_adapt", *sys.stdlib_module_names}
    undeclared = set()
    for path in [*(ROOT / "clip_adapt").rglob("*.py"), *(ROOT / "methods").rglob("*.py")]:
        for module, late in list_imports(path):
            packages = name_packages(brought_by.get(module, [module]))
            declared = needed | extras if late else needed
            if module not in ours and not packages & declared:
                undeclared.add(f"{path.relative_to(ROOT)}: {module}")
    assert sorted(undeclared) == []


def test_what_a_source_distribution_holds(built):
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    kept = ["README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff", "SECURITY.md", ".ci/run"]
    kept += ["docs/data.md", "tests/conftest.py", "benchmarks/RESULTS.md", "tools/net.py"]
    kept += ["methods/coop.py", "datasets/eyes.yaml", "clip_adapt/lite/lite.safetensors"]
    assert sorted(set(kept) - names) == []
    assert not [name for name in names if "__pycache__" in name or name.startswith("runs/")]


def test_a_package_index_would_take_both(built):
    done = run([sys.executable, "-m", "twine", "check", "--strict", *built.iterdir()], built)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_engine_names_no_method_and_no_data_set():
    engine = (ROOT / "clip_adapt").rglob("*.py")
    for path in engine:
        text = path.read_text(encoding="utf-8")
        assert "from clip_adapt.methods" not in text, f"{path.name} imports a method"
        assert "import clip_adapt.methods" not in text, f"{path.name} imports a method"


def test_nothing_heavy_is_imported_by_the_package_and_by_help():
    code = (
        "import sys, clip_adapt; from clip_adapt import cli;"
        "cli.run('train', ['--help']); cli.run('predict', ['--help']);"
        "heavy = {'torch', 'open_clip', 'transformers', 'accelerate', 'sklearn', 'numpy'};"
        "print('heavy:', sorted(heavy & set(sys.modules)))"
    )
    done = run([sys.executable, "-c", code], ROOT)
    assert done.stdout.strip().endswith("heavy: []"), done.stdout[-300:] + done.stderr
