"""The report in a real browser: hostile texts stay texts, thresholds re-judge, and nothing overflows."""

import json
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import yaml

from curation import layout
from curation.policy import Policy
from curation.report import pictures, write_report
from curation.report.page import exact, to_json
from curation.report.rows import KEPT, judge, read_rows
from curation.report.settings import read_settings
from tests.curation.report_data import CHROMIUM, HOSTILE, POLICY, Browser, fabricate

needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="needs a browser: apt-get install chromium")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    opened = Browser(tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    place = str(tmp_path_factory.mktemp("data") / "it's <b>a<b> set")
    fabricate(place, 60)
    write_report(place)
    return place


def page(dataset: str) -> str:
    return f"{dataset}/report/index.html"


def kept(browser: Browser) -> int:
    return int(browser.run("document.querySelector('#survivors strong').textContent").replace(",", ""))


def set_slider(browser: Browser, score: str, place: float) -> None:
    """Move the slider of a score to a place from 0 (left) to 1."""
    browser.run(
        f"""(async () => {{
          document.getElementById('score-{score}').scrollIntoView();
          const range = document.querySelector('#score-{score} input[type=range]');
          range.value = {place}; range.dispatchEvent(new Event('input'));
          await new Promise(done => requestAnimationFrame(() => setTimeout(done, 0)));
        }})()"""
    )


def choose(browser: Browser, control: str, value: str) -> None:
    event = "input" if control == "search" else "change"
    script = f"control.value = {json.dumps(value)}; control.dispatchEvent(new Event('{event}'))"
    browser.run(f"{{ const control = document.getElementById('{control}'); {script}; }}")


# ---------------------------------------------------------------- without a browser


def test_stored_verdicts_and_the_reports_judgement_agree(dataset: str) -> None:
    settings = read_settings(dataset)
    rows = read_rows(dataset, [f.name() for f in settings.chain])
    first, _ = judge(rows, settings.rules(rows.order))
    judged = rows.verdicts.judged
    assert judged.sum() == 58
    assert ((first == KEPT) == rows.verdicts.keep)[judged].all()
    assert 5 < rows.verdicts.keep.sum() < 50


def test_float32_keeps_every_value_on_its_side() -> None:
    cut = 0.7
    near = np.array([np.nextafter(cut, 0), cut, np.nextafter(cut, 1), np.nan, 0.3])
    small = exact(near, [cut])
    assert (small < np.float32(cut)).tolist() == (near < cut).tolist()
    assert (small > np.float32(cut)).tolist() == (near > cut).tolist()


def test_json_cannot_end_its_script() -> None:
    text = to_json(HOSTILE)
    assert not re.search("[<>&\u2028\u2029]", text)
    assert json.loads(text) == HOSTILE


def test_only_jpegs_are_embedded(tmp_path: Path) -> None:
    fabricate(str(tmp_path), 20, pictures=[b"<svg onload=alert(1)>", b""])
    settings = read_settings(str(tmp_path))
    rows = read_rows(str(tmp_path), [f.name() for f in settings.chain])
    assert pictures.embed(str(tmp_path), rows, settings) == {}


def test_the_same_dataset_gives_the_same_pictures(dataset: str) -> None:
    settings = read_settings(dataset)
    rows = read_rows(dataset, [f.name() for f in settings.chain])
    assert pictures.embed(dataset, rows, settings) == pictures.embed(dataset, rows, settings) != {}


# ---------------------------------------------------------------- in the browser


@needs_browser
@pytest.mark.parametrize("width", [1400, 400])
@pytest.mark.parametrize("dark", [False, True])
def test_page_is_clean(browser: Browser, dataset: str, width: int, dark: bool) -> None:
    browser.open(page(dataset), width, dark=dark)
    browser.run("document.querySelectorAll('article.score').forEach(a => a.scrollIntoView())")
    assert browser.run("document.documentElement.scrollWidth") <= width
    assert "of 60 clips kept" in browser.run("document.getElementById('sentence').textContent")
    assert browser.problems() == []


@needs_browser
def test_hostile_text_stays_text(browser: Browser, dataset: str) -> None:
    browser.open(page(dataset))
    browser.run("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert browser.run("document.querySelectorAll('script').length") == 4
    assert browser.run("document.querySelectorAll('[onerror], iframe, h1 b').length") == 0
    for text in HOSTILE:
        found = f"lab.basics.sources[lab.basics.source[row]].includes({json.dumps(text)})"
        browser.run(f"openCard(lab.basics.ids.findIndex((id, row) => {found}))")
        assert text in browser.run("document.querySelector('dialog').textContent")
        browser.run("document.querySelector('dialog').close()")
        assert text in browser.run("Object.values(lab.basics.captions).join()")
    assert HOSTILE[4] in browser.run("document.getElementById('failures').textContent")
    assert browser.run("document.querySelector('h1').textContent") == "it's <b>a<b> set"
    assert browser.problems() == []


@needs_browser
def test_slider_judges_again(browser: Browser, dataset: str) -> None:
    browser.open(page(dataset))
    stored = kept(browser)
    set_slider(browser, "blur-face", 1)
    assert kept(browser) <= 1
    assert browser.run("document.querySelector('#delta .less').textContent").endswith("clips")
    set_slider(browser, "blur-face", 0)
    assert kept(browser) > stored
    set_slider(browser, "header-duration", 0)
    assert "would need measuring" in browser.run("document.querySelector('#delta').textContent")
    browser.run("document.getElementById('reset').click()")
    browser.wait("document.getElementById('reset').disabled")
    assert kept(browser) == stored
    assert browser.problems() == []


@needs_browser
def test_copied_policy_is_a_policy(browser: Browser, dataset: str) -> None:
    browser.open(page(dataset))
    untouched = Policy.model_validate(yaml.safe_load(browser.run("policyYaml(lab.rules)")))
    assert sorted(map(str, untouched.rules)) == sorted(map(str, POLICY.rules))
    browser.run(
        "{ const field = document.querySelector('#score-blur-face input[type=number]');"
        "field.value = 120; field.dispatchEvent(new Event('change')); }"
    )
    browser.run("tryRule('blur.hand', true, 1e-7)")
    tuned = Policy.model_validate(yaml.safe_load(browser.run("policyYaml(lab.rules)")))
    bounds = {rule.score: rule.threshold for rule in tuned.rules}
    assert bounds["blur.face"] == 120
    assert bounds["blur.hand"] == 1e-7
    assert "uncalibrated: set in the report; was 80" in next(r.source for r in tuned.rules if r.score == "blur.face")


@needs_browser
def test_gallery_filters_and_searches(browser: Browser, dataset: str) -> None:
    browser.open(page(dataset))
    stored = kept(browser)
    choose(browser, "gallery-outcome", "kept")
    assert browser.run("document.getElementById('gallery-count').textContent").startswith(f"{stored} clips")
    choose(browser, "gallery-outcome", "all")
    choose(browser, "search", "SHOW_00010")
    browser.wait("document.getElementById('gallery-count').textContent.startsWith('4 clips')")
    browser.run("document.querySelector('#gallery .clip').click()")
    browser.wait("document.querySelector('dialog').open")
    card = browser.run("document.querySelector('dialog').textContent")
    assert re.search(r"s2v explain .*it'\\''s <b>a<b> set' [0-9a-f]{24}", card)
    assert browser.problems() == []


@needs_browser
@pytest.mark.parametrize("tables", [[], ["clips"], ["clips", "scores"], ["failures"]])
def test_unfinished_datasets_have_a_page(browser: Browser, dataset: str, tmp_path: Path, tables: list[str]) -> None:
    for name in tables:
        shutil.copytree(f"{dataset}/{name}", tmp_path / name)
    if tables:
        shutil.copy(f"{dataset}/recipe.yaml", tmp_path)
    browser.open(write_report(str(tmp_path)), 400)
    assert browser.run("document.querySelectorAll('#notes .note').length") >= 1
    assert browser.run("document.documentElement.scrollWidth") <= 400
    assert browser.problems() == []


@needs_browser
def test_a_table_without_rows_is_no_table(browser: Browser, tmp_path: Path) -> None:
    layout.table(str(tmp_path), layout.CLIPS).write(layout.SCHEMAS[layout.CLIPS].empty_table())
    layout.table(str(tmp_path), layout.SCORES).write(pa.table({"clip_id": pa.array([], pa.string())}))
    browser.open(write_report(str(tmp_path)))
    assert browser.run("document.getElementById('sentence').textContent") == "No clips yet."
    assert browser.problems() == []


# ---------------------------------------------------------------- size and speed


@pytest.mark.real
@needs_browser
def test_fifty_thousand_clips(browser: Browser, tmp_path: Path) -> None:
    """Everything still works; how long it took is printed (`-s`), and quoted in docs/performance.md."""
    rng = np.random.default_rng(0)
    noise = [b"\xff\xd8\xff" + rng.bytes(12_000) for _ in range(50)]
    fabricate(str(tmp_path), 50_000, pictures=noise)
    began = time.monotonic()
    path = write_report(str(tmp_path))
    wrote, size = time.monotonic() - began, Path(path).stat().st_size / 1e6
    opened = browser.open(path)
    dom = browser.run("performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd")
    slid = slide_milliseconds(browser, "blur-face")
    print(f"\nwritten in {wrote:.1f} s, {size:.1f} MB; DOM {dom:.0f} ms, ready {opened:.2f} s, slider {slid} ms")
    assert size < 15
    assert "50,000" in browser.run("document.getElementById('sentence').textContent")
    assert browser.problems() == []


def slide_milliseconds(browser: Browser, score: str) -> list[int]:
    """From the slider's event until the next picture is painted, for several moves."""
    return browser.run(
        f"""(async () => {{
          document.getElementById('score-{score}').scrollIntoView();
          await new Promise(done => setTimeout(done, 1000));
          const range = document.querySelector('#score-{score} input[type=range]'), took = [];
          for (let k = 1; k < 9; k++) {{
            range.value = Number(range.min) + (range.max - range.min) * k / 10;
            const began = performance.now();
            range.dispatchEvent(new Event('input'));
            await new Promise(done => requestAnimationFrame(() => setTimeout(done, 0)));
            took.push(Math.round(performance.now() - began));
          }}
          return took;
        }})()"""
    )
