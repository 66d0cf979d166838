import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="SyncNet needs torch")

from dataset.tracks import Tracks  # noqa: E402
from filters import weights  # noqa: E402
from filters.nets import syncnet  # noqa: E402
from filters.nets.face_crop import face_regions  # noqa: E402
from filters.nets.syncnet import REACH, Fit, evaluate, fit, load  # noqa: E402
from filters.syncnet import FRAMES, SyncNet  # noqa: E402
from tests.filters.builders import nobody, person, scores, texture, view  # noqa: E402

# Official names and shapes of what is learnt: module, and the weights of its numbered layers.
OFFICIAL = {
    "netcnnaud": {
        0: (64, 1, 3, 3), 4: (192, 64, 3, 3), 8: (384, 192, 3, 3), 11: (256, 384, 3, 3), 14: (256, 256, 3, 3),
        18: (512, 256, 5, 4),
    },
    "netcnnlip": {
        0: (96, 3, 5, 7, 7), 4: (256, 96, 1, 5, 5), 8: (256, 256, 1, 3, 3), 11: (256, 256, 1, 3, 3),
        14: (256, 256, 1, 3, 3), 18: (512, 256, 1, 6, 6),
    },
    "netfcaud": {0: (512, 512), 3: (1024, 512)},
    "netfclip": {0: (512, 512), 3: (1024, 512)},
}  # fmt: skip


@pytest.fixture(scope="module")
def official(tmp_path_factory):
    """A file in the official layout, with random weights."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("syncnet") / "syncnet_v2.model"
    torch.save(syncnet.SyncNet().state_dict(), path)
    return path


def test_names_and_shapes_are_the_official_ones():
    held = {name: tuple(tensor.shape) for name, tensor in syncnet.SyncNet().state_dict().items()}
    for module, layers in OFFICIAL.items():
        for layer, shape in layers.items():
            assert held[f"{module}.{layer}.weight"] == shape
    learnt = [name for name in held if name.endswith("weight") and len(held[name]) > 1]
    assert len(learnt) == sum(map(len, OFFICIAL.values()))


@pytest.mark.parametrize("late", [-4, 0, 3])
def test_a_known_offset_is_found_with_its_sign(late):
    seen = torch.randn(60, 16)
    heard = torch.roll(seen, late, 0)
    found = fit(seen, heard)
    assert found.offset == late
    assert found.distance < 1.5
    assert found.confidence > 3
    assert fit(seen, torch.randn(60, 16)).confidence < found.confidence / 2


def test_distances_are_those_of_upstream_formula():
    """Zeros beyond the ends count, and the mean is over windows, then the least over offsets."""
    seen, heard = torch.randn(7, 5), torch.randn(7, 5)
    padded = torch.cat([torch.zeros(REACH, 5), heard, torch.zeros(REACH, 5)])
    curve = [(seen - padded[k : k + 7] + 1e-6).norm(dim=1).mean().item() for k in range(2 * REACH + 1)]
    expected = Fit(float(np.median(curve) - min(curve)), min(curve), int(np.argmin(curve)) - REACH)
    found = fit(seen, heard)
    assert found.offset == expected.offset
    assert (found.confidence, found.distance) == pytest.approx((expected.confidence, expected.distance), abs=1e-5)


@torch.inference_mode()
def test_one_pass_equals_a_run_for_each_window(official, monkeypatch):
    net = load(official)
    faces = np.random.default_rng(0).integers(0, 255, (9, 224, 224, 3), np.uint8)
    pictures = torch.from_numpy(faces).movedim(-1, 1)
    windows = torch.cat([net.see(pictures[i : i + 5]) for i in range(5)])
    assert net.see(pictures).numpy() == pytest.approx(windows.numpy(), abs=1e-4)
    sound = np.random.default_rng(1).normal(0, 3000, 640 * 9).astype(np.int16)
    whole = evaluate(net, faces, sound)
    monkeypatch.setattr(syncnet, "CHUNK", 2)
    pieces = evaluate(net, faces, sound)
    assert (pieces.confidence, pieces.distance) == pytest.approx((whole.confidence, whole.distance), abs=1e-4)
    assert evaluate(net, faces[:5], sound) is None


def test_the_filter_judges_whoever_is_seen_for_long_enough(official, monkeypatch):
    monkeypatch.setattr(weights, "path", {"syncnet/syncnet_v2.model": official}.__getitem__)
    images = [texture(90, 120, seed=i % 3) for i in range(55)]
    sound = np.random.default_rng(0).normal(0, 0.1, 16000 * 2 + 6400).astype(np.float32)
    shown = view({FRAMES: images}, tracks=person(count=55), audio=sound)
    assert SyncNet.name() == "syncnet"
    assert all(np.isfinite(value) for value in scores(SyncNet(), shown).values())
    nothing = {"confidence": None, "distance": None, "offset": None}
    assert scores(SyncNet(least_seconds=3), shown) == nothing
    for tracks, audio in ((nobody(55), sound), (person(count=55), None), (Tracks.empty(np.arange(55) / 25), sound)):
        assert scores(SyncNet(), view({FRAMES: images}, tracks=tracks, audio=audio)) == nothing


def test_another_file_is_refused(tmp_path):
    torch.save({"a": torch.zeros(1)}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match="doesn't hold SyncNet"):
        load(tmp_path / "a.pth")
    (tmp_path / "b.pth").write_bytes(b"no weights")
    with pytest.raises(ValueError, match="can't be read"):
        load(tmp_path / "b.pth")


def test_regions_keep_colours():
    image = np.zeros((200, 300, 3), np.uint8)
    image[..., 0] = 200
    (region,) = face_regions([image], np.array([[100.0, 60.0, 180.0, 140.0]]))
    assert region.shape == (224, 224, 3)
    assert (region[112, 112] == (200, 0, 0)).all()
