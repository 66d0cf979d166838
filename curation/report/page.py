"""Puts the page together: template, style, scripts and data in one file that works offline.

All data is hostile. It enters as JSON in data blocks that can't end a script element, the scripts show it as text only,
and the policy of the page allows no other script, style or connection than those written here.
"""

import base64
import hashlib
import json
import re
import zlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from curation.policy import Rule
from curation.report.facts import media_facts
from curation.report.rows import Rows, column

HERE = Path(__file__).parent
SCRIPTS = ("data", "format", "judge", "head", "histogram", "lab", "scores", "gallery", "card", "rest", "main")
CAPTION, DENSE = 600, 2400  # characters of a source's caption and of a dense one that the page carries
ESCAPES = {ord(c): f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"}


def render(facts: dict[str, Any], rows: Rows, rules: Sequence[Rule], pictures: Mapping[int, str]) -> str:
    """The whole page."""
    media = media_facts(rows)
    style = (HERE / "style.css").read_text()
    script = "\n".join(["'use strict';", *((HERE / f"{name}.js").read_text() for name in SCRIPTS)])
    parts = {
        "csp": content_policy(script, style),
        "style": style,
        "script": script,
        "facts": to_json({**facts, "formats": media["formats"]}),
        "columns": to_json(columns(rows, rules, media["numbers"], pictures)),
        "pictures": to_json({str(row): picture for row, picture in pictures.items()}),
    }
    template = (HERE / "template.html").read_text()
    # One pass, so that nothing that is put in is searched for placeholders again.
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], template)


def content_policy(script: str, style: str) -> str:
    """Nothing may load or run but this script and this style; pictures come from the page itself."""
    return (
        f"default-src 'none'; img-src data:; script-src '{sha256(script)}'; style-src '{sha256(style)}'; "
        "base-uri 'none'; form-action 'none'"
    )


def sha256(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def to_json(value: Any) -> str:
    """JSON that is safe inside a script element."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False, default=str).translate(ESCAPES)


# ---------------------------------------------------------------- columns


def columns(
    rows: Rows, rules: Sequence[Rule], media: Mapping[str, np.ndarray], pictures: Collection[int]
) -> dict[str, Any]:
    """Per-clip data, each column packed on its own so that the browser unpacks only what it shows."""
    thresholds = {rule.score: [r.threshold for r in rules if r.score == rule.score] for rule in rules}
    start = np.asarray(column(rows.clips, "start"), dtype=float)
    return {
        "text": pack(json.dumps(texts(rows, pictures)).encode()),
        "state": pack(rows.state.tobytes()),
        "start": floats(start),
        "seconds": floats(rows.seconds),
        "measured": {name: pack(mask.astype(np.uint8).tobytes()) for name, mask in rows.measured.items()},
        "scores": {key: floats(exact(values, thresholds.get(key, []))) for key, values in rows.scores.items()},
        "ms": {name: floats(rough(ms)) for name, ms in rows.ms.items()},
        "media": {name: floats(values) for name, values in media.items()},
    }


def texts(rows: Rows, pictures: Collection[int]) -> dict[str, Any]:
    """Ids, sources (each once) and captions; dense ones with the lint's objections, of clips whose picture is here."""
    sources = column(rows.clips, "source").dictionary_encode()
    captions = column(rows.clips, "caption").to_pylist()
    shown = sorted(pictures)
    told = rows.captions.take(pa.array(shown, pa.int64())).to_pylist()
    return {
        "ids": column(rows.clips, "clip_id").to_pylist(),
        "sources": sources.dictionary.to_pylist(),
        "source": sources.indices.to_pylist(),
        "captions": {i: shorten(text, CAPTION) for i, text in enumerate(captions) if text},
        "dense": {i: dense(row) for i, row in zip(shown, told, strict=True) if row["clip_id"]},
    }


def dense(row: Mapping[str, Any]) -> list[Any]:
    """[prose, objections]."""
    return [shorten(row["long"], DENSE), [f"{flag['kind']}: {flag['found']}" for flag in row["flags"]]]


def shorten(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def pack(data: bytes) -> str:
    return base64.b64encode(zlib.compress(data, 6)).decode()


def floats(values: np.ndarray) -> str:
    """float32 by byte planes: first all lowest bytes, last all highest. Packs a quarter better than value by value."""
    return pack(np.ascontiguousarray(values.astype("<f4")).view(np.uint8).reshape(-1, 4).T.tobytes())


def exact(values: np.ndarray, thresholds: Sequence[float]) -> np.ndarray:
    """float32 that lies on the same side of every threshold's float32 as the value of the threshold."""
    small = values.astype(np.float32)
    for threshold in thresholds:
        cut = np.float32(threshold)
        small = np.where((values < threshold) & (small >= cut), np.nextafter(cut, np.float32(-np.inf)), small)
        small = np.where((values > threshold) & (small <= cut), np.nextafter(cut, np.float32(np.inf)), small)
    return small


def rough(values: np.ndarray) -> np.ndarray:
    """To about three digits: what a time needs, in half the bytes."""
    bits = values.astype(np.float32).view(np.uint32) & np.uint32(0xFFFFF000)
    return bits.view(np.float32)
