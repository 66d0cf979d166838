"""`s2v jobs`: what is told of datasets, runs and jobs, above all of those that are in trouble."""

import io
import os
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest
from rich.console import Console

from cluster import job_page, jobs_view, records, seen
from cluster.job import Condition, State
from cluster.progress import span, sparkline, warning
from cluster.records import Record
from cluster.settings import Cluster, load_cluster
from curation.layout import CLIPS, FAILURES, SCORES, SOURCES, VERDICTS, rows_of, table
from curation.pace import WINDOW
from curation.pace import pace as pace_of_dataset
from curation.policy import Policy, Rule
from curation.recipe import Recipe
from curation.run import write_settings
from curation.score_rows import score_schema
from curation.select import select
from dataset.errors import RunError, UsageError
from dataset.records import Clip, Failure, MediaFacts
from dataset.tables import to_parquet, write_atomically
from trainer.metrics import JsonLines, StepRecord
from trainer.pace import pace as pace_of_run
from trainer.stages import find_stage

NOW = 1_800_000_000.0
MEDIA = MediaFacts(
    width=64, height=64, fps=25, duration=5, frames=125, video_codec="h264", pix_fmt="yuv420p", bit_rate=9
)
PER_PART = 10


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("S2V_STATE", str(tmp_path / "state"))
    return tmp_path / "state"


class Dataset:
    """Parts as the stages write them, at times that are chosen. Half of the clips are too short."""

    def __init__(self, folder: Path, parts: int):
        self.folder, self.parts = str(folder), parts
        self.recipe = Recipe(name="test", filters=["header"])
        self.policy = Policy(name="test", rules=[Rule(score="header.duration", min=3, source="test")])
        write_settings(self.folder, self.recipe, self.policy)
        self.at("recipe.yaml", NOW - 3600)
        for number in range(parts):
            self.write(CLIPS, number, rows_of(CLIPS, self.clips(number)), NOW - 3500)

    def clips(self, number: int) -> list[Clip]:
        ids = [f"{number}-{i}" for i in range(PER_PART)]
        return [Clip(clip_id=i, source=f"/{i}.mp4", source_id=i, start=0, end=5, media=MEDIA) for i in ids]

    def write(self, name: str, number: int, rows: pa.Table, when: float) -> None:
        table(self.folder, name).write(rows, f"part-{number}.parquet")
        self.at(f"{name}/part-{number}.parquet", when)

    def at(self, name: str, when: float) -> None:
        os.utime(f"{self.folder}/{name}", (when, when))

    def measure(self, number: int, when: float) -> None:
        """One clip of the part fails."""
        chain = self.recipe.build()
        first, *rest = self.clips(number)
        header = dict.fromkeys(chain[0].Scores.model_fields)
        rows = [{"clip_id": c.clip_id, "header": header | {"duration": i % 3 + 1}} for i, c in enumerate(rest)]
        failure = Failure.of_clip(first, "measure", "decoding it did not end in time", "re-encode the source")
        self.write(FAILURES, number, rows_of(FAILURES, [failure]), when)
        self.write(SCORES, number, pa.Table.from_pylist(rows, score_schema(chain)), when)

    def pack(self, number: int, count: int, when: float) -> None:
        rows = to_parquet(pa.table({"clip_id": [str(i) for i in range(count)]}))
        write_atomically(f"{self.folder}/shards", f"{number:06d}.index.parquet", rows)
        self.at(f"shards/{number:06d}.index.parquet", when)


@pytest.fixture
def half_done(tmp_path: Path) -> Dataset:
    """Of 6 parts, 3 are measured: one long ago, two in the last minutes."""
    made = Dataset(tmp_path / "data", 6)
    for number, age in enumerate((2000, 800, 60)):
        made.measure(number, NOW - age)
    return made


def printed(name: str = "", lines: int = 5, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width)
    if name:
        job_page.show_job(name, console, lines)
    else:
        jobs_view.list_jobs(console)
    return console.file.getvalue()  # type: ignore[attr-defined]


def hand_in(name: str, **changes: object) -> Record:
    made = {"kind": "curate", "to": "ray", "job_id": "1", "home": "", "argv": ("curate", "s3://raw/*.mp4")} | changes
    record = Record.model_validate({"name": name, "cluster": Cluster(), "submitted": datetime.now(UTC)} | made)
    records.save(record)
    return record


# ---------------------------------------------------------------- curation


def test_a_half_measured_dataset(half_done: Dataset) -> None:
    found = pace_of_dataset(half_done.folder, NOW)
    assert found
    assert found.done == "measure 27 of 60 clips (50%)"
    assert found.failures == "3 failed"
    assert found.speed == pytest.approx(18 / WINDOW)  # of what was written in the last minutes
    assert found.left == pytest.approx(30 / (18 / WINDOW))
    assert found.written == NOW - 60
    assert not found.finished
    assert warning(found, NOW) == ""
    assert warning(found, NOW + 1440) == "nothing was written for 25 min: it may be stuck"


def test_looking_changes_nothing(half_done: Dataset) -> None:
    def files() -> dict[Path, float]:
        return {path: path.stat().st_mtime for path in Path(half_done.folder).rglob("*")}

    before = files()
    printed(half_done.folder)
    assert files() == before


def test_the_funnel_is_told_while_clips_are_measured(half_done: Dataset) -> None:
    text = printed(half_done.folder)
    assert "measure 27 of 60 clips (50%)   3 failed" in text
    assert ["kept", "9"] in [line.replace("│", " ").split()[:2] for line in text.splitlines()]
    assert ["not", "measured", "33"] in [line.replace("│", " ").split()[:3] for line in text.splitlines()]
    assert "re-encode the" in text


def test_stages_follow_one_another(half_done: Dataset) -> None:
    made = half_done
    made.at("recipe.yaml", NOW)  # handed in again: nothing is written yet
    assert str(pace_of_dataset(made.folder, NOW + 1).now) == "measure 27 of 60 clips (50%)"  # type: ignore[union-attr]
    for number in range(3, made.parts):
        made.measure(number, NOW + 50)
    select(made.folder, made.policy, ["header"])
    for number in range(made.parts):
        made.at(f"{VERDICTS}/part-{number}.parquet", NOW + 60)
    made.pack(0, 12, NOW + 100)
    found = pace_of_dataset(made.folder, NOW + 100)
    assert found
    assert found.done == "pack 12 of 18 clips (66%)"
    assert found.speed == pytest.approx(12 / 50)
    made.pack(1, 6, NOW + 120)
    write_atomically(f"{made.folder}/shards", "index.parquet", b"")
    made.at("shards/index.parquet", NOW + 121)
    found = pace_of_dataset(made.folder, NOW + 9999)
    assert found
    assert (found.finished, found.done, found.left) == (True, "18 clips packed", None)
    assert warning(found, NOW + 9999) == ""


def test_what_is_measured_again_is_going_on(half_done: Dataset) -> None:
    for number in range(half_done.parts):
        half_done.measure(number, NOW - 4000)
    half_done.measure(0, NOW - 10)  # stale under a changed recipe
    found = pace_of_dataset(half_done.folder, NOW)
    assert found
    assert (found.now.name, found.left) == ("measure", None)
    assert found.speed


def test_ingest_is_told_in_sources_until_all_are_looked_through(tmp_path: Path) -> None:
    """Two sources of five clips in each part; one source can't be read."""
    made = Dataset(tmp_path / "data", 3)
    for number, age in enumerate((2000, 800, 60)):
        clips = [c.model_copy(update={"source": f"/{number}-{i % 2}.mp4"}) for i, c in enumerate(made.clips(number))]
        made.write(CLIPS, number, rows_of(CLIPS, clips), NOW - age)
    failure = Failure(key="/no.mp4", source="/no.mp4", stage="ingest", error="empty file", remedy="remove it")
    made.write(FAILURES, 0, rows_of(FAILURES, [failure]), NOW - 800)
    assert pace_of_dataset(made.folder, NOW).done == "ingest 6 sources"  # type: ignore[union-attr]
    write_atomically(made.folder, SOURCES, b"count: 10")
    found = pace_of_dataset(made.folder, NOW)
    assert found
    assert (found.done, found.failures) == ("ingest 6 of 10 sources (70%)", "1 failed")
    assert found.rate == "0.00444 sources/s"
    assert found.left == pytest.approx(3 / (4 / WINDOW))
    write_atomically(made.folder, SOURCES, b"count: 7")
    assert pace_of_dataset(made.folder, NOW).done == "measure 0 of 30 clips (0%)"  # type: ignore[union-attr]


def test_before_the_first_clip_and_without_a_dataset(tmp_path: Path) -> None:
    Dataset(tmp_path / "data", 0)
    found = pace_of_dataset(str(tmp_path / "data"), NOW)
    assert found
    assert found.done == "ingest 0 sources"
    assert pace_of_dataset(str(tmp_path / "nowhere")) is None
    with pytest.raises(UsageError, match="There is no job, dataset or run"):
        printed(str(tmp_path / "nowhere"))


# ---------------------------------------------------------------- training


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """As the trainer writes it, 60 steps of 200; the last loss was not finite."""
    import json

    folder = tmp_path / "run"
    folder.mkdir()
    stage = find_stage("tiny", ["steps=200"])
    (folder / "run.json").write_text(json.dumps({"stage": stage.model_dump(), "data": [], "init": "", "wandb": ""}))
    with JsonLines(folder / "metrics.jsonl") as lines:
        for step in range(1, 61):
            loss = float("nan") if step == 60 else 1.0 - step / 100
            row = StepRecord(step, 200, loss, 1.0, 1e-5, 2.0, 4, 1000, {"data": 0.1}, left=2.0 * (200 - step))
            lines.write(row.row())
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 61, "lo')  # torn
    with JsonLines(folder / "validation.jsonl") as lines:
        lines.write({"step": 50, "gap": 0.0123, "gap_error": 0.004, "relative_gap": 0.1, "loss": {}, "levels": []})
    with JsonLines(folder / "incidents.jsonl") as lines:
        lines.write({"step": 60, "what": "loss or gradient not finite", "loss": None, "clips": [["a", 0]]})
    for step, whole in ((20, True), (40, True), (60, False)):
        (folder / f"step-{step:06d}").mkdir()
        if whole:
            (folder / f"step-{step:06d}/checkpoint.json").write_text("{}")
    return folder


def test_a_run_of_training(run: Path) -> None:
    found = pace_of_run(run)
    assert found
    assert found.done == "step 60 of 200 (30%)"
    assert (found.rate, found.tokens, found.left) == ("2 s/step", 500, 280)
    assert found.checkpoint
    assert found.checkpoint.name == "step-000040"
    assert found.loss() == pytest.approx(0.65)  # of steps 11 to 59
    text = printed(str(run))
    assert "step 60 of 200 (30%)   2 s/step   4 min left" in text
    assert "audio-shuffle gap +0.0123 ± 0.0040 at step 50" in text
    assert "checkpoint step-000040" in text
    assert "1 incident, the last one at step 60: loss or gradient not finite" in text
    assert "█▇" in text


def test_a_run_that_has_just_begun(run: Path) -> None:
    for name in ("metrics.jsonl", "validation.jsonl", "incidents.jsonl", "step-000020/checkpoint.json"):
        (run / name).unlink()
    (run / "step-000040/checkpoint.json").unlink()
    text = printed(str(run))
    assert "step 0 of 200 (0%)" in text
    assert "no checkpoint yet" in text


def test_looking_does_without_torch(run: Path) -> None:
    code = f"import sys; from cluster.progress import look; look({str(run)!r}); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


# ---------------------------------------------------------------- jobs


class Place:
    """What a job's name says happens to it."""

    def condition(self, job_id: str) -> Condition:
        if job_id == "dead":
            raise RunError("http://10.0.0.1:8265 doesn't answer: is the cluster up?")
        if job_id == "broken":
            raise KeyError("status")
        if job_id == "hangs":
            threading.Event().wait(60)
        if job_id == "waits":
            return Condition(State.WAITING, "Resources: 8 nodes are wanted [2 are free]")
        return Condition(State.FAILED, "exit code 1") if job_id == "fails" else Condition(State.RUNNING)

    def logs(self, job_id: str, lines: int) -> str:
        if job_id == "fails":
            raise RunError("its logs were removed")
        return "[red]not markup[/]"

    def stop(self, job_id: str) -> None:
        raise AssertionError("not asked for")


@pytest.fixture
def places(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("cluster.seen", "cluster.job_page", "cluster.jobs_view"):
        monkeypatch.setattr(f"{module}.backend", lambda to, cluster: Place())


@pytest.mark.usefixtures("places")
def test_places_that_are_away_are_told_of_beside_the_others(
    half_done: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seen, "PATIENCE", 2.0)
    for job_id in ("dead", "broken", "hangs", "waits", "fails"):
        hand_in(f"curate-{job_id}", job_id=job_id)
    hand_in("curate-well", home=half_done.folder)
    text = " ".join(printed(width=160).split())
    for told in (
        "unknown http://10.0.0.1:8265 doesn't answer: is the cluster up?",
        "unknown KeyError: 'status'",
        "unknown no answer within 2 s",
        "waiting Resources: 8 nodes are wanted [2 are free]",
        "failed exit code 1",
        "running measure 27 of 60 clips (50%) 3 failed",
    ):
        assert told in text


@pytest.mark.usefixtures("places")
def test_a_page_is_there_whatever_is_away() -> None:
    hand_in("curate-dead", job_id="dead", home="/not/here")
    text = printed("curate-dead")
    assert "curate-dead  unknown" in text
    assert "Nothing is to be seen of /not/here yet, or not from this machine." in text
    hand_in("curate-fails", job_id="fails")
    assert "No log: its logs were removed" in printed("curate-fails")
    hand_in("curate-well")
    assert "[red]not markup[/]" in printed("curate-well")


@pytest.mark.usefixtures("places")
def test_a_stalled_job_is_told_of(half_done: Dataset) -> None:
    hand_in("curate-stalled", home=half_done.folder)
    half_done.at(f"{SCORES}/part-2.parquet", datetime.now(UTC).timestamp())
    assert "may be stuck" not in printed(width=160)
    past = (datetime.now(UTC) - timedelta(minutes=25)).timestamp()
    for path in Path(half_done.folder).rglob("*.*"):
        os.utime(path, (past, past))
    assert "nothing was written for 25 min: it may be stuck" in printed(width=160)
    hand_in("curate-stalled", home=half_done.folder, job_id="fails")
    assert "stuck" not in printed(width=160)  # it is known to have ended


def test_records_are_found_and_can_be_handed_in_again(state: Path) -> None:
    slurm = load_cluster("", ["slurm.partition=gpu", "slurm.env.A=b"])
    argv = ("curate", "s3://raw/*.mp4", "--out", "s3://bucket/talkers")
    record = hand_in("curate-talkers", to="slurm", home="s3://bucket/talkers", argv=argv, cluster=slurm)
    assert records.find("curate-talkers") == record == records.find("s3://bucket/talkers/")
    with pytest.raises(UsageError, match="Did you mean 'curate-talkers'"):
        records.find("curate-talker")
    command = records.again(record)
    assert command.startswith("s2v submit curate 's3://raw/*.mp4' --out s3://bucket/talkers --to slurm --name")
    assert load_cluster(command.split()[-1], []) == slurm
    assert state.stat().st_mode & 0o077 == 0


@pytest.mark.usefixtures("places")
def test_a_damaged_record_hides_no_other(state: Path) -> None:
    assert "No job was handed in" in printed()
    hand_in("curate-well")
    (state / "jobs" / "old.json").write_text('{"name": "old"}')
    text = " ".join(printed(width=200).split())
    assert "old.json can't be read" in text
    assert "curate-well running" in text


def test_where_state_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("S2V_STATE")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "xdg"))
    assert records.state() == tmp_path / "xdg" / "s2v"
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("S2V_STATE", str(tmp_path / "file" / "s2v"))
    with pytest.raises(UsageError, match="S2V_STATE"):
        records.state()


def test_words() -> None:
    assert [span(s) for s in (25, 720, 3600, 6840, 273_600)] == ["25 s", "12 min", "1 h", "1 h 54 min", "3 d 4 h"]
    assert sparkline([1.0, 2.0, 3.0, 4.0], 4) == "▁▃▆█"
    assert sparkline([2.0, None], 2) == "▁ "
    assert sparkline([], 10) == ""
    assert len(sparkline([float(i) for i in range(1000)], 72)) == 72
