"""Third-party assets are what their publishers released, each with its licence."""

import csv
import hashlib
from pathlib import Path

VENDOR = Path(__file__).parents[2] / "book" / "_static" / "vendor"


def test_every_vendored_file_has_its_published_sum():
    lines = (VENDOR / "SHA256SUMS").read_text().splitlines()
    expected = {name.removeprefix("./"): digest for digest, name in map(str.split, lines)}
    found = {
        str(path.relative_to(VENDOR)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in VENDOR.rglob("*")
        if path.is_file() and path.name != "SHA256SUMS"
    }
    assert found == expected


def test_every_vendored_folder_is_credited_and_licensed():
    rows = list(csv.DictReader((VENDOR / "assets.csv").open(encoding="utf-8")))
    folders = {path.name for path in VENDOR.iterdir() if path.is_dir()}
    assert {row["folder"] for row in rows} == folders
    for row in rows:
        assert all(row.values()), row
        assert list((VENDOR / row["folder"]).glob("LICENSE*")), row["folder"]


def test_vendored_versions_agree_with_the_update_notes():
    notes = (VENDOR / "README.md").read_text(encoding="utf-8")
    for row in csv.DictReader((VENDOR / "assets.csv").open(encoding="utf-8")):
        assert f"@{row['version']}" in notes, row["name"]
