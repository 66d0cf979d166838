"""Names and columns of a dataset's tables, and rows <-> records."""

from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa
from pydantic import BaseModel

from dataset.records import Clip, Failure, MediaFacts, Verdict
from dataset.tables import Table, in_threads

CLIPS, SCORES, VERDICTS, TRACKS, FAILURES = "clips", "scores", "verdicts", "tracks", "failures"
CAPTIONS = "captions"
SHARDS = "shards"  # no table: tars, and the index of each
SOURCES = "sources.yaml"  # no table: how many there are, with those that are yet to be ingested
POSTERS, THUMBS = "posters", "thumbs"  # pictures: one frame of every clip; three with the tracks drawn in, if measured

ARROW = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}
REASON = pa.struct(
    [
        ("filter", pa.string()),
        ("score", pa.string()),
        ("value", pa.float64()),
        ("threshold", pa.float64()),
        ("margin", pa.float64()),
    ]
)
NESTED = {"media": None, "reasons": pa.list_(REASON)}


def arrow_type(annotation: object) -> pa.DataType:
    """Arrow type of a scalar annotation, with or without None."""
    options = [t for t in getattr(annotation, "__args__", (annotation,)) if t is not type(None)]
    return ARROW[options[0]]  # type: ignore[index]


def struct_of(model: type[BaseModel]) -> pa.StructType:
    return pa.struct([(name, arrow_type(field.annotation)) for name, field in model.model_fields.items()])


NESTED["media"] = struct_of(MediaFacts)


def schema_of(model: type[BaseModel]) -> pa.Schema:
    return pa.schema([(n, NESTED.get(n) or arrow_type(f.annotation)) for n, f in model.model_fields.items()])


FLAG = pa.struct([("kind", pa.string()), ("field", pa.string()), ("found", pa.string())])
CAPTION = pa.schema(
    [
        ("clip_id", pa.string()),
        ("short", pa.string()),  # prose, in three lengths
        ("medium", pa.string()),
        ("long", pa.string()),
        ("structured", pa.string()),  # JSON of captioning.schema.Caption
        ("flags", pa.list_(FLAG)),  # what the lint objects to after a second try
        ("content", pa.string()),  # digest of the words above: shards that carry other words are packed again
        ("question", pa.string()),  # digest of prompt, model and sight: captions that would be asked for differently
        ("prompt", pa.string()),  # digest of instruction, examples and schema
        ("model", pa.string()),
        ("frames", pa.int64()),  # what the model saw
        ("rate", pa.float64()),  # pictures a second
        ("width", pa.int64()),
        ("height", pa.int64()),
        ("marked", pa.bool_()),
        ("tries", pa.int64()),  # answers that were asked for
        ("prompt_tokens", pa.int64()),  # of all tries
        ("completion_tokens", pa.int64()),
        ("seconds", pa.float64()),
    ]
)
SCHEMAS = {CLIPS: schema_of(Clip), FAILURES: schema_of(Failure), VERDICTS: schema_of(Verdict), CAPTIONS: CAPTION}
PICTURES = pa.schema([("clip_id", pa.string()), ("jpeg", pa.binary())])


def rows_of(name: str, records: Sequence[BaseModel]) -> pa.Table:
    """Records as rows of the table `name`."""
    return pa.Table.from_pylist([r.model_dump() for r in records], schema=SCHEMAS[name])


def clips_of(rows: pa.Table) -> list[Clip]:
    return [Clip.model_validate(row) for row in rows.select(SCHEMAS[CLIPS].names).to_pylist()]


def table(dataset: str, name: str) -> Table:
    return Table(dataset, name, key="key" if name == FAILURES else "clip_id", heavy=name in (TRACKS, POSTERS, THUMBS))


def homes(dataset: str, name: str) -> dict[str, str]:
    """Key -> the part of the table that holds its row."""
    rows = table(dataset, name)
    parts = rows.parts()
    keys = in_threads(lambda part: rows.read_part(part, [rows.key])[rows.key].to_pylist(), parts)
    return {key: part for part, held in zip(parts, keys, strict=True) for key in held}


def stored_rows(dataset: str, name: str, parts: Iterable[str], ids: Iterable[str]) -> dict[str, dict[str, Any]]:
    """The rows of some clips, by clip id, out of the parts that may hold them."""
    rows, wanted = table(dataset, name), set(ids)
    return {row["clip_id"]: row for part in parts for row in rows.read_rows(part, wanted)}


def save(target: Table, rows: pa.Table, name: str) -> None:
    """Write the part `name`; no rows mean that no such part shall exist."""
    if rows.num_rows:
        target.write(rows, name)
    else:
        target.drop(name)


def read(dataset: str, name: str, columns: Iterable[str] | None = None) -> pa.Table:
    """A table with at least its schema's columns, also when it has no part yet."""
    rows = table(dataset, name).read(list(columns) if columns else None)
    if rows.num_columns or name not in SCHEMAS:
        return rows
    empty = SCHEMAS[name].empty_table()
    return empty.select(list(columns)) if columns else empty
