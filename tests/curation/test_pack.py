"""Shards that are written again: nothing stays in them that does not belong there any more."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curation import pack
from curation.layout import CAPTION, CAPTIONS, FAILURES, VERDICTS, read, table
from curation.stored import settings
from tests.curation.test_run import Workshop, write_good
from tests.curation.without_ray import without_ray


@pytest.fixture
def dataset(tmp_path: Path) -> str:
    """Two clips in one shard, which is damaged; their videos are gone."""
    shop = Workshop(tmp_path)
    write_good(shop, 2)
    with without_ray():
        shop.curate()
    for video in shop.videos.iterdir():
        video.unlink()
    (shop.dataset / "shards" / "000000.tar").write_bytes(b"")
    return str(shop.dataset)


def through(dataset: str) -> list[pack.Shard]:
    recipe = settings(dataset)[0]
    plan = pack.plan(dataset, recipe)
    worker = pack.PackWorker(dataset, recipe)
    for shard in plan.write:
        worker(shard)
    worker.child.stop()
    pack.finish(dataset, plan.remove)
    return plan.write


def nothing_is_packed(dataset: str) -> bool:
    index = pq.read_table(f"{dataset}/shards/index.parquet")
    return index.num_rows == 0 and [path.name for path in Path(dataset, "shards").iterdir()] == ["index.parquet"]


def test_a_shard_whose_clips_all_fail_when_it_gets_captions_is_gone(dataset: str) -> None:
    ids = read(dataset, VERDICTS)["clip_id"].to_pylist()
    table(dataset, CAPTIONS).write(pa.Table.from_pylist([{"clip_id": i, "content": "new"} for i in ids], CAPTION))
    assert [shard.again for shard in through(dataset)] == [True]
    assert read(dataset, FAILURES).num_rows == 2
    assert nothing_is_packed(dataset)


def test_a_clip_that_is_no_longer_kept_goes_though_its_neighbour_cannot_be_packed_again(dataset: str) -> None:
    verdicts = table(dataset, VERDICTS)
    first = verdicts.parts()[0]
    rows = verdicts.read_part(first)
    dropped = pa.array([False] + [True] * (rows.num_rows - 1))
    verdicts.write(rows.set_column(rows.schema.get_field_index("keep"), "keep", dropped), first)
    assert [(shard.name, len(shard.clips)) for shard in through(dataset)] == [("000000.tar", 1)]
    assert read(dataset, FAILURES).num_rows == 1
    assert nothing_is_packed(dataset)
