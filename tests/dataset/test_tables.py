"""Parts are whole or absent, named by their keys, and merge when their columns differ."""

import os

import pyarrow as pa
import pytest

from dataset.tables import Table, part_name


def rows(*keys: str, **columns: list) -> pa.Table:
    return pa.table({"clip_id": list(keys), **columns})


@pytest.fixture(params=["disk", "memory"])
def table(request, tmp_path) -> Table:
    return Table(str(tmp_path) if request.param == "disk" else f"memory://{tmp_path.name}", "things")


def test_writing_the_same_keys_again_replaces_the_part(table):
    table.write(rows("a", "b", x=[1, 2]))
    table.write(rows("b", "a", x=[4, 3]))
    assert len(table.parts()) == 1
    assert sorted(zip(*table.read().to_pydict().values(), strict=True)) == [("a", 3), ("b", 4)]


def test_parts_with_other_columns_merge(table):
    table.write(rows("a", faces=[{"visible": 0.5}]))
    table.write(rows("b", faces=[{"visible": 0.7, "count": 2}], voice=[{"speech": 1.0}]))
    merged = {r["clip_id"]: r for r in table.read().to_pylist()}
    assert merged["a"]["voice"] is None
    assert merged["a"]["faces"] == {"visible": 0.5, "count": None}
    assert merged["b"]["faces"]["count"] == 2


def test_an_absent_table_is_empty(table):
    assert table.read().num_rows == 0
    assert table.keys().to_pylist() == []


@pytest.mark.parametrize("heavy", [False, True])
def test_some_rows_of_a_part(tmp_path, heavy):
    table = Table(str(tmp_path), "things", heavy=heavy)
    name = table.write(rows("a", "b", "c", x=[1, 2, 3]))
    assert table.read_rows(name, {"c", "a", "z"}) == [{"clip_id": "a", "x": 1}, {"clip_id": "c", "x": 3}]
    assert table.read_rows("part-none.parquet", {"a"}) == []


def test_a_write_that_fails_leaves_nothing(tmp_path, monkeypatch):
    table = Table(str(tmp_path), "things")

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        table.write(rows("a"))
    assert os.listdir(tmp_path / "things") == []


def test_leftovers_of_a_killed_writer_are_not_rows(tmp_path):
    table = Table(str(tmp_path), "things")
    name = table.write(rows("a"))
    (tmp_path / "things" / f".{name}.123").write_bytes(b"half a part")
    assert table.keys().to_pylist() == ["a"]


def test_the_name_depends_on_the_keys_not_their_order():
    assert part_name(["a", "b"]) == part_name(["b", "a"]) != part_name(["a", "c"])
