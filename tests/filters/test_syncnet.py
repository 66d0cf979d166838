import zlib

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="SyncNet needs torch")

from dataset.tracks import Tracks  # noqa: E402
from filters import weights  # noqa: E402
from filters.active_speaker import enlarged, pcm16  # noqa: E402
from filters.nets import syncnet  # noqa: E402
from filters.nets.face_crop import face_regions  # noqa: E402
from filters.nets.syncnet import REACH, evaluate, fit, load  # noqa: E402
from filters.syncnet import FRAMES, SyncNet  # noqa: E402
from tests.filters.builders import FACE_BOX, nobody, person, scores, texture, view  # noqa: E402

# Official names and shapes: module, and the weights of its numbered layers. A batch norm follows each but the last of
# the linear ones.
OFFICIAL: dict[str, dict[int, tuple[int, ...]]] = {
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


def official_shapes():
    shapes: dict[str, tuple[int, ...]] = {}
    for module, layers in OFFICIAL.items():
        for layer, shape in layers.items():
            norm = () if len(shape) == 2 and layer == 3 else ("weight", "bias", "running_mean", "running_var")
            shapes |= {f"{module}.{layer}.weight": shape, f"{module}.{layer}.bias": shape[:1]}
            shapes |= {f"{module}.{layer + 1}.{leaf}": shape[:1] for leaf in norm}
    return shapes


def drawn(name, shape):
    """Values that depend on the name alone, but for some: colours and coefficients are brought down to about one, and
    both embeddings lie to one side of zero, as then the best offset isn't one beyond the ends of the sound."""
    noise = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape).astype(np.float32)
    constant = {"netcnnlip.1.running_var": 1e4, "netcnnaud.1.running_var": 300, "netfcaud.3.bias": 5}
    constant["netfclip.3.bias"] = constant["netfcaud.3.bias"]
    if name in constant:
        return np.full(shape, constant[name], np.float32)
    if len(shape) == 1:
        return 0.05 * noise if name.endswith(("bias", "mean")) else 1 + 0.1 * noise
    return noise * np.float32(np.sqrt(2 / np.prod(shape[1:])))


@pytest.fixture(scope="module")
def official(tmp_path_factory):
    """A file as the official one: its names, torch's format of before 1.6, no counts of batches."""
    path = tmp_path_factory.mktemp("syncnet") / "syncnet_v2.model"
    state = {name: torch.from_numpy(drawn(name, shape)) for name, shape in official_shapes().items()}
    torch.save(state, path, _use_new_zipfile_serialization=False)
    return path


def moving_faces(count):
    """(T, 224, 224, 3) uint8 whose three colours move apart."""
    t, y, x = np.mgrid[:count, :224, :224]
    return np.stack([3 * x + 5 * t + y // 2, 2 * y + x // 3 + 11 * t, (x - 40) ** 2 // 64 + 7 * t], -1).astype(np.uint8)


def growing_noise(samples):
    """(samples,) int16."""
    return (np.random.RandomState(1).standard_normal(samples) * np.linspace(20, 6000, samples)).astype(np.int16)


def test_names_and_shapes_are_the_official_ones():
    state = syncnet.SyncNet().state_dict()
    assert {n: tuple(it.shape) for n, it in state.items() if not n.endswith("batches_tracked")} == official_shapes()


def test_scores_equal_upstream(official):
    """The numbers are those of upstream's `SyncNetInstance.evaluate` at commit 6efbb1c, on these weights and clip."""
    found = evaluate(load(official), moving_faces(14), growing_noise(640 * 13 + 200))
    assert found is not None
    assert found.offset == 0
    assert (found.confidence, found.distance) == pytest.approx((56.26941, 148.18120), rel=1e-4)


def test_batches_change_nothing(official, monkeypatch):
    net, faces, sound = load(official), moving_faces(10), growing_noise(640 * 10)
    whole = evaluate(net, faces, sound)
    monkeypatch.setattr(syncnet, "CHUNK", 2)
    pieces = evaluate(net, faces, sound)
    assert whole is not None
    assert pieces is not None
    assert (pieces.confidence, pieces.distance) == pytest.approx((whole.confidence, whole.distance), abs=1e-4)
    assert evaluate(net, faces[:5], sound) is None
    assert evaluate(net, faces, sound[: 640 * 6 - 1]) is None


def test_other_shapes_and_types_are_refused(official):
    net, faces, sound = load(official), moving_faces(1), growing_noise(640)
    with pytest.raises(ValueError, match="faces are"):
        evaluate(net, faces[:, :112, :112], sound)
    with pytest.raises(ValueError, match="sound is"):
        evaluate(net, faces, sound / 32768)


@pytest.mark.parametrize("late", [-4, 0, 3])
def test_a_known_offset_is_found_with_its_sign(late):
    seen = torch.randn(60, 16)
    heard = torch.roll(seen, late, 0)
    found = fit(seen, heard)
    assert found.offset == late
    assert found.distance < 1.5
    assert found.confidence > 3
    assert fit(seen, torch.randn(60, 16)).confidence < found.confidence / 2


def test_beyond_the_ends_of_the_sound_lies_zero():
    seen, heard = torch.randn(7, 5), torch.randn(7, 5)
    padded = torch.cat([torch.zeros(REACH, 5), heard, torch.zeros(REACH, 5)])
    curve = [(seen - padded[k : k + 7] + 1e-6).norm(dim=1).mean().item() for k in range(2 * REACH + 1)]
    found = fit(seen, heard)
    assert found.offset == int(np.argmin(curve)) - REACH
    expected = float(np.median(curve)) - min(curve), min(curve)
    assert (found.confidence, found.distance) == pytest.approx(expected, abs=1e-5)


def test_the_filter_judges_the_face_that_fits_best(official, monkeypatch):
    monkeypatch.setattr(weights, "path", {"syncnet/syncnet_v2.model": official}.__getitem__)
    count, first = 14, 3  # faces are found from frame 8 on, and bridged for five frames before
    images = [texture(90, 120, seed=i) for i in range(count)]
    sound = growing_noise(640 * count + 300).astype(np.float32) / 32768
    found_in = np.where(np.arange(count)[:, None] < 8, np.nan, 1)
    left, right = (person(count=count, face=found_in * face) for face in ((0.1, 0.2, 0.4, 0.6), FACE_BOX))
    parts = [(it.keypoints, it.boxes, it.faces) for it in (left, right)]
    both = Tracks(left.times, np.arange(2), *map(np.concatenate, zip(*parts, strict=True)))
    short = SyncNet(least_seconds=0.4)
    alone = [scores(short, view({FRAMES: images}, tracks=it, audio=sound)) for it in (left, right)]
    assert alone[0] != alone[1]
    best = max(alone, key=lambda found: found["confidence"] or 0.0)
    assert scores(short, view({FRAMES: images}, tracks=both, audio=sound)) == pytest.approx(best)

    boxes = np.tile(np.array(FACE_BOX) * (120, 90, 120, 90), (count - first, 1))
    faces = face_regions(images[first:], enlarged(boxes))
    direct = evaluate(load(official), faces, pcm16(sound)[640 * first :])
    assert direct is not None
    expected = {"confidence": direct.confidence, "distance": direct.distance, "offset": direct.offset / 25}
    assert alone[1] == pytest.approx(expected, rel=1e-4)


def test_the_filter_gives_the_offset_in_seconds(official, monkeypatch, tmp_path):
    state = torch.load(official, weights_only=True)
    state["netfclip.3.bias"] *= -1  # lips lie far from all sound, so the best offset is beyond its start
    torch.save(state, tmp_path / "apart.model")
    monkeypatch.setattr(weights, "path", lambda name: tmp_path / "apart.model")
    shown = view({FRAMES: [texture(90, 120)] * 10}, tracks=person(count=10), audio=np.zeros(6400, np.float32))
    assert scores(SyncNet(least_seconds=0.4), shown)["offset"] == -0.6


def test_the_filter_leaves_out_what_it_can_not_judge(official, monkeypatch):
    monkeypatch.setattr(weights, "path", {"syncnet/syncnet_v2.model": official}.__getitem__)
    images, sound = [texture(90, 120)] * 45, np.zeros(640 * 45, np.float32)
    nothing = {"confidence": None, "distance": None, "offset": None}
    for tracks, audio in ((nobody(45), sound), (person(count=45), None), (person(count=45), sound)):
        assert scores(SyncNet(), view({FRAMES: images}, tracks=tracks, audio=audio)) == nothing
    assert SyncNet.name() == "syncnet"


def test_another_file_is_refused(official, tmp_path):
    state = torch.load(official, weights_only=True)
    del state["netfclip.3.bias"]
    torch.save(state, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"doesn't hold SyncNet: 1 names .* netfclip.3.bias"):
        load(tmp_path / "a.pth")
    (tmp_path / "b.pth").write_bytes(b"no weights")
    with pytest.raises(ValueError, match="can't be read"):
        load(tmp_path / "b.pth")
    torch.save(torch.nn.Linear(1, 1), tmp_path / "c.pth")
    with pytest.raises(ValueError, match="can't be read"):
        load(tmp_path / "c.pth")


def test_regions_keep_colours():
    image = np.zeros((200, 300, 3), np.uint8)
    image[..., 0] = 200
    (region,) = face_regions([image], np.array([[100.0, 60.0, 180.0, 140.0]]))
    assert region.shape == (224, 224, 3)
    assert (region[112, 112] == (200, 0, 0)).all()
