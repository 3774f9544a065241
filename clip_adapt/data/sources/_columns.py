"""Which column of a table holds what, by the names that people give to such columns.

Case, spaces, hyphens and underscores do not matter: "Patient ID", PatientID and patient_id are one.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from clip_adapt.config.values import AUTO
from clip_adapt.data.sources._table import Row, TableFile
from clip_adapt.errors import InputError, nearest

# The first that a table has is taken.
USUAL = {
    "image": (
        "image", "path", "file", "filename", "filepath", "imagepath", "img", "imagename",
        "imagefile", "imagefilename", "imageindex", "imageid", "isicid", "idcode", "imgpath",
        "imgname", "imgid", "images", "paths", "filenames",
    ),
    "label": (
        "label", "class", "target", "category", "diagnosis", "labels", "classname", "classlabel",
        "dx", "diagnostic", "findinglabels", "finding", "disease", "grade",
    ),
    "caption": ("caption", "captions", "text", "title", "description", "report", "sentence"),
    "split": ("split", "fold", "set", "subset", "partition", "datasplit"),
}  # fmt: skip
REQUIRED = ("image", "label", "caption")
# What keeps images together, the unit that is taken before others first. A site comes last: it is
# the largest unit, but images of one site are not images of one thing.
PERSONS = ("patient", "subject", "subj", "participant", "person", "individual", "proband",
           "volunteer", "donor", "pid", "ptid", "mrn")  # fmt: skip
SITES = ("site", "hospital", "centre", "center", "clinic", "institution", "institute")
UNITS = (*PERSONS, "animal", "group", "case", "study", "accession", "eye", "specimen", "biopsy",
         "slide", "lesion", "video", *SITES)  # fmt: skip
# These are numbers of something else unless their name says that they name it: scan_id.
UNITS_WITH_ID = ("exam", "examination", "series", "scan", "sample", "volume", "clip")
_ID = (
    "(?:instanceuid|uid|identifier|ids?|no|nr|num|number|code|key|index|idx|name|pseudonym"
    "|anonymi[sz]ed)"
)
_BEFORE_UNIT = "(?:id|anon|anonymi[sz]ed|pseudonymi[sz]ed|unique)?"
# How one who leaves a value out is written; Excel, pandas and R write some of these themselves.
MISSING = frozenset({"", "nan", "none", "null", "na", "n/a", "<na>", "#n/a"})
UNIQUE = "it is another one for every image"
FEW = 4  # groups that may be none: treatments, or sides
ONE_HOT = frozenset({"0", "1", "0.0", "1.0"})
_FOLD = re.compile(r"(?:fold|part|split|set|cv|k)?[ _-]*[0-9]+(?:\.0*)?", re.IGNORECASE)


@dataclass(frozen=True)
class ColumnChoice:
    """A column, or None, and what a user should know of how it was chosen."""

    column: str | None
    notes: tuple[str, ...] = ()


def simplify(name: str) -> str:
    """Return a name without what people write differently: case, spaces, hyphens, underscores."""
    return re.sub(r"[\W_]+", "", name.casefold())


def list_usual(table: TableFile, kind: str) -> list[str]:
    """Return the columns whose names are usual for a kind, the most usual first."""
    simple = {simplify(name): name for name in reversed(table.columns)}
    return [simple[name] for name in USUAL[kind] if name in simple]


def choose_column(table: TableFile, kind: str, given: str | None) -> str:
    """Return the column of a kind that every table needs: the given one, else the most usual.

    Raises:
        InputError: when the given one does not exist, or none is there.
    """
    if given is not None:
        return _require_column(table, kind, given)
    usual = list_usual(table, kind)
    if not usual:
        raise InputError(
            f"{table.path} has no column for the {kind}: it has {', '.join(table.columns)}. "
            f"Name one of these {USUAL[kind][0]!r}, or say which it is: dataset.{kind}=COLUMN"
            f"{_suggest_remedy(table, kind)}"
        )
    return usual[0]


def choose_split(
    table: TableFile, given: str | None, used: Mapping[str, str | None]
) -> ColumnChoice:
    """Return the column of the splits, if there is one.

    Args:
        table: the table.
        given: a column, ``auto`` for one of the usual names, None for none.
        used: the columns of other kinds.

    Raises:
        InputError: when the given one does not exist.
    """
    usual = [name for name in list_usual(table, "split") if name not in used.values()]
    if given is None:
        return ColumnChoice(None, _describe_left_out("split", usual))
    if given != AUTO:
        return ColumnChoice(_require_column(table, "split", given))
    notes: list[str] = []
    for column in usual:
        values = list(dict.fromkeys(row[column].strip() for row in table.rows))
        if not all(not value or _FOLD.fullmatch(value) for value in values):
            return ColumnChoice(column, tuple(notes))
        notes.append(
            f"the column {column!r} holds {_list_some(values)}, which name no split (train, val, "
            "test): it is not used"
        )
    return ColumnChoice(None, tuple(notes))


def choose_group(
    table: TableFile, given: str | None, used: Mapping[str, str | None]
) -> ColumnChoice:
    """Return the column whose equal values keep images in one split, if there is one.

    Args:
        table: the table.
        given: a column, ``auto`` for one of the usual names, None for none.
        used: the columns of other kinds.

    Raises:
        InputError: when the given one does not exist.
    """
    units = list_units([name for name in table.columns if name not in used.values()])
    if given is None:
        return ColumnChoice(None, _describe_left_out("group", list(units)))
    if given != AUTO:
        return ColumnChoice(_require_column(table, "group", given))
    flaws = {column: _find_flaw(table, column, unit, used) for column, unit in units.items()}
    fitting = [column for column, flaw in flaws.items() if flaw is None]
    # It keeps no images of this table together, but those of another one that are compared with it.
    fitting = fitting or [column for column, flaw in flaws.items() if flaw == UNIQUE][:1]
    others = [column for column in units if flaws[column] and column not in fitting]
    notes = [f"the column {c!r} is not used as the group: {flaws[c]}" for c in others]
    values = _list_values(table, fitting[0]) if fitting else []
    if fitting and units[fitting[0]] not in PERSONS and len(values) <= FEW:
        notes.append(
            f"all images of one {fitting[0]!r} stay in one split, and there are {len(values)}: "
            f"{_list_some(values)}; dataset.group=null splits image by image"
        )
    if len(fitting) > 1:
        notes.append(
            f"images of one {fitting[0]!r} stay in one split; {_list_some(fitting[1:])} would keep "
            "others together: dataset.group=COLUMN"
        )
    return ColumnChoice(fitting[0] if fitting else None, tuple(notes))


def list_units(columns: list[str]) -> dict[str, str]:
    """Return the columns that name a unit such as a patient, and the unit, the first to be taken.

    ``["lesion_id", "Patient", "age"]`` gives ``{"Patient": "patient", "lesion_id": "lesion"}``.
    """
    found: dict[str, str] = {}
    for unit in (*UNITS, *UNITS_WITH_ID):
        ending = "+" if unit in UNITS_WITH_ID else "*"
        pattern = re.compile(f"{_BEFORE_UNIT}{unit}{_ID}{ending}")
        fitting = [column for column in columns if pattern.fullmatch(simplify(column))]
        found |= {column: unit for column in fitting if column not in found}
    return found


def is_missing(value: str) -> bool:
    """Tell whether a value says that there is none: empty, ``nan``, ``NA`` and the like."""
    return value.strip().casefold() in MISSING


def _require_column(table: TableFile, kind: str, given: str) -> str:
    if given not in table.columns:
        raise InputError(
            f"{table.path} has no column {given!r} (dataset.{kind}={given})"
            f"{nearest(given, table.columns)} It has: {', '.join(table.columns)}"
        )
    return given


def _suggest_remedy(table: TableFile, kind: str) -> str:
    if any(re.search(r"\.(jpe?g|png|tiff?|bmp|webp|dcm)$", c.lower()) for c in table.columns):
        return ". Its first line seems to be an image: write the names of the columns above it"
    if len(table.columns) == 1:
        return ". If it holds more, say what stands between the values: dataset.delimiter=' '"
    if kind == "label" and list_usual(table, "caption"):
        return "; or train on its captions: objective=contrastive"
    if kind == "caption" and list_usual(table, "label"):
        return "; or train on its labels: objective=classify"
    marks = [c for c in table.columns if {r[c].strip() for r in table.rows} <= ONE_HOT]
    if kind == "label" and len(marks) > 1:
        return (
            f". The columns {_list_some(marks)} hold 0 and 1: write one column with the name of "
            "the class"
        )
    return ""


def _describe_left_out(kind: str, columns: list[str]) -> tuple[str, ...]:
    if not columns:
        return ()
    return (f"the column {columns[0]!r} is left out (dataset.{kind}=null)",)


def _find_flaw(
    table: TableFile, column: str, unit: str, used: Mapping[str, str | None]
) -> str | None:
    # Why a column keeps no images together, although its name says that it does.
    rows = [row for row in table.rows if not is_missing(row[column])]
    images = _collect(rows, column, used["image"])
    if not images:
        return "it is empty"
    if all(len(own) == 1 for own in images.values()) and len(table.rows) > 1:
        return UNIQUE
    if len(images) == 1 and len(rows) == len(table.rows):
        return "it is the same for all images"
    if unit == "eye" and len(images) <= 3:
        return f"it holds {_list_some(list(images))}, which name a side and no eye"
    if unit not in PERSONS and _is_one_to_one(rows, column, used.get("label")):
        return f"it says the same as {used['label']!r}"
    if unit in SITES and any(len(s) > 1 for s in _collect(rows, column, used["split"]).values()):
        return f"its images stand in several splits ({used['split']!r})"
    return None


def _collect(rows: list[Row], column: str, other: str | None) -> dict[str, set[str]]:
    # The values of another column that stand beside each value of a column.
    found = defaultdict[str, set[str]](set)
    for row in rows:
        found[row[column].strip()].add(row[other].strip() if other else "")
    return found


def _list_values(table: TableFile, column: str) -> list[str]:
    values = (row[column].strip() for row in table.rows)
    return list(dict.fromkeys(value for value in values if not is_missing(value)))


def _is_one_to_one(rows: list[Row], column: str, other: str | None) -> bool:
    if other is None:
        return False
    there, back = _collect(rows, column, other), _collect(rows, other, column)
    return all(len(values) == 1 for values in (*there.values(), *back.values()))


def _list_some(values: list[str], most: int = 6) -> str:
    names = [repr(value) for value in values]
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
