"""What is measured again: what of it is kept, and what of it is counted."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from curation.chain import DECODE
from curation.layout import SCORES, read, table
from curation.metrics import Tally
from tests.curation.test_run import Workshop, write_good
from tests.curation.without_ray import without_ray


def test_a_later_run_tells_what_it_spent_and_keeps_what_decoding_costs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It decodes only what is still missing, and so tells less of the cost of a clip than the one before."""
    shop = Workshop(tmp_path)
    write_good(shop, 2)
    dear = 1e9  # milliseconds
    with without_ray():
        shop.curate()
        scores = table(str(shop.dataset), SCORES)
        for name in scores.parts():
            rows = scores.read_part(name)
            spent = [[(step, dear if step == DECODE else ms) for step, ms in row] for row in rows["ms"].to_pylist()]
            field = rows.schema.get_field_index("ms")
            scores.write(rows.set_column(field, "ms", pa.array(spent, rows.schema.field(field).type)), name)
        counted: list[tuple[str, float]] = []

        def count(tally: Tally, name: str, amount: float = 1, **labels: Any) -> None:
            if labels.get("filter") == DECODE:
                counted.append((name, amount))

        monkeypatch.setattr(Tally, "count", count)
        shop.recipe(level=1)
        shop.curate()
    assert shop.measured() == {"loudness": 2}
    assert sum(amount for name, amount in counted if name == "s2v_filter_clips_total") == 2
    assert 0 < sum(amount for name, amount in counted if name == "s2v_filter_seconds_total") < dear / 1000
    assert [dict(row)[DECODE] for row in read(str(shop.dataset), SCORES)["ms"].to_pylist()] == [dear] * 2
