"""Curation on a real Ray cluster of several nodes: its jobs, and what the loss of a machine does to them."""

import shutil
import threading
from collections.abc import Callable
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from cluster.job import Job, State
from cluster.ray_jobs import RayJobs
from cluster.settings import Caption, Cluster, RayCluster, Training
from curation.layout import CLIPS, FAILURES, SCORES, read
from dataset.errors import RunError, UsageError
from tests.cluster import nodes, ray_cluster
from tests.videos import write_video

CLIPS_THERE = 24
Connect = Callable[[ray_cluster.RayCluster], RayJobs]


class Shop:
    """Videos, a recipe with a filter beside it, and the job that curates them."""

    def __init__(self, folder: Path):
        self.folder, self.dataset, self.log, self.hurry = (folder / n for n in ("", "dataset", "log", "hurry"))
        (folder / "videos").mkdir()
        for i in range(CLIPS_THERE):
            picture = lambda t, i=i: np.full((64, 64, 3), 40 + 3 * i + 20 * t, np.uint8)  # noqa: E731
            write_video(folder / "videos" / f"{i:02d}.mp4", 1, picture=picture, fps=5)
        shutil.copy(nodes.__file__, folder)
        (folder / "policy.yaml").write_text("name: all\nrules: []\n")
        where = {"nodes.py:Where": {"log": str(self.log), "hurry": str(self.hurry)}}
        recipe = {"name": "slow", "policy": "policy.yaml", "filters": ["header", where], "shard_clips": 16}
        (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))

    @property
    def job(self) -> Job:
        files = tuple(self.folder / name for name in ("recipe.yaml", "policy.yaml", "nodes.py"))
        words = ("curate", str(self.folder / "videos"), "--out", str(self.dataset), "--recipe", str(files[0]))
        return Job("curate", "curate-shop", words, str(self.dataset), files)

    def begun(self) -> list[tuple[str, str, str]]:
        """On which node, with which file, which clip."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [(node, file, clip) for node, file, clip in map(str.split, lines)]

    def count(self, node: ray_cluster.Node | None = None) -> int:
        return sum(node is None or name == node.name for name, _, _ in self.begun())

    def check(self) -> None:
        for name in (CLIPS, SCORES):
            ids = read(str(self.dataset), name)["clip_id"].to_pylist()
            assert len(ids) == len(set(ids)) == CLIPS_THERE, name
        assert pq.read_table(self.dataset / "shards" / "index.parquet").num_rows == CLIPS_THERE
        assert read(str(self.dataset), FAILURES).num_rows == 0


@pytest.fixture
def connect(monkeypatch: pytest.MonkeyPatch) -> Connect:
    def connected(cluster: ray_cluster.RayCluster) -> RayJobs:
        monkeypatch.setenv("RAY_AUTH_TOKEN", cluster.token)
        return RayJobs(Cluster(ray=RayCluster(address=cluster.address)))

    return connected


def state(jobs: RayJobs, name: str) -> State:
    return jobs.condition(name).state


def test_a_node_is_killed_and_others_come(tmp_path: Path, connect: Connect) -> None:
    """What it was doing is done elsewhere, and the run grows beyond what it started with."""
    shop = Shop(tmp_path)
    with ray_cluster.RayCluster(2) as cluster:
        jobs = connect(cluster)
        name = jobs.submit(shop.job)
        ended = lambda: jobs.condition(name).ended  # noqa: E731
        cluster.wait(lambda: all(map(shop.count, cluster.nodes[1:])) or ended())
        cluster.nodes[1].kill()
        new = cluster.start_all(2)
        cluster.wait(lambda: all(map(shop.count, new)) or ended())
        assert not ended(), jobs.logs(name, 50)
        shop.hurry.touch()
        cluster.wait(ended)
        assert state(jobs, name) is State.SUCCEEDED, jobs.logs(name, 50)
        records = list(cluster.records())
    shop.check()
    assert any("Measure" in r["task_name"] and r["name"] == "s2v.measure" for r in records if r.get("actor_id"))
    copies = {file for _, file, _ in shop.begun()}
    assert len(copies) == 4, "every node finds the job's files in a folder of its own"


@pytest.mark.real
def test_the_head_is_killed_and_another_cluster_goes_on(tmp_path: Path, connect: Connect) -> None:
    shop = Shop(tmp_path)
    with ray_cluster.RayCluster(1) as cluster:
        jobs = connect(cluster)
        name = jobs.submit(shop.job)
        cluster.wait(lambda: shop.count() > 2 or jobs.condition(name).ended)
        cluster.nodes[0].kill()
        with pytest.raises(RunError, match="doesn't answer"):
            jobs.condition(name)
    finished = read(str(shop.dataset), SCORES)["clip_id"].to_pylist()
    assert 0 < len(finished) < CLIPS_THERE
    shop.hurry.touch()
    with ray_cluster.RayCluster(1) as cluster:
        jobs = connect(cluster)
        assert state(jobs, name) is State.GONE
        assert jobs.submit(shop.job) == name
        cluster.wait(lambda: jobs.condition(name).ended)
        assert state(jobs, name) is State.SUCCEEDED, jobs.logs(name, 50)
    shop.check()
    measured = [clip for *_, clip in shop.begun()]
    assert all(measured.count(clip) == 1 for clip in finished)


@pytest.mark.real
def test_a_cluster_takes_who_has_its_token_and_a_name_once(
    tmp_path: Path, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    def job(*words: str) -> Job:
        return Job("curate", "one", ("curate", *words))

    with ray_cluster.RayCluster() as cluster:
        jobs = connect(cluster)
        (tmp_path / "token").write_text("that-of-another-cluster")
        for variable, value, told in (
            ("RAY_AUTH_TOKEN", "", "asks for a token: export RAY_AUTH_TOKEN"),
            ("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"), "refuses the token"),
            ("RAY_AUTH_TOKEN_PATH", str(tmp_path / "none"), "can't be read"),
        ):
            monkeypatch.setenv(variable, value)
            with pytest.raises(RunError, match=told):
                RayJobs(jobs.cluster).submit(job("--help"))
        jobs = connect(cluster)

        assert jobs.submit(job("--help")) == "one"
        cluster.wait(lambda: jobs.condition("one").ended)
        assert jobs.condition("one").state is State.SUCCEEDED
        assert "Usage" in jobs.logs("one", 1000)

        jobs.submit(job("videos"))
        cluster.wait(lambda: jobs.condition("one").ended)
        assert jobs.condition("one").state is State.FAILED
        assert "exit code 2" in jobs.condition("one").detail
        assert "--out" in jobs.condition("one").detail + jobs.logs("one", 20)
        assert "Options" not in jobs.logs("one", 1000), "the log is that of this job alone"

        (tmp_path / "videos").mkdir()
        write_video(tmp_path / "videos" / "a.mp4", 1, fps=5)
        waiting = job(str(tmp_path / "videos"), "--out", str(tmp_path / "data"))  # for a node with a CPU
        jobs.submit(waiting)
        cluster.wait(lambda: state(jobs, "one") is State.RUNNING)
        with pytest.raises(RunError, match=r"A job one runs there already.*--name"):
            jobs.submit(waiting)
        jobs.stop("one")
        cluster.wait(lambda: jobs.condition("one").ended)
        assert state(jobs, "one") is State.STOPPED
        assert state(jobs, "none") is State.GONE


def test_what_is_no_ray_cluster_says_so() -> None:
    (port,) = ray_cluster.free_ports(1)
    with pytest.raises(RunError, match="doesn't answer"):
        RayJobs(Cluster(ray=RayCluster(address=f"http://127.0.0.1:{port}"))).condition("one")
    with pytest.raises(UsageError, match="that of the dashboard"):
        RayJobs(Cluster(ray=RayCluster(address="ray://head:10001")))
    server = ThreadingHTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with pytest.raises(RunError, match="isn't a Ray dashboard"):
        RayJobs(Cluster(ray=RayCluster(address=f"http://127.0.0.1:{server.server_port}"))).condition("one")
    server.shutdown()


@pytest.mark.parametrize("kind", ["curate", "train", "caption-server"])
def test_what_is_sent_is_printed(kind: str) -> None:
    """Golden files: a change of them is a change of what clusters get."""
    cluster = Cluster(
        ray=RayCluster(address="http://ray.example.com:8265/", env={"HF_HOME": "/shared/hf"}),
        training=Training(nodes=8, least=6),
    )
    recipe = Path("/home/me/my recipe.yaml")
    words = {
        "curate": ("curate", "s3://raw/*.mp4", "--out", "s3://bucket/talkers", f"--recipe={recipe}"),
        "train": ("train", "--stage", "speech", "--data", "/shared/latents", "--out", "/shared/speech"),
        "caption-server": ("caption", "serve", "--gpus", "8", "--host", "0.0.0.0", "--port", "8000"),
    }
    home = {"curate": "s3://bucket/talkers", "train": "/shared/speech"}.get(kind, "")
    job = Job(kind, f"{kind}-one", words[kind], home, (recipe,) if kind == "curate" else ())  # type: ignore[arg-type]
    golden = Path(__file__).parent / "golden" / f"ray-{kind}.yaml"
    assert RayJobs(cluster).render(job) == golden.read_text()


def test_several_caption_servers_are_several_jobs() -> None:
    cluster = Cluster(caption=Caption(replicas=2))
    with pytest.raises(UsageError, match=r"caption\.replicas=2.*--name"):
        RayJobs(cluster).render(Job("caption-server", "captions", ("caption", "serve")))
