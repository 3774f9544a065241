"""What the README and the pages under docs/ say is true: commands, code, options, links."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from functools import cache, partial
from pathlib import Path
from typing import Literal

import pytest
import torch

import clip_adapt
from clip_adapt import cli
from clip_adapt.cli import words
from clip_adapt.config import cards, options, values, yamls
from clip_adapt.config.run_options import RunOptions
from clip_adapt.data import source
from clip_adapt.data.source import list_sources
from clip_adapt.evaluation import finding as metrics
from clip_adapt.method import finding
from clip_adapt.objectives import _finding as objectives
from clip_adapt.runs.configuration import compose
from clip_adapt.runs.run import run
from clip_adapt.sweeps import grid
from clip_adapt.system import run_files
from clip_adapt.system.files import locate_resource

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
TOPS = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md")
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in (*TOPS, *sorted(DOCS.rglob("*.md")))
}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PROGRAMS = (
    "python",
    "pip",
    "pytest",
    "accelerate",
    "torchrun",
    "ruff",
    "mypy",
    "mkdocs",
    "clip-adapt",
)
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
LINK = re.compile(r"(!?)\[[^\]]*\]\(([^)\s]+)\)")
SETTING = re.compile(r"([a-z_]+(?:\.\w+)*)=(.+)")
PLACE = re.compile(r"\b[A-Z]+\b")  # FOLDER, TAG, N: where a value would stand
GENERATED = re.compile(r"<!-- begin .*?<!-- end [^\n]*-->", re.DOTALL)


def commands():
    """Return every command line of the pages: (page, command)."""
    found = []
    for page, text in PAGES.items():
        whole = FENCED.sub("", text).replace("\\\n", " ")
        lines = [line[4:] for line in whole.splitlines() if line.startswith("    ")]
        for line in [*lines, *INLINE.findall(whole)]:
            if line.split(" ")[0] in PROGRAMS:
                found += [(page, part.strip()) for part in line.split("&&")]
    return list(dict.fromkeys(found))


def python_blocks():
    """Return every block of Python that is written by hand: (page, code)."""
    return [
        (page, code)
        for page, text in PAGES.items()
        for kind, code in FENCED.findall(GENERATED.sub("", text))
        if kind == "python"
    ]


def example(name):
    """Return the block of docs/extending.md that defines a class."""
    return next(code for _, code in python_blocks() if f"class {name}(" in code)


@pytest.fixture(scope="module")
def place(make_folder, tmp_path_factory):
    """A folder with everything that the pages speak of, all of it small."""
    place = tmp_path_factory.mktemp("docs")
    images = make_folder(place / "my_images")
    paths = sorted(path.relative_to(place).as_posix() for path in images.rglob("*.png"))
    shutil.copy(place / paths[0], place / "photo.jpg")
    shutil.copy(place / paths[1], place / "other.png")
    rows = [f"{path},{path.split('/')[2]}" for path in paths]
    (place / "my_images.csv").write_text("\n".join(["path,label", *rows]))
    (place / "pairs.csv").write_text("\n".join(["image,caption", *rows]))
    (place / "list.txt").write_text("\n".join(row.replace(",", " ") for row in rows))
    for folder in (place, place / "docs" / "examples"):
        shutil.copytree(DOCS / "examples", folder, dirs_exist_ok=True)
    (place / "shift.py").write_text(example("Shift"))
    (place / "weights.safetensors").touch()
    (place / "path/to/folder").mkdir(parents=True)
    (place / "path/to/folder/open_clip_config.json").write_text("{}")
    return place


@pytest.fixture
def here(place, monkeypatch):
    monkeypatch.chdir(place)
    return place


@pytest.mark.parametrize(("page", "command"), commands())
def test_every_command_is_one(page, command, here):
    program, *rest = shlex.split(command)
    if program == "clip-adapt":
        known = (*cli.VERBS, *cli.HELP, *cli.VERSION, "completion")
        assert not rest or rest[0] in known or rest == ["VERB", "..."]
    elif program in ("python", "accelerate", "torchrun"):
        if program != "python":
            rest = rest[rest.index("-m") :] if rest else []
        assert not rest or require_module(rest) is None
    elif program == "pip":
        assert rest[:2] == ["install", "-e"]
        asked = re.fullmatch(r"\.(?:\[([\w,]+)\])?", rest[2])[1]
        assert set(asked.split(",") if asked else []) <= PROJECT["optional-dependencies"].keys()
    elif program == ".":
        assert rest == [".venv/bin/activate"]
    elif program == "pytest":
        assert rest in ([], ["-m", "slow"])
    else:
        extras = PROJECT["optional-dependencies"].values()
        assert any(re.match(rf"{program}\b", name) for extra in extras for name in extra)


def require_module(rest):
    """Check what stands behind ``python``: a module with its words, or a file."""
    if rest[0] != "-m":
        assert (ROOT / rest[0]).is_file()
    elif rest[1] == "venv":
        assert rest[2:] == [".venv"]
    elif rest[1].startswith("clip_adapt."):
        require_words(rest[1].removeprefix("clip_adapt."), rest[2:])
    else:
        module = rest[1].replace(".", "/")
        assert any((ROOT / f"{module}{end}.py").is_file() for end in ("", "/__main__"))


def require_words(verb, argv):
    """Check the words of a verb with what the product reads them with."""
    module = importlib.import_module(f"clip_adapt.{verb}")
    assert verb in cli.VERBS
    if argv == ["--help"]:
        return
    if verb == "train":
        compose(words.read_options(argv))
    elif verb == "sweep":
        given = words.read_options(argv)
        own = words.take_own(given, module.read_schema())
        assert len(grid.expand(given, own["output"])[1]) > 1
    else:
        own = [word for word in argv if not (verb == "evaluate" and word.startswith("dataset."))]
        names, _ = words.read_words(own, module.read_schema())
        assert names and all(Path(name).exists() or name.startswith("runs") for name in names)


def settings():
    """Return every ``key=value`` that stands in running text: (page, key, value)."""
    found = []
    for page, text in PAGES.items():
        for span in INLINE.findall(FENCED.sub("", text)):
            if "(" not in span and span.split(" ")[0] not in PROGRAMS:
                pairs = [SETTING.fullmatch(part) for part in shlex.split(span)]
                found += [(page, pair[1], pair[2]) for pair in pairs if pair]
    return [one for one in dict.fromkeys(found) if one[1] not in ("key", "dataset.KEY")]


@cache
def known_options():
    """Return the options that there are, by their names on a command line."""
    schemas = [
        importlib.import_module(f"clip_adapt.{verb}").read_schema()
        for verb in cli.VERBS
        if verb != "train"
    ]
    known = {key: option.annotation for schema in schemas for key, option in schema.items()}
    for name in cards.list_cards("method"):
        of_class = options.read_signature(finding.find_method(name).cls)
        known |= {f"method.{key}": option.annotation for key, option in of_class.items()}
    for one in list_sources():
        known |= {f"dataset.{key}": option.annotation for key, option in one.options.items()}
    for card, group in ((cards.DataCard, "dataset"), (cards.ModelCard, "model")):
        of_card = options.read_fields(card)
        known |= {f"{group}.{key}": option.annotation for key, option in of_card.items()}
    general = options.read_fields(RunOptions)
    known |= {"config": str, "verbose": Literal["true", "false", "quiet", "normal", "debug"]}
    return known | {key: option.annotation for key, option in general.items()}


@pytest.mark.parametrize(("page", "key", "value"), settings())
def test_every_option_in_the_text_exists_and_takes_the_value(page, key, value):
    known = known_options()
    assert key in known
    varied = values.parse(values.TypedText(value)) if value.startswith("[") else []
    whole = fits(value, known[key]) or PLACE.search(value)
    assert whole or (varied and all(fits(str(one), known[key]) for one in varied))


def fits(value, annotation):
    """Return whether an option takes a value whole, be it a list."""
    try:
        values.check(values.TypedText(value), annotation)
    except ValueError:
        return False
    return True


@pytest.fixture(scope="module")
def make_delta(place, tiny_card, tmp_path_factory):
    """A function that trains the tiny CLIP for a delta named as one of a run's folder."""
    tiny = tmp_path_factory.mktemp("card") / "tiny.yaml"
    tiny.write_text(f"architecture: {tiny_card.architecture}\npretrained: {tiny_card.pretrained}\n")

    @cache
    def make(method):
        given = {
            "method": str(place / "shift.py") if method == "shift" else method,
            "dataset": str(place / "my_images"),
            "model": str(tiny),
            "shots": 2,
            "epochs": 1,
            "conformal": 0.1,
            "report": False,
            "tensorboard": False,
            "cache": False,
            "output": str(tmp_path_factory.mktemp("run") / method),
        }
        return run(compose(given)).folder / "adapter"

    make.model = str(tiny)
    return make


@pytest.mark.parametrize(("page", "code"), python_blocks())
def test_every_block_of_python_runs(page, code, here, make_delta, monkeypatch):
    for folder in re.findall(r'"(runs/[^"]*/adapter)"', code):
        method = folder.split("/")[-2].split("-")[0]
        shutil.copytree(make_delta(method), folder, dirs_exist_ok=True)
    quick = {"model": make_delta.model, "epochs": 1, "report": False, "tensorboard": False}
    monkeypatch.setattr(clip_adapt, "adapt", partial(clip_adapt.adapt, **quick), raising=False)
    load = clip_adapt.load

    def load_tiny(path, **given):  # the tiny CLIP stands for the one that the page speaks of
        return load(path, **(given if "backbone" in given else {**given, "model": quick["model"]}))

    monkeypatch.setattr(clip_adapt, "load", load_tiny, raising=False)
    exec(compile(code, page, "exec"), {"__name__": "page", "pixels": torch.zeros(2, 3, 32, 32)})


def slug(heading):
    """Return the anchor of a heading, as GitHub and mkdocs make it."""
    plain = re.sub(r"[^\w\- ]", "", heading.strip().lower())
    return plain.replace(" ", "-")


@pytest.mark.parametrize("page", PAGES)
def test_every_link_and_every_image_leads_somewhere(page):
    for picture, target in LINK.findall(FENCED.sub("", PAGES[page])):
        name, _, anchor = target.partition("#")
        path = (ROOT / page).parent / name if name else ROOT / page
        assert path.is_file(), target
        assert not (page.startswith("docs/") and name) or path.resolve().is_relative_to(DOCS), (
            f"{target} lies outside of what mkdocs builds"
        )
        if anchor:
            headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in map(slug, headings), target
        assert not picture or path.suffix in (".png", ".jpg", ".svg")


@pytest.mark.parametrize("page", PAGES)
def test_every_file_of_the_repository_that_a_page_names_is_there(page):
    tops = {path.name for path in ROOT.iterdir() if path.name != "data"}
    named = [span for span in INLINE.findall(FENCED.sub("", PAGES[page])) if "/" in span]
    ours = [span for span in named if span.split("/")[0] in tops and " " not in span]
    assert [span for span in ours if not (ROOT / span).exists()] == []


def test_the_navigation_holds_every_page_and_the_start_links_them():
    def leaves(entry):
        if isinstance(entry, str):
            return [entry]
        return (
            [leaf for value in entry for leaf in leaves(value)]
            if isinstance(entry, list)
            else [leaf for value in entry.values() for leaf in leaves(value)]
        )

    pages = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}
    nav = leaves(yamls.read_yaml(ROOT / "mkdocs.yml")["nav"])
    assert sorted(nav) == sorted(pages)
    tops = {page for page in pages if "/" not in page and page != "index.md"}
    for start, prefix in (("docs/index.md", ""), ("README.md", "docs/")):
        linked = {target.partition("#")[0] for _, target in LINK.findall(PAGES[start])}
        assert {f"{prefix}{page}" for page in tops} <= linked


def test_what_is_written_from_the_tree_is_up_to_date():
    words = [sys.executable, "tools/describe_tree.py", "--check"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


def test_every_number_about_the_code_is_written_from_the_tree():
    by_hand = GENERATED.sub("", PAGES["docs/architecture.md"])
    assert re.findall(r"\d+", by_hand) == []


def test_every_name_on_the_page_about_the_code_exists():
    by_hand = GENERATED.sub("", PAGES["docs/architecture.md"])
    rooms = {path.stem for path in (ROOT / "clip_adapt").iterdir()}
    names = [name for name in INLINE.findall(by_hand) if name.split(".")[0] in rooms]
    for name in (n for n in names if re.fullmatch(r"\w+(\.\w+)+", n)):
        require_name(name)


def require_name(name):
    """Check that ``room.module.function`` or ``room.module.Class.method`` is there."""
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        path = ROOT.joinpath("clip_adapt", *parts[:cut])
        if path.with_suffix(".py").is_file() or (path / "__init__.py").is_file():
            found = importlib.import_module(".".join(["clip_adapt", *parts[:cut]]))
            for part in parts[cut:]:
                found = getattr(found, part)
            return
    raise AssertionError(f"{name} is not a name of the package")


def test_every_function_that_a_method_may_override_is_one():
    section = PAGES["docs/extending.md"].partition("## A source")[0]
    cells = re.findall(r"^\| (`\w+\(.*?) \|", section, re.MULTILINE)
    for name, arguments in re.findall(r"`(\w+)\((.*?)\)`", " ".join(cells)):
        parameters = list(inspect.signature(getattr(clip_adapt.Method, name)).parameters)
        assert parameters == ["self", *filter(None, arguments.split(", "))], name


def test_what_is_found_by_name_stands_in_the_table_with_its_folder_and_its_entry_points():
    page = PAGES["docs/architecture.md"]
    rows = re.findall(r"^\| (\w+) \| `([\w/]+)/` \|.*\| `([\w.]+)` \|", page, re.MULTILINE)
    kinds = (finding.KIND, source.KIND, metrics.KIND, objectives.OBJECTIVES)
    table = [(k.word, locate_resource(*k.folder), k.group) for k in kinds]
    assert [(word, ROOT / folder, group) for word, folder, group in rows] == table


def test_the_reference_holds_every_public_name_and_no_other():
    pages = [text for page, text in PAGES.items() if page.startswith("docs/api/")]
    listed = [name for text in pages for name in re.findall(r"^::: clip_adapt\.(.+)$", text, re.M)]
    public = set(clip_adapt.__all__) - {"__version__"}
    assert public <= set(listed)
    for name in set(listed) - public:
        require_name(name)


def test_every_file_of_a_run_is_explained():
    names = {value for key, value in vars(run_files).items() if key.isupper()}
    page = PAGES["docs/files.md"]
    assert [name for name in sorted(names) if f"`{name}" not in page] == []


def test_the_table_of_sources_is_their_signatures():
    rows = re.findall(r"^\| [^|]+ \| `(\w+)` \| (.*) \|$", PAGES["docs/data.md"], re.MULTILINE)
    table = {name: set(re.findall(r"`(\w+)`", cell)) for name, cell in rows if name != "source"}
    assert table == {one.name: set(one.options) for one in list_sources()}


def test_every_model_card_stands_in_the_table_of_backbones():
    rows = re.findall(r"^\| (`.*?) \|", PAGES["docs/backbones.md"], re.MULTILINE)
    assert sorted(
        name for row in rows for name in re.findall(r"`([\w-]+)`", row)
    ) == cards.list_cards("model")


def messages():
    """Return the messages of the table of docs/troubleshooting.md."""
    rows = re.findall(r"^\| `(.*?)` \|", PAGES["docs/troubleshooting.md"], re.MULTILINE)
    return [row.removesuffix(" ...") for row in rows]


@cache
def texts_of_the_code():
    """Return every text in the package; what is put into it is a blank."""
    found = []
    for path in (ROOT / "clip_adapt").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = [v.value if isinstance(v, ast.Constant) else " " for v in node.values]
                found.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return "\n".join(found)


@pytest.mark.parametrize("message", messages())
def test_every_message_in_the_table_is_one_of_the_code(message):
    assert message in texts_of_the_code()


def test_the_citation_names_the_version():
    assert yamls.read_yaml(ROOT / "CITATION.cff")["version"] == clip_adapt.__version__


def test_what_builds_the_pages_is_declared():
    names = {re.match(r"[\w-]+", line)[0] for line in PROJECT["optional-dependencies"]["docs"]}
    assert {"mkdocs", "mkdocs-material", "mkdocstrings"} <= names
