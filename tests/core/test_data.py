"""Data with provenance, and stored results."""

import hashlib
import json

import numpy as np
import pandas as pd
import pytest
import torch

from paperkit import data, profiles

HEADER = ",".join(data.COLUMNS)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty data folder, in a clone of its own."""
    monkeypatch.setattr(data, "FOLDER", tmp_path / "data")
    monkeypatch.setattr(data, "_checked", {})
    monkeypatch.setenv("PAPERKIT_ROOT", str(tmp_path))
    for name in ("data/toy", "notebooks/toy", "scripts/toy"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "scripts/toy/make.py").write_text("")
    (tmp_path / "data/SOURCES.csv").write_text(HEADER + "\n")
    return tmp_path / "data"


ROW = {
    "source": "A. Author, A table, 1999",
    "version": "1.0",
    "licence": "CC0-1.0",
    "script": "scripts/toy/make.py",
}


def register(folder, name, content, suffix=".txt", **fields):
    file = folder / f"{name}{suffix}"
    file.write_bytes(content)
    data.register(name, file, **(ROW | fields))
    return file


# ------------------------------------------------------------------------------- the book's own


def test_everything_in_the_book_has_a_source_and_a_licence():
    from paperkit.data import FOLDER

    rows = data.sources()
    assert tuple(rows.columns) == data.COLUMNS
    known = {"SOURCES.csv"} | set(rows["file"]) | set(rows["licence_file"])
    there = {
        file.relative_to(FOLDER).as_posix()
        for file in FOLDER.rglob("*")
        if file.is_file() and file.suffix not in (".py", ".pyc")
    }
    assert there - known == set(), "files without a row in SOURCES.csv"
    for row in rows.itertuples():
        assert data.path(row.name).stat().st_size <= data.LIMIT
        assert row.licence.strip()
        assert row.version.strip()
        assert not row.licence_file or (FOLDER / row.licence_file).is_file()
        assert (profiles.project_root() / row.script).is_file()


def test_every_stored_result_has_its_sum():
    for record in (profiles.project_root() / "notebooks").glob("*/results/*.record.json"):
        chapter, name = record.parent.parent.name, record.name.removesuffix(".record.json")
        found = data.stored_record(chapter, name)
        assert (profiles.project_root() / found["script"]).is_file()
        assert data.stored(chapter, name) is not None


# ------------------------------------------------------------------------------------ data sets


def test_formats(folder):
    frame = pd.DataFrame({"a": [1, 2], "b": ["x", "y"]})
    register(folder, "toy/csv", frame.to_csv(index=False).encode(), ".csv")
    frame.to_parquet(folder / "toy/parquet.parquet")
    register(
        folder, "toy/parquet", (folder / "toy/parquet.parquet").read_bytes(), suffix=".parquet"
    )
    from safetensors.numpy import save

    register(folder, "toy/weights", save({"w": np.arange(3.0)}), ".safetensors")
    register(folder, "toy/prose", "Grüße\n".encode())
    register(folder, "toy/prompts", b'["a"]', ".json")
    for name in ("toy/csv", "toy/parquet"):
        pd.testing.assert_frame_equal(data.table(name), frame, check_dtype=False)
    assert data.arrays("toy/weights")["w"].tolist() == [0, 1, 2]
    assert data.text("toy/prose") == "Grüße\n"
    assert json.loads(data.text("toy/prompts")) == ["a"]
    assert data.path("toy/prose") == folder / "toy/prose.txt"
    rows = data.sources()
    assert sorted(rows["name"]) == list(rows["name"])
    assert set(rows["licence"]) == {"CC0-1.0"}
    for read, name in (
        (data.table, "toy/prose"),
        (data.text, "toy/csv"),
        (data.arrays, "toy/csv"),
    ):
        with pytest.raises(ValueError, match="file, not"):
            read(name)


def test_unknown_names_list_the_known_ones(folder):
    register(folder, "toy/prose", b"x")
    with pytest.raises(KeyError, match=r"did you mean 'toy/prose'.*There is: toy/prose"):
        data.text("toy/prosa")
    with pytest.raises(KeyError):
        data.path("../SOURCES")


def test_a_changed_file_is_corrupt(folder, monkeypatch):
    file = register(folder, "toy/prose", b"good")
    assert data.text("toy/prose") == "good"
    monkeypatch.setattr(data, "_checked", {})  # as in a new process
    file.write_bytes(b"evil")
    with pytest.raises(data.DataCorrupt, match=hashlib.sha256(b"good").hexdigest()):
        data.text("toy/prose")
    file.unlink()
    with pytest.raises(data.DataCorrupt, match="missing"):
        data.path("toy/prose")


def test_the_sum_is_computed_once_per_process(folder, monkeypatch):
    register(folder, "toy/prose", b"good")
    calls = []
    real = data._sum
    monkeypatch.setattr(data, "_sum", lambda file: calls.append(file) or real(file))
    for _ in range(3):
        data.text("toy/prose")
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("name,file\n", "columns"),
        ("", "columns"),
        (HEADER + "\na,b,c\n", "fields"),
        (HEADER + "\n" + "a," * 9 + "a\n", "fields"),
        (HEADER + "\ntoy/a,toy/a.txt,00,web,1,,,s,\n", "licence must not be empty"),
        (HEADER + "\n" + "toy/a,toy/a.txt,00,web,1,MIT,,s,\n" * 2, "twice"),
    ],
)
def test_a_broken_list_of_sources(folder, content, message):
    (folder / "SOURCES.csv").write_text(content)
    with pytest.raises(data.DataCorrupt, match=message):
        data.sources()


def test_registering_again_replaces_the_row(folder):
    register(folder, "toy/prose", b"one")
    register(folder, "toy/prose", b"two", changes="shorter, with a comma")
    rows = data.sources()
    assert len(rows) == 1
    assert rows["changes"][0] == "shorter, with a comma"
    assert data.text("toy/prose") == "two"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"licence": " "}, "licence must not be empty"),
        ({"source": ""}, "source must not be empty"),
        ({"script": "scripts/none.py"}, "script"),
        ({"script": "../x.py"}, "script"),
        ({"licence_file": "toy/LICENCE"}, "licence_file"),
    ],
)
def test_register_refuses(folder, change, message):
    with pytest.raises(ValueError, match=message):
        register(folder, "toy/prose", b"x", **change)
    assert len(data.sources()) == 0


def test_register_refuses_names_and_places(folder, tmp_path, monkeypatch):
    inside, outside = folder / "toy/a.txt", tmp_path / "a.txt"
    for file in (inside, outside):
        file.write_text("x")
    for name, file in (("toy/b", inside), ("a", inside), ("Toy/a", inside), ("toy/a", outside)):
        with pytest.raises(ValueError):
            data.register(name, file, **ROW)
    monkeypatch.setattr(data, "LIMIT", 0)
    with pytest.raises(ValueError, match="bytes"):
        data.register("toy/a", inside, **ROW)


# ---------------------------------------------------------------------------------- stored results


HOW = {"script": "scripts/toy/make.py", "settings": {"n": np.int64(3)}, "seeds": range(2)}


def test_tables_arrays_and_values_come_back(folder):
    frame = pd.DataFrame({"a": [1, 2], "b": [0.5, np.nan], "c": ["x", "y"]})
    assert data.save_stored("toy", "frame", frame, **HOW).name == "frame.parquet"
    pd.testing.assert_frame_equal(data.stored("toy", "frame"), frame)
    pivot = frame.set_index("c")[["a"]]
    data.save_stored("toy", "pivot", pivot, **HOW)
    pd.testing.assert_frame_equal(data.stored("toy", "pivot"), pivot)

    arrays = {"w": np.ones((2, 3), np.float32), "t": torch.arange(3, requires_grad=False)}
    assert data.save_stored("toy", "w", arrays, **HOW).name == "w.safetensors"
    back = data.stored("toy", "w")
    assert back["w"].dtype == np.float32
    assert back["t"].tolist() == [0, 1, 2]
    # A transposed view is not contiguous: its values must survive.
    matrix = np.arange(6.0).reshape(2, 3).T
    data.save_stored("toy", "view", {"m": matrix}, **HOW)
    assert np.array_equal(data.stored("toy", "view")["m"], matrix)

    value = {"n": np.int64(3), "x": np.float32(0.5), "list": (1, None, True), "t": torch.ones(2)}
    assert data.save_stored("toy", "value", value, **HOW).name == "value.json"
    assert data.stored("toy", "value") == {
        "n": 3,
        "x": 0.5,
        "list": [1, None, True],
        "t": [1.0, 1.0],
    }


def test_the_record(folder, monkeypatch):
    monkeypatch.setenv("PAPERKIT_SEED", "4")
    file = data.save_stored("toy", "x", [1], **HOW)
    record = data.stored_record("toy", "x")
    assert record["script"] == "scripts/toy/make.py"
    assert record["settings"] == {"n": 3}
    assert record["seeds"] == [0, 1]
    assert record["seed"] == 4
    assert record["file"] == "x.json"
    assert record["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert "numpy" in record["versions"]
    # Saving the same again changes nothing that version control sees.
    before = {f.name: f.read_bytes() for f in file.parent.iterdir()}
    data.save_stored("toy", "x", [1], **HOW)
    assert {f.name: f.read_bytes() for f in file.parent.iterdir()} == before


def test_a_result_may_change_its_format(folder):
    data.save_stored("toy", "x", [1], **HOW)
    data.save_stored("toy", "x", {"w": np.ones(2)}, **HOW)
    assert data.stored("toy", "x")["w"].tolist() == [1, 1]
    names = {f.name for f in (folder.parent / "notebooks/toy/results").iterdir()}
    assert names == {"x.safetensors", "x.record.json"}


def test_missing_results_say_what_to_do(folder, monkeypatch, tmp_path):
    data.save_stored("toy", "there", [1], **HOW)
    with pytest.raises(data.StoredResultMissing, match=r"there is: there.*nox -s full -- toy"):
        data.stored("toy", "none")
    monkeypatch.setenv("PAPERKIT_ROOT", str(tmp_path / "nowhere"))
    with pytest.raises(data.StoredResultMissing, match="clone"):
        data.stored("toy", "there")
    with pytest.raises(data.StoredResultMissing, match="clone"):
        data.save_stored("toy", "there", [1], **HOW)


def test_changed_results_are_corrupt(folder):
    file = data.save_stored("toy", "x", [1], **HOW)
    file.write_text("[2]")
    with pytest.raises(data.DataCorrupt, match="sha256"):
        data.stored("toy", "x")
    file.unlink()
    with pytest.raises(data.DataCorrupt, match="missing"):
        data.stored("toy", "x")
    record = file.parent / "x.record.json"
    for text in ("no json", "{}", "[]"):
        record.write_text(text)
        with pytest.raises(data.DataCorrupt, match="not a record"):
            data.stored("toy", "x")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"x": float("nan")}, r"value\['x'\] is nan"),
        ({"x": {"y": [1, np.inf]}}, r"value\['x'\]\['y'\]\[1\] is inf"),
        ({"x": object()}, "object"),
        ({(1, 2): 3}, "keys"),
        (3.5, "DataFrame"),
        ("text", "DataFrame"),
        ({"x": np.array(["a"])}, "numbers"),
        ({"x": np.array([None])}, "numbers"),
        (pd.DataFrame({0: [1]}), "columns"),
    ],
)
def test_values_that_cannot_be_stored(folder, value, message):
    data.save_stored("toy", "x", [1], **HOW)
    with pytest.raises(ValueError, match=message):
        data.save_stored("toy", "x", value, **HOW)
    # What was there is still there, and nothing lies about.
    assert data.stored("toy", "x") == [1]
    assert len(list((folder.parent / "notebooks/toy/results").iterdir())) == 2


def test_save_refuses(folder, monkeypatch):
    for change in (
        {"script": "/etc/passwd"},
        {"script": "scripts/none.py"},
        {"settings": {"out": folder}},
        {"settings": {"x": float("nan")}},
    ):
        with pytest.raises(ValueError):
            data.save_stored("toy", "x", [1], **(HOW | change))
    for chapter, name in (("../toy", "x"), ("toy", "../x"), ("toy", "X"), ("toy", "")):
        with pytest.raises(ValueError):
            data.save_stored(chapter, name, [1], **HOW)
    data.save_stored("toy", "big", [1], **HOW)
    monkeypatch.setattr(data, "LIMIT", 100)
    with pytest.raises(ValueError, match="bytes"):
        data.save_stored("toy", "big", list(range(100)), **HOW)
    assert data.stored("toy", "big") == [1]


def test_nothing_here_can_execute_code():
    source = (data.FOLDER / "__init__.py").read_text()
    for word in ("pickle", "torch.load", "eval(", "exec("):
        assert word not in source
