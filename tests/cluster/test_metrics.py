"""The numbers that Prometheus gets: they are right, and the dashboard, the alerts and the guide ask for no others."""

import json
import re
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from curation.layout import CAPTIONS, CLIPS, FAILURES, SCORES, VERDICTS, read
from curation.metrics import COMMON, COUNTERS
from tests.captioning.fake_server import FakeServer
from tests.cluster.ray_cluster import ROOT, RayCluster, free_ports
from tests.videos import clicks, moving_square, write_video

DASHBOARD = json.loads((ROOT / "cluster" / "grafana" / "s2v.json").read_text())
GUIDE = (ROOT / "docs" / "observability.md").read_text()
PLUGINS = ROOT / "tests" / "curation" / "plugins.py"
RAYS = {  # metrics of Ray that the dashboard and the alerts ask for, and that a cluster without GPUs has
    "ray_cluster_active_nodes",
    "ray_data_num_alive_actors",
    "ray_data_num_tasks_finished",
    "ray_data_num_tasks_in_flight",
    "ray_data_operator_estimated_total_rows",
    "ray_node_cpu_utilization",
    "ray_node_disk_utilization_percentage",
    "ray_node_mem_total",
    "ray_node_mem_used",
    "ray_object_store_available_memory",
    "ray_object_store_used_memory",
}
NOT_HERE = {  # nodes have GPUs, or have been lost; a caption server is vLLM
    "ray_cluster_failed_nodes",
    "ray_node_gpus_utilization",
    "ray_node_gram_available",
    "ray_node_gram_used",
    "vllm:kv_cache_usage_perc",
    "vllm:num_requests_running",
    "vllm:num_requests_waiting",
}


class Scrapes:
    """All that the nodes of a cluster have shown, as Prometheus would ask them; of each series the newest value."""

    def __init__(self, cluster: RayCluster):
        self.cluster = cluster
        self.samples: dict[tuple, Sample] = {}

    def look(self) -> "Scrapes":
        groups = self.ask(f"{self.cluster.address}/api/prometheus/sd", Authorization=f"Bearer {self.cluster.token}")
        for target in [target for group in json.loads(groups or "[]") for target in group["targets"]]:
            for family in text_string_to_metric_families(self.ask(f"http://{target}/metrics")):
                for sample in family.samples:
                    self.samples[target, sample.name, *sorted(sample.labels.items())] = sample
        return self

    def ask(self, url: str, **headers: str) -> str:
        try:
            with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=30) as answer:
                return answer.read().decode()
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return ""

    @property
    def names(self) -> set[str]:
        return {sample.name for sample in self.samples.values()}

    def sum(self, name: str, **labels: str) -> float:
        rows = (s for s in self.samples.values() if s.name == f"ray_{name}" and labels.items() <= s.labels.items())
        return round(sum(s.value for s in rows), 3)


@pytest.fixture(scope="module")
def curated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Scrapes, list[dict]]]:
    """A dataset that was made on a cluster, what was scraped, and what the workers logged."""
    folder = tmp_path_factory.mktemp("curated")
    videos, dataset = folder / "videos", folder / "talkers"
    videos.mkdir()
    for name, seconds in {"good_1": 2, "good_2": 3, "raise": 4}.items():
        write_video(videos / f"{name}.mp4", seconds, picture=moving_square, sound=clicks(seconds))
    write_video(videos / "short.mp4", 0.6, picture=moving_square, sound=clicks(0.6))
    write_video(videos / "silent.mp4", 2, picture=moving_square, sound=0 * clicks(2))
    (videos / "broken.mp4").write_bytes(b"no video")
    rules = [
        {"score": "header.duration", "min": 1, "source": "test"},
        {"score": "loudness.peak", "min": 0.1, "source": "test"},
    ]
    (folder / "policy.yaml").write_text(yaml.safe_dump({"name": "test", "rules": rules}))
    filters = ["header", f"{PLUGINS}:Loudness", f"{PLUGINS}:Brightness", f"{PLUGINS}:Trouble"]
    recipe = {"name": "test", "policy": str(folder / "policy.yaml"), "filters": filters}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    with RayCluster(1) as cluster, FakeServer() as fake:
        command = [sys.executable, "-m", "cli", "curate", str(videos), "--out", str(dataset)]
        command += ["--recipe", str(folder / "recipe.yaml"), "--caption-server", fake.url]
        env = cluster.environment | {"RAY_ADDRESS": f"127.0.0.1:{cluster.head.port}"}
        run = subprocess.Popen(command, env=env, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        scrapes = Scrapes(cluster)
        cluster.wait(lambda: scrapes.look() and run.poll() is not None, seconds=300, pause=2)
        assert run.returncode == 0, run.communicate()[0]
        cluster.wait(lambda: scrapes.look().sum("s2v_clips_total", stage="pack") and scrapes.names >= RAYS)
        lines = [line for file in cluster.folder.glob("*/session_2*/logs/worker-*.err") for line in file.open()]
        yield str(dataset), scrapes, [json.loads(line) for line in lines if line.startswith("{")]


def test_counters_are_what_the_tables_say(curated):
    dataset, scrapes, _ = curated
    clips = {row["clip_id"]: row["end"] - row["start"] for row in read(dataset, CLIPS).to_pylist()}
    failures = read(dataset, FAILURES).to_pylist()
    verdicts = read(dataset, VERDICTS).to_pylist()
    scores = read(dataset, SCORES).to_pylist()
    captions = read(dataset, CAPTIONS).to_pylist()

    def through(stage: str, outcome: str) -> tuple[float, float]:
        labels = {"stage": stage, "outcome": outcome, "dataset": "talkers"}
        return scrapes.sum("s2v_clips_total", **labels), scrapes.sum("s2v_video_seconds_total", **labels)

    def of(ids: list[str]) -> tuple[float, float]:
        return len(ids), pytest.approx(sum(clips[i] for i in ids), abs=1e-2)

    assert sorted(f["stage"] for f in failures) == ["ingest", "measure"], failures
    assert scrapes.sum("s2v_sources_total", outcome="done") == 5
    assert scrapes.sum("s2v_sources_total", outcome="failed") == 1
    assert through("ingest", "done") == of(list(clips))
    assert through("measure", "done") == of([v["clip_id"] for v in verdicts if v["keep"]])
    assert through("measure", "rejected") == of([v["clip_id"] for v in verdicts if not v["keep"]])
    assert through("measure", "failed") == of([f["clip_id"] for f in failures if f["clip_id"]])
    assert through("caption", "done") == of([row["clip_id"] for row in captions])
    packed = pq.read_table(f"{dataset}/shards/index.parquet")["clip_id"].to_pylist()
    assert len(packed) == 2
    assert through("pack", "done") == of(packed)
    for name, score in (("header", "header.duration"), ("loudness", "loudness.peak")):
        broken = [v for v in verdicts if v["reasons"] and v["reasons"][0]["filter"] == name]
        assert scrapes.sum("s2v_rejects_total", filter=name, score=score) == len(broken) == 1
    for name in ("header", "loudness", "brightness", "decode"):
        spent = [dict(row["ms"])[name] / 1000 for row in scores if name in dict(row["ms"])]
        assert scrapes.sum("s2v_filter_clips_total", filter=name) == len(spent)
        assert scrapes.sum("s2v_filter_seconds_total", filter=name) == pytest.approx(sum(spent), abs=1e-2)
    for name, column in (("decode_opens", "opens"), ("frames_decoded", "decoded"), ("frames_shown", "frames")):
        assert scrapes.sum(f"s2v_{name}_total") == sum(row[column] for row in scores) > 0
    for kind in ("prompt", "completion"):
        assert scrapes.sum("s2v_caption_tokens_total", kind=kind) == sum(row[f"{kind}_tokens"] for row in captions) > 0
    assert scrapes.sum("s2v_caption_tries_total") == sum(row["tries"] for row in captions) > 0
    assert {f"ray_{c.name}" for c in COUNTERS} <= scrapes.names


def test_workers_log_what_happened_to_a_clip(curated):
    dataset, _, lines = curated
    reasons = {v["clip_id"]: v["reasons"][0] for v in read(dataset, VERDICTS).to_pylist() if not v["keep"]}
    told = [line for line in lines if line["message"] == "clip rejected"]
    assert {line["clip_id"]: {key: line[key] for key in reasons[line["clip_id"]]} for line in told} == reasons
    failures = [(line["stage"], line["dataset"], line["levelname"]) for line in lines if line["message"] == "failure"]
    assert sorted(failures) == [("ingest", "talkers", "WARNING"), ("measure", "talkers", "WARNING")]
    started = {line["stage"] for line in lines if line["message"] == "worker starts"}
    assert started == {"ingest", "measure", "caption", "pack"}
    parts = [line for line in lines if line["message"] == "part written" and line["stage"] == "pack"]
    assert [(line["part"], line["clips"]) for line in parts] == [("000000.tar", 2)]


def asked_for(expression: str) -> set[str]:
    """The metrics that an expression asks for."""
    bare = re.sub(r'"[^"]*"|\b(by|on|ignoring|group_left|without) ?\([^)]*\)|\[[^]]*\]|\{[^}]*\}', " ", expression)
    return set(re.findall(r"\b[a-z]\w*(?:_|:)\w+\b(?! ?\()", bare))


def queries() -> Iterator[str]:
    for panel in DASHBOARD["panels"]:
        yield from (target["expr"] for target in panel.get("targets", []))
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["definition"].removeprefix("label_values(").rsplit(",", 1)[0]


def alerts() -> Iterator[str]:
    for text in re.findall(r"```yaml\n(.*?)```", GUIDE, re.DOTALL):
        for group in yaml.safe_load(text)["spec"].get("groups", []):
            yield from (rule["expr"] for rule in group["rules"])


def trains() -> dict[str, Any]:
    prometheus = pytest.importorskip("trainer.prometheus")
    return {shown.name: shown for shown in (prometheus.STEP, prometheus.WHEN, *prometheus.SHOWN.values())}


def test_dashboard_and_alerts_ask_for_metrics_that_are_there(curated):
    _, scrapes, _ = curated
    asked = set().union(*map(asked_for, [*queries(), *alerts()]))
    ours = {f"ray_{counter.name}" for counter in COUNTERS} | trains().keys()
    assert scrapes.names >= RAYS
    assert asked - ours == RAYS | NOT_HERE
    assert len(list(alerts())) > 3


def test_labels_that_are_asked_for_are_declared():
    declared = {f"ray_{c.name}": {*COMMON, *c.labels, "SessionName"} for c in COUNTERS}
    declared |= {name: {"run", shown.label} for name, shown in trains().items()}
    for expression in [*queries(), *alerts()]:
        for name, labels in re.findall(r"(\w+)\{([^}]*)\}", expression):
            if name in declared:
                assert set(re.findall(r"(\w+)=", labels)) <= declared[name], expression


def test_panels_are_explained_and_none_hides_another():
    panels = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    taken = set()
    for panel in panels:
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        at = panel["gridPos"]
        here = {(at["x"] + i, at["y"] + j) for i in range(at["w"]) for j in range(at["h"])}
        assert not here & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= here


def test_the_guide_has_all_metrics_as_they_are_declared():
    rows = set(re.findall(r"^\| `(\w+)` \| (.*?) \| (.*?) \|$", GUIDE, re.MULTILINE))
    assert rows == {(f"ray_{c.name}", ", ".join(c.labels), c.help) for c in COUNTERS}
    gauges = re.findall(r"`(s2v_train_\w+)`(?: by (\w+))?", " ".join(GUIDE.split()))
    assert sorted(gauges) == sorted((name, shown.label) for name, shown in trains().items())


def test_a_run_serves_its_newest_numbers(tmp_path):
    prometheus = pytest.importorskip("trainer.prometheus")
    (port,) = free_ports(1)
    served = prometheus.Prometheus(tmp_path / "speech", port)
    served.scalars(1, {"train/loss": 3.0})
    served.scalars(2, {"train/loss": 2.5, "speed/memory_gb": 70.0, "time/data": 0.5, "time/forward": 1.0})
    served.scalars(2, {"validation/full": 1.0, "validation/audio_gap": 0.25, "validation_noise_1_at_0.50/full": 9.0})
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        families = text_string_to_metric_families(answer.read().decode())
    rows = {(s.name, *(v for k, v in s.labels.items() if k != "run")): s for f in families for s in f.samples}
    assert {sample.labels["run"] for sample in rows.values()} == {"speech"}
    assert rows.pop(("s2v_train_last_step_timestamp_seconds",)).value > 1e9
    assert {key: sample.value for key, sample in rows.items()} == {
        ("s2v_train_step",): 2,
        ("s2v_train_loss",): 2.5,
        ("s2v_train_gpu_memory_bytes",): 70e9,
        ("s2v_train_step_part_seconds", "data"): 0.5,
        ("s2v_train_step_part_seconds", "forward"): 1.0,
        ("s2v_train_validation_loss", "full"): 1.0,
        ("s2v_train_audio_gap",): 0.25,
    }
    with pytest.raises(OSError, match="in use"):
        prometheus.Prometheus(tmp_path / "other", port)
    served.close()
    prometheus.Prometheus(tmp_path / "other", port).close()
