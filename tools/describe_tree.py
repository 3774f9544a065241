"""Write what docs/ says about the tree: its tables, its picture of the rooms, its examples.

python tools/describe_tree.py            writes them
python tools/describe_tree.py --check    fails when they are not what the tree gives
"""

from __future__ import annotations

import argparse
import ast
import io
import re
import runpy
import sys
import tokenize
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "clip_adapt"
DOCS = ROOT / "docs"
# A block of a page is written here, between these two lines; everything else on it by hand.
BLOCK = re.compile(r"(?<=<!-- begin )([\w./]+)( -->\n).*?(?=<!-- end \1 -->)", re.DOTALL)
NOT_CODE = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}


@dataclass(frozen=True)
class Room:
    """A folder or a file of the package, or the single files that stand in one row of the order.

    Attributes:
        name: as it is imported, or several names.
        files: its modules.
        purpose: the first line of its docstring.
        rank: its place in the order of imports, 0 is imported by all.
        depth: 1 for a room inside a room.
    """

    name: str
    files: tuple[Path, ...]
    purpose: str
    rank: int
    depth: int = 0

    @property
    def size(self) -> str:
        """How many modules and lines it has; in hundreds, as finer numbers change daily."""
        lines = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in self.files)
        hundreds = f"about {round(lines, -2):,}" if lines >= 100 else "under 100"
        return f"{len(self.files)} module{'s' * (len(self.files) > 1)}, {hundreds} lines"

    @property
    def listing(self) -> str:
        """The names of its modules, without those of rooms inside it."""
        top = min((path.parent for path in self.files), key=lambda folder: len(folder.parts))
        own = [path.stem for path in self.files if path.parent == top]
        return ", ".join(f"`{name}`" for name in own if name not in ("__init__", self.name))


@dataclass(frozen=True)
class Kind:
    """Something that is added as one file and found by its name.

    Attributes:
        name: what it is.
        folder: where ours lie.
        door: the group of entry points of a package of one's own.
        example: a file of docs/examples.
    """

    name: str
    folder: str
    door: str
    example: str


KINDS = (
    Kind("method", "methods", "clip_adapt.methods", "kgcoop.py"),
    Kind("source", "clip_adapt/data/sources", "clip_adapt.sources", "path_label.py"),
    Kind("metric", "clip_adapt/evaluation/metrics", "clip_adapt.metrics", "matthews.py"),
    Kind("objective", "clip_adapt/objectives", "clip_adapt.objectives", "neighbours.py"),
)


def main() -> int:
    """Write the files, or compare them."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing, fail on a difference")
    check = parser.parse_args().check
    stale = {path: text for path, text in describe().items() if not holds(path, text)}
    for path, text in stale.items():
        if not check:
            path.write_text(text, encoding="utf-8")
        print(f"{path.relative_to(ROOT)} {'is stale' if check else 'is written'}")
    if check and stale:
        print("run: python tools/describe_tree.py", file=sys.stderr)
    return int(check and bool(stale))


def holds(path: Path, text: str) -> bool:
    """Return whether a file has this text already."""
    return path.is_file() and path.read_text(encoding="utf-8") == text


def describe() -> dict[Path, str]:
    """Return the text of every file that says something about the tree."""
    rooms = find_rooms()
    blocks = {"rooms": tabulate_rooms(rooms), "kinds": tabulate_kinds()}
    pages = (DOCS / "architecture.md", DOCS / "extending.md")
    filled = {page: fill_blocks(page.read_text(encoding="utf-8"), blocks) for page in pages}
    steps = find_steps(filled[pages[0]])
    picture = draw_rooms([room for room in rooms if not room.depth], steps)
    return {**filled, DOCS / "rooms.svg": picture}


def find_steps(page: str) -> dict[str, list[str]]:
    """Return the steps of a run by the room in which their work is done, numbered.

    They are the rows of the page's table whose last cell names a function of a room.
    """
    found = re.findall(r"^\| (\w+) \|.*\| `(\w+)\.[\w.]+` \|$", page, re.MULTILINE)
    steps: dict[str, list[str]] = {}
    for number, (step, room) in enumerate(found, start=1):
        steps.setdefault(room, []).append(f"{number} {step}")
    return steps


def fill_blocks(page: str, blocks: dict[str, str]) -> str:
    """Return a page with its blocks written anew: a table by its name, a file by its path."""

    def write(match: re.Match[str]) -> str:
        name = match[1]
        text = blocks[name] if name in blocks else quote_file(ROOT / name)
        return f"{name}{match[2]}\n{text}\n"

    return BLOCK.sub(write, page)


def quote_file(path: Path) -> str:
    """Return a file of Python as a block of a page."""
    return f"```python\n{path.read_text(encoding='utf-8').rstrip()}\n```\n"


def find_rooms() -> list[Room]:
    """Return the rooms in the order of imports, each before the rooms inside it."""
    order = runpy.run_path(str(ROOT / "tests" / "test_rooms.py"))["ORDER"]
    return [room for rank, names in enumerate(order) for room in rooms_of_rank(rank, names)]


def rooms_of_rank(rank: int, names: Iterable[str]) -> Iterator[Room]:
    """Yield the rooms of one row of the order; its single files are one room."""
    files = [PACKAGE / f"{name}.py" for name in names if (PACKAGE / f"{name}.py").is_file()]
    for folder in (PACKAGE / name for name in names if (PACKAGE / name).is_dir()):
        yield from rooms_of_folder(rank, folder)
    if len(files) == 1:
        yield Room(files[0].stem, (files[0],), read_purpose(files[0]), rank)
    elif files:
        purpose = "The verbs of the command line, a few lines each"
        yield Room(", ".join(path.stem for path in files), tuple(files), purpose, rank)


def rooms_of_folder(rank: int, folder: Path) -> Iterator[Room]:
    """Yield a folder with everything below it, then the folders inside it."""
    for init in sorted(folder.rglob("__init__.py"), key=lambda path: path.parent):
        parts = init.parent.relative_to(PACKAGE).parts
        found = sorted(path for path in init.parent.rglob("*.py") if path.name != "__init__.py")
        yield Room("/".join(parts), (*found, init), read_purpose(init), rank, len(parts) - 1)


def read_purpose(path: Path) -> str:
    """Return the first line of a module's docstring without its full stop."""
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert docstring, f"{path} says in its docstring what it is for"
    return docstring.splitlines()[0].rstrip(". ").replace("``", "`")


def tabulate_rooms(rooms: Iterable[Room]) -> str:
    """Return the table of the rooms."""
    rows = ["| room | what lives there | its modules | size |", "|---|---|---|---|"]
    for room in rooms:
        name = ", ".join(f"`{part}`" for part in room.name.split(", "))
        modules = "" if ", " in room.name else room.listing
        rows.append(f"| {name} | {room.purpose} | {modules} | {room.size} |")
    return "\n".join(rows) + "\n"


def tabulate_kinds() -> str:
    """Return the table of what is added as one file."""
    rows = [
        "| what | ours lie in | how many | median lines of code | entry points | example |",
        "|---|---|--:|--:|---|---|",
    ]
    for kind in KINDS:
        folder = ROOT / kind.folder
        sizes = [count_code(path) for path in folder.glob("*.py") if path.stem[0] != "_"]
        example = DOCS / "examples" / kind.example
        if sizes and example.is_file():
            shown = (
                f"[{kind.example}](examples/{kind.example}), {count_code(example)} lines of code"
            )
            rows.append(
                f"| {kind.name} | `{kind.folder}/` | {len(sizes)} | {median(sizes):.0f} "
                f"| `{kind.door}` | {shown} |"
            )
    return "\n".join(rows) + "\n"


def count_code(path: Path) -> int:
    """Return the lines of a module that are not blank, comments or docstrings."""
    text = path.read_text(encoding="utf-8")
    code = {
        line
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type not in NOT_CODE and token.string
        for line in range(token.start[0], token.end[0] + 1)
    }
    return len(code - {line for lines in docstrings_of(ast.parse(text)) for line in lines})


def docstrings_of(tree: ast.Module) -> Iterator[range]:
    """Yield the lines of every docstring."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(
            node
        ):
            first = node.body[0]
            assert first.end_lineno is not None, "a parsed node knows its lines"
            yield range(first.lineno, first.end_lineno + 1)


ROW, GAP, WIDTH, LEFT = 34, 6, 1240, 90  # of the picture, in pixels
SHADES = ("#eef2f7", "#dfe8f2")  # in turn, so that rooms of one row of the order look alike
INK, GREY, ACCENT = "#1b2733", "#51606f", "#a2410b"


def draw_rooms(rooms: list[Room], steps: dict[str, list[str]]) -> str:
    """Return an SVG: a bar for each room, what imports above what is imported."""
    height = len(rooms) * (ROW + GAP) + GAP
    bars = [draw_room(room, steps.get(room.name, []), at) for at, room in enumerate(rooms[::-1])]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
            'font-family="sans-serif" font-size="13" role="img">',
            "<title>The rooms: each imports rooms below it alone</title>",
            f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
            f'<path d="M55 {GAP} V{height - 14} m-6 -9 l6 11 l6 -11" fill="none" '
            f'stroke="{GREY}" stroke-width="1.5"/>',
            f'<text x="-{height / 2:.0f}" y="40" transform="rotate(-90)" text-anchor="middle" '
            f'fill="{GREY}">imports run this way alone</text>',
            *bars,
            "</svg>\n",
        ]
    )


def draw_room(room: Room, steps: list[str], at: int) -> str:
    """Return the bar of a room with the steps of a run in it, ``at`` counted from the top."""
    top = GAP + at * (ROW + GAP)
    purpose = "" if ", " in room.name else escape(room.purpose.replace("`", ""))
    cells = [
        (LEFT + 12, room.name, f'font-weight="bold" fill="{INK}"'),
        (LEFT + 105, purpose, f'fill="{INK}"'),
        (WIDTH - 250, ", ".join(steps), f'text-anchor="end" font-weight="bold" fill="{ACCENT}"'),
        (WIDTH - GAP - 12, room.size, f'text-anchor="end" fill="{GREY}"'),
    ]
    texts = [
        f'<text x="{x}" y="{top + ROW // 2 + 5}" {style}>{text}</text>'
        for x, text, style in cells
        if text
    ]
    bar = (
        f'<rect x="{LEFT}" y="{top}" width="{WIDTH - LEFT - GAP}" height="{ROW}" rx="4" '
        f'fill="{SHADES[room.rank % 2]}"/>'
    )
    return "".join([bar, *texts])


if __name__ == "__main__":
    sys.exit(main())
