"""Tables as people have them: names of columns, ways of writing, paths; what is used is said."""

import itertools

import numpy as np
import pytest
from PIL import Image

from clip_adapt.data import splitting
from clip_adapt.data.dataset import Dataset
from clip_adapt.data.items import Context, Item
from clip_adapt.data.sources._columns import list_units
from clip_adapt.data.splitting import find_split_name, split_by_content
from clip_adapt.errors import InputError
from clip_adapt.system.text.names import sort_names

PARTS = ("train", "val", "test")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder of 24 different pictures: a/0.png to a/11.png, b/0.png to b/11.png."""
    root = tmp_path_factory.mktemp("pictures")
    for number, name in enumerate("ab"):
        (root / name).mkdir()
        for i in range(12):
            noise = np.random.default_rng(100 * number + i).integers(0, 255, (12, 12, 3))
            Image.fromarray(noise.astype(np.uint8)).save(root / name / f"{i}.png")
    return root


@pytest.fixture
def place(pictures, tmp_path):
    """A function that loads a table of the pictures, of text, bytes, or columns by name."""
    table = tmp_path / "t.csv"

    def load(content=None, name="t.csv", options=None, **columns):
        path = tmp_path / name
        if content is None:
            rows = [("path", "label", *columns)]
            for number, (label, i) in enumerate(itertools.product("ab", range(12))):
                more = [str(values(label, i) if callable(values) else values[number])
                        for values in columns.values()]  # fmt: skip
                rows.append((f"{label}/{i}.png", label, *more))
            content = "".join(",".join(row) + "\n" for row in rows)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return Dataset.load(path, {"source": "csv", "root": str(pictures), **(options or {})})

    load.path = table
    return load


def refused(load, *args, **more):
    with pytest.raises(InputError) as caught:
        load(*args, **more)
    return str(caught.value)


def groups_of(data):
    return {split: {item.group for item in items} for split, items in data.parts().items()}


# Which column is what


@pytest.mark.parametrize(
    "name",
    ["Patient ID", "PatientID", "patient_id", "PATIENT", "Patient No", "patient-nr.", "ID Patient",
     "subject", "Subject_ID", "participant_id", "case", "caseNo", "site", "Hospital", "slide-id",
     "lesion_id", "lesionId", "StudyInstanceUID", "specimen", "animal_id", "centre", "pid",
     "anonymized patient id", "scan_id"],
)  # fmt: skip
def test_the_usual_names_of_groups(place, name):
    data = place(**{name: lambda label, i: f"{label}{i // 3}"})
    assert data.inventory.columns == {
        "image": "path", "label": "label", "split": None, "group": name,
    }  # fmt: skip
    assert data.inventory.notes == ()
    groups = groups_of(data)
    assert sum(map(len, groups.values())) == 8 and groups["train"] and groups["test"]


@pytest.mark.parametrize("name", ["Patient Age", "scan", "patients per site", "casino", "remark"])
def test_other_names_are_no_groups(place, name):
    data = place(**{name: lambda label, i: f"{label}{i // 3}"})
    assert data.inventory.columns["group"] is None and groups_of(data)["train"] == {None}


def test_the_unit_that_is_taken_first():
    columns = ["site", "image_id", "lesion_id", "Patient No", "study", "age", "group"]
    assert list(list_units(columns).items()) == [
        ("Patient No", "patient"), ("group", "group"), ("study", "study"), ("lesion_id", "lesion"),
        ("site", "site"),
    ]  # fmt: skip


def test_a_patient_comes_before_a_lesion_and_a_site(place):
    data = place(
        site=lambda label, i: i % 2,
        lesion_id=lambda label, i: f"{label}{i // 2}",
        Patient=lambda label, i: f"p{i // 4}",
    )
    assert data.inventory.columns["group"] == "Patient"
    assert data.inventory.notes == (
        "images of one 'Patient' stay in one split; 'lesion_id', 'site' would keep others "
        "together: dataset.group=COLUMN",
    )
    chosen = place(
        options={"group": "site"},
        site=lambda label, i: i % 2,
        Patient=lambda label, i: f"p{i // 4}",
    )
    assert set.union(*groups_of(chosen).values()) == {"0", "1"}


@pytest.mark.parametrize(
    ("name", "values", "why"),
    [
        ("site", lambda label, i: "Basel", "it is the same for all images"),
        ("lesion", lambda label, i: "", "it is empty"),
        ("eye", lambda label, i: "OD" if i % 2 else "OS", "it holds 'OS', 'OD', which name a side"),
        ("group", lambda label, i: f"the {label}s", "it says the same as 'label'"),
    ],
)
def test_a_column_that_keeps_nothing_together(place, name, values, why):
    data = place(**{name: values})
    assert data.inventory.columns["group"] is None
    assert data.inventory.notes[0].startswith(
        f"the column {name!r} is not used as the group: {why}"
    )
    assert data.parts() == place().parts()


def test_a_patient_of_every_image_is_known_to_other_tables(place):
    data = place(patient=lambda label, i: f"{label}{i}")
    assert data.inventory.columns["group"] == "patient" and data.inventory.notes == ()
    assert all(item.group for items in data.parts().values() for item in items)
    both = place(patient=lambda label, i: f"{label}{i}", lesion=lambda label, i: f"{label}{i // 3}")
    assert both.inventory.columns["group"] == "lesion"
    assert both.inventory.notes[0] == (
        "the column 'patient' is not used as the group: it is another one for every image"
    )


def test_groups_that_are_too_few_to_be_patients_are_listed(place):
    data = place(group=lambda label, i: "MF"[i % 2])
    assert data.inventory.columns["group"] == "group" and data.inventory.notes == (
        "all images of one 'group' stay in one split, and there are 2: 'M', 'F'; "
        "dataset.group=null splits image by image",
    )


def test_images_without_a_patient_stand_for_themselves(place):
    data = place(patient=lambda label, i: "nan" if i < 2 else f"{label}{i // 3}")
    assert data.inventory.notes == ("4 rows have no 'patient': each image stands for itself",)
    assert {i.path[-7:] for i in data.train + data.val + data.test if i.group is None} == {
        "a/0.png", "a/1.png", "b/0.png", "b/1.png",
    }  # fmt: skip


def test_a_site_in_several_splits_is_no_group_and_a_patient_is_a_leak(place):
    def split(label, i):
        return "test" if i > 8 else "train"

    data = place(split=split, site=lambda label, i: i % 2)
    assert data.inventory.columns == {
        "image": "path", "label": "label", "split": "split", "group": None,
    }  # fmt: skip
    assert "its images stand in several splits ('split')" in data.inventory.notes[0]
    message = refused(place, split=split, patient=lambda label, i: i % 2)
    assert "2 groups stand in two splits" in message and "dataset.group=null" in message


def test_null_is_none_and_auto_is_the_default(place):
    columns = {
        "split": lambda label, i: "test" if i > 8 else "train",
        "patient": lambda label, i: f"{label}{i // 3}",
    }
    data = place(options={"split": None, "group": None}, **columns)
    assert data.inventory.columns == {
        "image": "path", "label": "label", "split": None, "group": None,
    }  # fmt: skip
    assert data.inventory.notes == (
        "the column 'split' is left out (dataset.split=null)",
        "the column 'patient' is left out (dataset.group=null)",
    )
    assert data.parts() == place().parts()
    for auto in (place(**columns), place(options={"split": "auto", "group": "auto"}, **columns)):
        assert (len(auto.train), len(auto.test), len(groups_of(auto)["train"])) == (18, 6, 6)
    assert "no column 'sp'" in refused(place, options={"split": "sp"}, **columns)


def test_known_headers(place):
    # NIH ChestX-ray14: a name with commas, and a comma at the end of each line.
    head = "Image Index,Finding Labels,Follow-up #,Patient ID,OriginalImage[Width,Height],\n"
    rows = [
        f"{c}/{i}.png,{'Mass' if c == 'a' else 'Edema|Mass'},0,{c}{i // 2},2682,2749,\n"
        for c in "ab"
        for i in range(12)
    ]
    data = place(head + "".join(rows))
    assert data.inventory.columns == {
        "image": "Image Index", "label": "Finding Labels", "split": None, "group": "Patient ID",
    }  # fmt: skip
    assert data.inventory.notes == (
        "1 classes combine labels, as 'Edema|Mass': each is one of its own",
    )
    # HAM10000
    ham = "lesion_id,image_id,dx,age\n" + "".join(
        f"HAM_{c}{i // 2},{c}/{i},{c},50\n" for c in "ab" for i in range(12)
    )
    columns = place(ham).inventory.columns
    assert columns == {"image": "image_id", "label": "dx", "split": None, "group": "lesion_id"}


# Splits


def test_folds_are_no_splits(place):
    for fold in (lambda label, i: i % 5, lambda label, i: f"fold_{i % 5}"):
        data = place(fold=fold)
        assert data.inventory.columns["split"] is None and data.parts() == place().parts()
        (note,) = data.inventory.notes
        assert note.startswith("the column 'fold' holds ") and "it is not used" in note
    both = place(fold=lambda label, i: i % 5, set=lambda label, i: "Test" if i > 8 else "Training")
    assert both.inventory.columns["split"] == "set" and len(both.test) == 6


def test_words_that_are_no_splits(place):
    message = refused(place, subset=lambda label, i: "A" if i else "B")
    assert message == (
        f"{place.path}, line 2: unknown split 'B'. There is: train, training, val, valid, "
        "validation, test, testing. If 'subset' holds no splits, leave it out: dataset.split=null"
    )
    assert place(options={"split": None}, subset=lambda label, i: "AB"[i % 2]).test
    message = refused(place, options={"split": "fold"}, fold=lambda label, i: i % 5)
    assert "line 2: unknown split '0'" in message and "dataset.split=null" in message


def test_the_names_of_splits():
    for name in ("train", "TRAIN", "Training", "training set", "Train-Set"):
        assert find_split_name(name) == "train"
    names = ["Valid", "VALIDATION", "testing", "Testset", "fold", "set", "", "trian"]
    assert [find_split_name(n) for n in names] == ["val", "val", "test", "test"] + [None] * 4


# Classes that a split by groups must not lose


def spread(pictures, rows):
    """Split items (label, picture, group); return the split of each group by class."""
    items = [Item(str(pictures / picture), label, group) for label, picture, group in rows]
    made = split_by_content(list("abr"), items, Context(pictures.parent / "cache"), "here")
    where = {i.group: split for split, part in made.parts().items() for i in part}
    return made, where


def rare_rows(*patients):
    common = [(0, f"a/{i}.png", f"p{i % 6}") for i in range(12)]
    return [*common, *((1, f"b/{i}.png", f"q{i % 6}") for i in range(9)),
            *((2, f"b/{9 + n}.png", patient) for n, patient in enumerate(patients))]  # fmt: skip


def test_a_rare_class_is_trained_on_before_it_is_tested_on(pictures):
    for patient in [f"{kind}{n}" for kind in "pq" for n in range(6)]:
        made, where = spread(pictures, rare_rows(patient))
        assert where[patient] == "train"
        assert {i.label for i in made.train} == {0, 1, 2} and {i.label for i in made.test} == {0, 1}
        assert made.inventory.notes == ("no test image of r: there are too few groups of these "
                                        "classes",)  # fmt: skip
    _, plain = spread(pictures, rare_rows("own"))
    tested = [name for name, split in plain.items() if split == "test"]
    assert len(tested) == 4  # two of six patients of a class
    for pair in itertools.combinations(tested, 2):
        made, where = spread(pictures, rare_rows(*pair))
        assert sorted(where[name] for name in pair) == ["test", "train"]
        assert made.inventory.notes == ()
        changed = {name for name in where if where[name] != plain[name]}
        assert len(changed) == 1 and changed < set(pair)  # all others stay where they were
        assert spread(pictures, rare_rows(*pair)[::-1])[1] == where


def test_the_patient_that_the_tests_miss_least_is_trained_on():
    # Without the rare class a1 is all that is tested of one class, b1 half of another's.
    common = [["a1", "a2", "a3"], ["b1", "b2", "b3", "b4", "b5", "b6"]]
    assert [k for k, v in splitting._assign_units(common).items() if v == "test"] == [
        "a1", "b1", "b2",
    ]  # fmt: skip
    for rare in (["a1", "b1"], ["b1", "a1"]):
        taken = splitting._assign_units([*common, rare])
        assert (taken["a1"], taken["b1"], taken["b2"]) == ("test", "train", "test")
    assert splitting._assign_units([*common, ["a1", "b3"]])["a1"] == "test"  # b3 is trained on
    assert splitting._assign_units([*common, ["b1", "b2"]])["b2"] == "train"  # the last


def test_a_class_that_is_trained_on_changes_nothing(pictures):
    rows = rare_rows("own", "mine")
    made, where = spread(pictures, rows)
    assert {where["own"], where["mine"]} == {"train", "test"} and made.inventory.notes == ()


def test_a_class_whose_images_are_all_tested_on_by_its_splits(make_folder, tmp_path):
    root = make_folder(tmp_path / "d", classes=("cat", "dog"), per_class=2)
    for split in ("train", "val"):
        for path in (root / split / "dog").iterdir():
            path.unlink()
    card = root / "split_zhou_D.json"
    card.write_text(
        '{"train": [["train/cat/0.png", 0, "cat"]], "val": [],'
        ' "test": [["test/cat/0.png", 0, "cat"], ["test/dog/0.png", 1, "dog"]]}'
    )
    assert refused(Dataset.load, card) == (
        "the splits of D leave classes without training images:\n  dog: 0 in val, 1 in test\n"
        "Add training images, or leave these classes out."
    )


def test_a_folder_says_which_class_has_no_test_image(make_folder, tmp_path):
    root = make_folder(tmp_path / "d", splits=(), classes=("cat", "dog"), per_class=4)
    for i in range(1, 4):
        (root / "dog" / f"{i}.png").unlink()
    data = Dataset.load(root)
    assert [i.label for i in data.test] == [0] and 1 in {i.label for i in data.train}
    assert data.inventory.notes[-1] == (
        "no test image of dog: there are too few different images of these classes"
    )


# Labels


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["10", "9", "2"], ["2", "9", "10"]),
        (["1.0", "10.0", "-1", "+2"], ["-1", "1.0", "+2", "10.0"]),
        (["2", "10", "²"], ["10", "2", "²"]),
        (["③", "①", "②"], ["①", "②", "③"]),
        (["١٠", "٩"], ["١٠", "٩"]),
        (["1", "01", "1.0"], ["01", "1", "1.0"]),
        (["grade 10", "grade 9"], ["grade 10", "grade 9"]),
        (["1e5", "2"], ["1e5", "2"]),
        (["9" * 400, "2"], ["2", "9" * 400]),
        ([], []),
    ],
)
def test_names_that_are_numbers_are_sorted_by_their_value(names, expected):
    assert sort_names(names) == expected


def test_digits_that_are_no_numbers_are_classes(place):
    rows = "".join(f"{c}/{i}.png,{'①②'['ab'.index(c)]}\n" for c in "ab" for i in range(12))
    assert place("path,label\n" + rows).classes == ["①", "②"]


def test_rows_that_repeat_count_once(place):
    text = "path,label\n" + "".join(f"{c}/{i}.png,{c}\n" for c in "ab" for i in range(12))
    data = place(text + "a/3.png,a\n./a/4.png, a\n")
    assert data.inventory.notes == ("2 rows repeat another (line 26): each image counts once",)
    assert data.parts() == place(text).parts()
    assert refused(place, text + "a/3.png,b\n").endswith(
        "gives 1 images two labels, and an image has one class:\n  a/3.png: 'a' (line 5) and 'b' "
        "(line 26)\nTake the wrong rows out."
    )


# Ways of writing a table

ROWS = [("path", "label"), *((f"{c}/{i}.png", c) for c in "ab" for i in range(12))]


def write(delimiter=",", end="\n", tail=""):
    return end.join(delimiter.join(row) + tail for row in ROWS) + end


@pytest.mark.parametrize(
    "content",
    [
        write(";").encode("utf-8-sig"),
        write("\t").encode("utf-16"),
        write("\t").encode("utf-16-be").join([b"\xfe\xff", b""]),
        write().encode("utf-32"),
        "sep=;\r\n" + write(";", "\r\n"),
        '"sep=;"\n' + write(";"),
        "SEP=\t\n" + write("\t"),
        "\ufeffsep=|\n" + write("|"),
        write(end="\r"),
        "\n \n" + write() + "\n\n,\n",
        write(tail=",,"),
        write().replace("path,label", "path,label,,"),
        write(tail=",").replace("path,label,", ",path,label").replace("\na", "\n0,a").replace(
            "\nb", "\n1,b").replace(",\n", "\n"),
        write().replace("path,label", '"a; b; c; d; e; f",path,label').replace("\na", '\n"x\n,y",a'
            ).replace("\nb/", "\nz,b/"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_table_reads_the_same_however_it_is_written(place, content, encoding):
    data = place(content, options={"encoding": encoding})
    assert data.parts() == place(write()).parts() and data.classes == ["a", "b"]


def test_lines_are_counted_from_the_top_of_the_file(place):
    for above, first in (("", 2), ("sep=,\n", 3), ("\n\n", 4)):
        message = refused(place, above + "path,label\na/0.png,\nb/0.png,b\n")
        assert f"label is empty in 1 rows (lines {first})" in message
        message = refused(place, above + 'path,label\na/0.png,a\nb/0.png,"b\n')
        assert f"line {first + 1}: unexpected end of data" in message


def test_cp1252_is_said_or_asked_for(place):
    text = write().replace(",a\n", ",säge\n")
    message = refused(place, text.encode("cp1252"))
    assert "line 2: byte 0xe4 is not utf-8" in message and "dataset.encoding=cp1252" in message
    assert place(text.encode("cp1252"), options={"encoding": "cp1252"}).classes == ["b", "säge"]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("t.xlsx", b"PK\x03\x04", " is a spreadsheet, and a table is read from text. Write it as "
         "CSV: python -c \"import pandas; pandas.read_excel('t.xlsx').to_csv('t.csv', index=False)"
         "\", or save it as 'CSV UTF-8'"),
        ("t.xls", b"", "the table {t} is empty"),
        ("t.parquet", b"PAR1", " is a Parquet file, and a table is read from text. Write it as "
         "CSV: python -c \"import pandas; pandas.read_parquet('t.parquet').to_csv('t.csv', "
         "index=False)\""),
        ("t.csv", b"PK\x03\x04\x14\0", " is a spreadsheet, and "),
        ("t.tsv", b"\x1f\x8b\x08", " is compressed: unpack it with gunzip"),
        ("t.csv", b"a/0.png,a\na/1.png,b\n", "has no column for the image: it has a/0.png, a. Name "
         "one of these 'image', or say which it is: dataset.image=COLUMN. Its first line seems to "
         "be an image: write the names of the columns above it"),
        ("t.csv", b"image label\na/0.png a\n", " If it holds more, say what stands between the "
         "values: dataset.delimiter=' '"),
        ("t.csv", b"image,MEL,NV\na/0.png,1.0,0.0\nb/0.png,0,1\n", "dataset.label=COLUMN. The "
         "columns 'MEL', 'NV' hold 0 and 1: write one column with the name of the class"),
        ("t.csv", b"\xff\xfe\x0a\0", "the table {t} is empty"),
    ],
)  # fmt: skip
def test_what_is_no_table_says_what_it_is(tmp_path, name, content, expected):
    (tmp_path / name).write_bytes(content)
    assert expected.format(t=tmp_path / name) in refused(Dataset.load, tmp_path / name)


# Paths


@pytest.fixture
def own(pictures, tmp_path):
    """A folder with three pictures of two classes each, and a function that loads a table of it."""
    for name in "ab":
        (tmp_path / name).mkdir()
        for i in range(3):
            data = (pictures / name / f"{i}.png").read_bytes()
            (tmp_path / name / f"{i}.png").write_bytes(data)

    def load(change=None, **options):
        rows = [(f"{c}/{i}.png", c) for c in "ab" for i in range(3)]
        text = "".join(f"{change(path) if change else path},{label}\n" for path, label in rows)
        (tmp_path / "t.csv").write_text("image,label\n" + text)
        return Dataset.load(tmp_path / "t.csv", options)

    load.root = tmp_path
    return load


def test_ways_of_writing_a_path(own):
    expected = own().parts()
    assert own(lambda path: path.replace("/", "\\")).parts() == expected
    assert own(lambda path: f".\\{path}").parts() == expected
    assert own(lambda path: str(own.root / path)).parts() == expected
    assert own(lambda path: path[:-4]).parts() == expected  # ISIC_0000000, and 0 of APTOS
    assert own(lambda path: path[:-4], root=str(own.root)).parts() == expected


def test_an_accent_may_be_one_character_or_two(own):
    (own.root / "a" / "0.png").rename(own.root / "a" / "e\u0301.png")
    data = own(lambda path: path.replace("a/0", "a/\u00e9"))
    assert str(own.root / "a" / "e\u0301.png") in [i.path for p in data.parts().values() for i in p]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("https://x.org/0.png", "{t}, line 2: 'https://x.org/0.png' is an address, and images are "
         "read from files. Download them, and write their paths."),
        ("gs://b/0.png", "line 2: 'gs://b/0.png' is an address"),
        ("file:///0.png", "line 2: 'file:///0.png' is an address"),
        ("data:image/png;base64 iVBO", "is an address, and images are read from files"),
        ("C:\\pictures\\0.png", "line 2: 'C:\\\\pictures\\\\0.png' is a path of Windows, and this "
         "machine has no such drive. Write paths relative to the table, or to dataset.root=FOLDER"),
        ("\\\\server\\0.png", "is a path of Windows"),
        ("..\\0.png", "line 2: '..\\\\0.png' leaves the folder {d}"),
        ("a/0.PNG", "1 images of {t} do not exist:\n  line 2: {d}/a/0.PNG (there is 0.png)"),
        ("a/0.jpg", "  line 2: {d}/a/0.jpg (there is 0.png)"),
        ("0.bmp", "  line 2: {d}/0.bmp"),
        ("a/7", "  line 2: {d}/a/7"),
        ("1", "line 2: '1' can be 1.jpg or 1.png. Write the name with its suffix."),
        ("C:\\me\\a\\1.png", "\na/1.png lies in {d}: take what stands before it off the paths"),
        ("/content/drive/b/2.png", "leaves the folder {d}. If the images lie elsewhere, say where: "
         "dataset.root=FOLDER\nb/2.png lies in {d}: take what stands before it off the paths"),
        ("data/b/2.png", "  line 2: {d}/data/b/2.png\nb/2.png lies in {d}: take what stands"),
        ("2.png", "  line 2: {d}/2.png\n2.png lies in {d}/a: say so with dataset.root={d}/a"),
    ],
)  # fmt: skip
def test_a_path_that_leads_to_no_image(own, given, expected):
    for name in ("1.jpg", "1.png"):
        (own.root / name).write_bytes(b"")
    message = refused(own, lambda path: given if path == "a/0.png" else path)
    assert expected.format(t=own.root / "t.csv", d=own.root) in message
