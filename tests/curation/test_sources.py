"""SOURCE arguments: every form names the same videos, and mistakes are told before anything runs."""

import functools
import http.server
import json
import tarfile
import threading
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curation.sources import FetchError, Item, Ranges, expand, local_copy, random_access, unbroken
from dataset.cut import cut_clip
from dataset.errors import UsageError
from dataset.media import MediaError
from tests.videos import clicks, moving_square, write_video


@pytest.fixture
def videos(tmp_path) -> Path:
    folder = tmp_path / "in"
    (folder / "deep").mkdir(parents=True)
    for name in ("b.mp4", "a.MOV", "deep/c.mkv", "notes.txt"):
        (folder / name).write_bytes(name.encode())
    return folder


def names(*sources: object) -> list[str]:
    return [Path(item.uri.split("::")[0]).name for item in expand(str(s) for s in sources)]


def test_files_folders_and_globs(videos):
    assert names(videos / "b.mp4") == ["b.mp4"]
    assert names(videos) == ["a.MOV", "b.mp4", "c.mkv"]
    assert names(f"{videos}/*.mp4") == ["b.mp4"]
    assert names(videos / "b.mp4", videos) == ["b.mp4", "a.MOV", "c.mkv"]  # each once


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet"])
def test_manifests(videos, kind):
    rows = [{"path": "b.mp4", "caption": "a woman, speaking"}, {"path": "deep/c.mkv", "caption": None}]
    manifest = videos / f"list.{kind}"
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), manifest)
    elif kind == "jsonl":
        manifest.write_text("\n".join(json.dumps(r) for r in rows))
    else:
        comma = "," if kind == "csv" else "\t"
        text = [
            comma.join(("path", "caption")),
            comma.join(("b.mp4", '"a woman, speaking"')),
            comma.join(("deep/c.mkv", "")),
        ]
        manifest.write_text("\n".join(text))
    found = list(expand([str(manifest)]))
    assert [i.uri for i in found] == [str(videos / "b.mp4"), str(videos / "deep/c.mkv")]
    assert found[0].caption == "a woman, speaking"
    assert not found[1].caption


def test_members_of_a_tar_are_read_without_unpacking(videos, tmp_path):
    (videos / "b.json").write_text(json.dumps({"caption": "two men"}))
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        for name in ("b.mp4", "b.json", "a.MOV"):
            tar.add(videos / name, name)
    found = list(expand([str(tmp_path / "s.tar")]))
    assert found[0] == Item(f"tar://b.mp4::{tmp_path / 's.tar'}", "two men")
    with local_copy(found[0].uri) as path:
        assert Path(path).read_bytes() == b"b.mp4"
    assert not Path(path).exists()


def test_any_fsspec_address(videos):
    fs = fsspec.filesystem("memory")
    fs.pipe_file("/bucket/x.mp4", b"x")
    found = list(expand(["memory://bucket/"]))
    assert [i.uri for i in found] == ["memory:///bucket/x.mp4"]
    with local_copy(found[0].uri) as path:
        assert Path(path).read_bytes() == b"x"


def test_http(videos):
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(videos))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    base = f"http://127.0.0.1:{server.server_port}"
    (videos / "list.csv").write_text(f"url\n{base}/b.mp4\n")
    for source in (f"{base}/b.mp4", str(videos / "list.csv"), f"{base}/list.csv"):
        (item,) = expand([source])
        with local_copy(item.uri) as path:
            assert Path(path).read_bytes() == b"b.mp4"
    with pytest.raises(FetchError, match="can't be fetched"), local_copy(f"{base}/gone.mp4"):
        pass
    server.shutdown()


def test_a_clip_of_a_large_object_is_cut_without_a_copy_of_it(tmp_path, monkeypatch):
    write_video(tmp_path / "long.mp4", 30, picture=moving_square, sound=clicks(30))
    fsspec.filesystem("memory").pipe("/films/long.mp4", (tmp_path / "long.mp4").read_bytes())
    monkeypatch.setattr("curation.sources.LARGE", 1000)
    with random_access("memory://films/long.mp4") as there:
        assert isinstance(there, Ranges)
        assert cut_clip(there, 7, 9) == cut_clip(str(tmp_path / "long.mp4"), 7, 9)

    def fail(size: int) -> bytes:
        raise OSError("the store is gone")

    with random_access("memory://films/long.mp4") as there:
        there.file.read = fail
        with pytest.raises(FetchError, match="the store is gone"):
            cut_clip(there, 7, 9)
        with pytest.raises(FetchError, match="the store is gone"), unbroken(there):
            pass  # libav kept it to itself: what was made looks whole
        with pytest.raises(FetchError, match="the store is gone"), unbroken(there):
            raise MediaError("damaged", "re-encode it")


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("{}/nothing.mp4", "does not exist"),
        ("{}/*.webm", "No file matches"),
        ("{}/bad.csv", "needs a column path or url"),
        ("{}/bad.jsonl", "can't be read"),
        ("{}/bad.tar", "can't be read"),
        ("{}/empty", "holds no video files"),
        ("nothing://x/y.mp4", "nothing://"),
    ],
)
def test_mistakes_are_usage_errors(videos, source, words):
    (videos / "bad.csv").write_text("name\nx\n")
    (videos / "bad.jsonl").write_text("{oops\n")
    (videos / "bad.tar").write_bytes(b"not a tar" * 100)
    (videos / "empty").mkdir()
    with pytest.raises(UsageError, match=words):
        list(expand([source.format(videos)]))
