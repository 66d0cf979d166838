"""`s2v preflight`: on this machine, on a store, on the nodes of a cluster; and what its table says of a thousand."""

import io
import os
import re
import secrets
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from cluster import across
from cluster import preflight as module
from cluster.checks import Check, guarded
from cluster.checks.gpus import all_reduce, complaint, judge
from cluster.checks.machine import limits, room, shared_memory
from cluster.checks.node import Answer, Asked, compare, look
from cluster.checks.recipe import servers_answer, weights_there
from cluster.checks.store import leave_mark, round_trip, sees_mark, store_clock, sweep
from cluster.job import Condition, Job, State
from cluster.kuberay import KubeRayJobs
from cluster.nodes import enough, relative
from cluster.preflight import as_job, follow, preflight
from cluster.preflight_report import show
from cluster.settings import Cluster, Training
from cluster.slurm import SlurmJobs
from curation.recipe import Recipe, load_recipe
from curation.run import changed
from dataset.errors import UsageError
from tests.captioning.fake_server import FakeServer

EMBEDDED = load_recipe("embedded")


def table(answers: list[Answer]) -> tuple[bool, str]:
    console = Console(file=io.StringIO(), width=160)
    return show(answers, console), console.file.getvalue()  # type: ignore[attr-defined]


# ---------------------------------------------------------------- one machine


def test_this_machine_is_ready_and_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    console = Console(file=io.StringIO(), width=160)
    assert preflight("", str(tmp_path / "new"), "local", Cluster(), console)
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    for name in ("GPUs", "all-reduce", "codecs", "limits", "object store", "weights", "versions", "shared memory"):
        assert name in printed
    assert "Ready (this machine)" in printed
    assert not list(tmp_path.iterdir())


def test_a_full_disk(tmp_path: Path) -> None:
    folder = str(tmp_path / "made" / "later")
    assert room("disk", folder, "free some", wanted=0, least=0).verdict == "ok"
    assert room("disk", folder, "free some", wanted=1e9, least=0).verdict == "warn"
    full = room("disk", folder, "free some", wanted=1e9, least=1e9)
    assert (full.verdict, full.remedy) == ("bad", "free some")


def test_small_limits() -> None:
    assert shared_memory(wanted=1e9).verdict == "bad"
    assert "--shm-size" in shared_memory(wanted=1e9).remedy
    low = limits(files=10**12, processes=0)
    assert low.verdict == "warn"
    assert "ulimit -n" in low.what


def test_processes_sum_over_gloo() -> None:
    good = all_reduce(2, "gloo", 1)
    assert (good.verdict, good.numbers[0] > 0) == ("ok", True)


def test_of_a_failed_sum_the_reason_is_told() -> None:
    errors = """[rank0]: Traceback (most recent call last):
[rank0]:   File "all_reduce.py", line 24, in main
[rank0]: torch.distributed.DistBackendError: NCCL error: unhandled system error
E0101 torch.distributed.elastic.multiprocessing.errors.ChildFailedError: all_reduce FAILED
"""
    assert complaint(errors) == "torch.distributed.DistBackendError: NCCL error: unhandled system error"
    assert complaint("Killed\n") == "Killed"


def test_gpus() -> None:
    row = ["NVIDIA H100 80GB HBM3", "81559", "3", "570.1"]
    good = judge([row] * 8, 8, 8)
    assert (good.verdict, good.what) == ("ok", "8 x NVIDIA H100 80GB HBM3, 80 GiB, driver 570.1")
    assert "7 seen, of 8" in judge([row] * 7, 8, 7).what
    assert "torch can use none" in judge([row] * 8, 8, 0).what
    assert judge([row, [row[0], "81559", "70000", "570.1"]], 2, 2).verdict == "warn"


def test_a_check_that_fails_is_bad_and_the_others_go_on() -> None:
    def broken() -> Check:
        raise OSError("no such device")

    assert guarded("disk", broken).what == "can't be checked: OSError: no such device"


# ---------------------------------------------------------------- the recipe


def test_missing_weights_name_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert weights_there(EMBEDDED).verdict == "ok"
    monkeypatch.setenv("S2V_CACHE", str(tmp_path))
    monkeypatch.delenv("S2V_WEIGHTS", raising=False)
    small = weights_there(EMBEDDED)
    assert (small.verdict, "will be fetched from" in small.what) == ("warn", True)
    large = weights_there(load_recipe("paper"))
    assert (large.verdict, "s2v weights pull --recipe paper" in large.remedy) == ("bad", True)


def with_servers(*urls: str) -> Recipe:
    return EMBEDDED.model_copy(update={"captioning": changed(EMBEDDED.captioning, {"servers": urls})})


def test_caption_servers() -> None:
    assert servers_answer(EMBEDDED, None).verdict == "skipped"
    with FakeServer() as fake:
        assert servers_answer(with_servers(fake.url), None).verdict == "ok"
        assert servers_answer(with_servers(fake.url, "http://127.0.0.1:9"), None).verdict == "warn"
    silent = servers_answer(with_servers("http://127.0.0.1:9"), None)
    assert (silent.verdict, silent.what) == ("bad", "no answer from http://127.0.0.1:9")


def test_gpus_that_the_recipe_wants_and_no_node_has() -> None:
    answers = compare([Answer("a", [Check("GPUs", "skipped", "none")])], {}, load_recipe("paper"))
    assert "wants 0.25 of a GPU" in table(answers)[1]
    answers = compare([Answer("a", [Check("GPUs", "ok", "8 x H100")]), Answer("b", [])], {}, load_recipe("paper"))
    assert "wants" not in table(answers)[1]


# ---------------------------------------------------------------- the store


@pytest.fixture(scope="module")
def store() -> Iterator[str]:
    """An S3 server with the bucket `there`."""
    import fsspec
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", "http://{}:{}".format(*server.get_host_and_port()))
        patch.setenv("AWS_ACCESS_KEY_ID", "x")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "x")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        fs = fsspec.filesystem("s3")
        fs.clear_instance_cache()
        fs = fsspec.filesystem("s3")
        fs.mkdir("there")
        yield "s3://there/data"
        fs.clear_instance_cache()
    server.stop()


def test_an_object_store(store: str) -> None:
    import fsspec

    found = round_trip(store, "t")
    assert (found.verdict, len(found.numbers)) in (("ok", 4), ("warn", 4))  # a busy machine may be slow
    assert store_clock(store).verdict == "ok"
    leave_mark(store, "t")
    assert sees_mark(store, "t").verdict == "ok"
    sweep(store, "t")
    assert not fsspec.filesystem("s3").find("there")


def test_a_bucket_that_is_not_there(store: str) -> None:
    found = round_trip("s3://nowhere/data", "t")
    assert found.verdict == "bad"
    assert "make the bucket" in f"{found.what} {found.remedy}".lower()


def test_a_place_that_is_another_one_on_this_node(tmp_path: Path) -> None:
    leave_mark(str(tmp_path / "first"), "t")
    assert sees_mark(str(tmp_path / "second"), "t").verdict == "bad"
    (tmp_path / "file").write_text("")
    assert round_trip(str(tmp_path / "file" / "data"), "t").verdict == "bad"


# ---------------------------------------------------------------- many nodes


def fleet(count: int) -> list[Answer]:
    checks = [Check("disk", "ok", "{} GB free")]
    versions = {"python": "3.11.9", "ray": "2.60.0"}
    return [Answer(f"n{i}", [replace(checks[0], numbers=(800.0 + i % 7,))], versions) for i in range(count)]


def test_a_thousand_alike_nodes_are_one_line_and_the_odd_ones_are_named() -> None:
    answers = fleet(1000)
    answers[17] = replace(answers[17], versions={"python": "3.11.9", "ray": "2.59.0"})
    answers[23].checks[0] = replace(answers[23].checks[0], numbers=(90.0,))
    good, printed = table(compare(answers, {}, None))
    assert not good
    lines = [line for line in printed.splitlines() if line.strip()]
    assert len(lines) < 12
    assert "90 on n23 to 806 GB free" in printed
    assert "999 of 1,000" in printed
    (odd,) = (line for line in lines if "2.59.0" in line)
    assert odd.split()[:3] == ["BAD", "versions", "n17"]
    assert "others: 2.60.0" in odd


def test_a_clock_that_is_wrong_is_named() -> None:
    offsets = {"n0": 40.0, "n1": 40.1, "n2": 47.5, "n3": -900.0}  # the one that asks is 40 s behind
    answers = compare(fleet(4), relative(offsets), None)
    verdicts = {a.node: next(c.verdict for c in a.checks if c.name == "clocks of nodes") for a in answers}
    assert verdicts == {"n0": "ok", "n1": "ok", "n2": "warn", "n3": "bad"}


THREE_NODES = """
import os, sys
import ray
from ray.cluster_utils import Cluster
import cli

small = {"num_cpus": 1, "object_store_memory": 80 << 20}
cluster = Cluster(initialize_head=True, head_node_args={**small, "include_dashboard": False})
cluster.add_node(**small)
cluster.add_node(**small, num_gpus=2)  # which it hasn't
os.environ["RAY_ADDRESS"] = cluster.address
try:
    cli.main(["preflight", *sys.argv[1:]])
finally:
    ray.shutdown()
    cluster.shutdown()
"""


def beside_ray(program: str, *words: str) -> subprocess.CompletedProcess:
    """In a process of its own: Ray remembers the token of the first cluster that a process meets."""
    env = {**os.environ, "RAY_AUTH_TOKEN": secrets.token_hex(20), "COLUMNS": "160"}
    command = [sys.executable, "-c", program, *words]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)


def test_every_node_of_a_cluster_and_the_network_between_them(tmp_path: Path) -> None:
    training = ("--train", "--with", "training.nodes=3", "--with", "training.gpus_per_node=0")
    done = beside_ray(THREE_NODES, str(tmp_path / "new"), *training)
    printed = done.stdout
    assert done.returncode == 1, printed + done.stderr
    assert "0 seen, of 2" in printed
    assert "is the same everywhere" in printed
    assert "3 with a CPU each, of 3 that training.nodes wants" in printed
    assert re.search(
        r"ok +all-reduce over nodes +all 3 +gloo over 3 nodes, \S+ GB/s: 1 GB is added up in \S+ s", printed
    )
    assert "Not ready: GPUs on 3 nodes" in printed
    assert printed.count("codecs") == 1
    assert not list(tmp_path.iterdir())


ONE_WITHOUT_NETWORK = """
import ray
from ray.cluster_utils import Cluster
from cluster.across import across
from cluster.nodes import sit

small = {"num_cpus": 1, "object_store_memory": 80 << 20}
cluster = Cluster(initialize_head=True, head_node_args={**small, "include_dashboard": False})
cluster.add_node(**small)
cluster.add_node(**small, resources={"odd": 1}, env_vars={"GLOO_SOCKET_IFNAME": "nowhere0"})
ray.init(cluster.address, log_to_driver=False)
try:
    nodes = {("odd" if "odd" in node["Resources"] else node["NodeID"]): sit(node) for node in ray.nodes()}
    for name, check in across(nodes, 0, 60).items():
        print(name, check.verdict, check.what)
finally:
    ray.shutdown()
    cluster.shutdown()
"""


@pytest.mark.real  # processes wait for the one that doesn't come
def test_the_node_that_others_do_not_reach_is_named() -> None:
    done = beside_ray(ONE_WITHOUT_NETWORK)
    assert re.fullmatch(
        "odd bad gloo over 3 nodes fails, and this one gets through to no other: .*nowhere0\n", done.stdout
    ), done.stdout + done.stderr


@pytest.mark.parametrize(("count", "broken"), [(3, {1}), (4, {0}), (5, {4}), (8, {2, 3}), (4, {0, 1, 2, 3}), (2, {1})])
def test_who_is_told_that_the_sum_failed(count: int, broken: set[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """One that gets through to neither neighbour; all, where that tells nothing."""
    bad = {f"n{i}" for i in broken}

    def sums(sitting: object, groups: list[list[str]], *rest: object) -> dict[str, float | str]:
        return {name: "timed out" if bad & set(group) else 1.0 for group in groups for name in group}

    monkeypatch.setattr(across, "sums", sums)
    names = [f"n{i}" for i in range(count)]
    for pairs in across.rounds(names):
        assert len({name for pair in pairs for name in pair}) == 2 * len(pairs)
    told = across.across(dict.fromkeys(names), 8)
    assert set(told) == (bad if 0 < len(bad) < count and count > 2 else set(names))
    assert {check.verdict for check in told.values()} == {"bad"}


def test_a_slow_network_between_nodes() -> None:
    slow = across.judged("nccl over 4 nodes", 2.0, 32)
    assert (slow.verdict, "NCCL_SOCKET_IFNAME" in slow.remedy) == ("warn", True)
    assert "nccl over 4 nodes, 2 GB/s: 1 GB is added up in 0.97 s" in table([Answer("n", [slow])])[1]


def test_too_few_nodes_for_training() -> None:
    short = enough(3, Training(nodes=4, gpus_per_node=8))
    assert (short.verdict, short.what) == ("bad", "3 with 8 GPUs each, of 4 that training.nodes wants")


# ---------------------------------------------------------------- elsewhere


class Told:
    """A place whose job ends at the second look."""

    def __init__(self, end: State):
        self.states = [State.RUNNING, end]

    def condition(self, job_id: str) -> Condition:
        return Condition(self.states.pop(0))

    def logs(self, job_id: str, lines: int) -> str:
        return "BAD [codecs]"


@pytest.mark.parametrize(("end", "good"), [(State.SUCCEEDED, True), (State.FAILED, False)])
def test_elsewhere_the_log_of_a_job_is_shown(end: State, good: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAUSE", 0)
    console = Console(file=io.StringIO(), width=160)
    assert follow(Told(end), "job", console) is good  # type: ignore[arg-type]
    assert "BAD [codecs]" in console.file.getvalue()  # type: ignore[attr-defined]


def test_the_job_has_the_same_arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text("name: mine\nfilters: [header]\n")
    job = as_job("mine.yaml", "data", ["http://gpu-1:8000"])
    recipe = tmp_path / "mine.yaml"
    assert job.argv == (
        *("preflight", str(tmp_path / "data"), "--recipe", str(recipe)),
        *("--caption-server", "http://gpu-1:8000"),
    )
    assert (job.kind, job.home, job.files) == ("preflight", str(tmp_path / "data"), (recipe,))


def test_a_job_for_training_has_the_nodes_of_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("run").mkdir()
    Path("run/run.json").touch()
    images = {"curation": "c", "trainer": "t"}
    cluster = Cluster.model_validate({"training": {"nodes": 8}, "images": images, "slurm": {"nodes": 2}})
    handed: list[Job] = []
    monkeypatch.setattr(module, "elsewhere", lambda job, *rest: handed.append(job) or True)
    preflight("", "run", "slurm", cluster, Console())  # a run, of which nobody needs to be told
    preflight("", "new", "slurm", cluster, Console(), train=True)
    preflight("", "data", "slurm", cluster, Console())
    sizes = ("--train", "--with", "training.nodes=8", "--with", "training.gpus_per_node=8")
    assert [job.argv[2:] for job in handed] == [sizes, sizes, ()]
    assert [SlurmJobs(cluster).size(job) for job in handed] == [(8, 8), (8, 8), (2, 0)]
    assert [KubeRayJobs(cluster).image(job) for job in handed] == ["t", "t", "c"]
    assert [[g.count for _, g in KubeRayJobs(cluster).workers(job)] for job in handed] == [[8], [8], [2]]
    with pytest.raises(UsageError, match="no recipe"):
        preflight("paper", "new", "slurm", cluster, Console(), train=True)


def test_one_node_needs_no_dataset_and_no_recipe() -> None:
    answer = look(Asked(None, "", "t"), os.uname().nodename)
    assert {"object store", "weights"}.isdisjoint(check.name for check in answer.checks)
    assert all(check.verdict != "bad" for check in answer.checks)
