from pathlib import Path

import numpy as np
import pytest

from filters.nets.face_crop import face_crops
from filters.nets.mfcc import mfcc
from tests.conftest import shared

torch = pytest.importorskip("torch", reason="Light-ASD needs torch")

from filters.nets.light_asd import DURATIONS, FPS, LightASD, load, rounded, scores, visual_embeddings  # noqa: E402

FRAME = 640  # samples of sound per video frame
MORE = 160  # samples that the last frame's fourth row of coefficients needs beyond it


@pytest.fixture(scope="module")
def golden() -> Path:
    return shared("golden/light_asd")


@pytest.fixture(scope="module")
def official(golden) -> LightASD:
    return load(golden / "pretrain_AVA_CVPR.model")


@pytest.fixture(scope="module")
def talk(golden) -> dict[str, np.ndarray]:
    return dict(np.load(golden / "real_wda_kh_130f.npz"))


@pytest.fixture(scope="module")
def untrained() -> LightASD:
    torch.manual_seed(1)
    return LightASD().eval()


def clip(frames: int, samples: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Noise to see and to hear, by default just long enough that every frame gets a score."""
    draw = np.random.default_rng(frames)
    faces = draw.integers(0, 256, (frames, 112, 112), dtype=np.uint8)
    sound = draw.integers(-9000, 9000, frames * FRAME + MORE if samples is None else samples, dtype=np.int16)
    return faces, sound


@torch.inference_mode()
def as_upstream(net: LightASD, faces: np.ndarray, sound: np.ndarray) -> np.ndarray:
    """Every chunk of every duration through the whole network; every frame has its four rows of coefficients."""
    seen, heard = torch.tensor(faces), torch.tensor(mfcc(sound))
    runs = []
    for length in (FPS * seconds for seconds in DURATIONS):
        chunks = [slice(start, start + length) for start in range(0, len(faces), length)]
        runs.append(torch.cat([net.judge(net.hear(heard[4 * c.start : 4 * c.stop]), net.see(seen[c])) for c in chunks]))
    return torch.stack(runs).mean(dim=0).numpy()


def test_coefficients_equal_python_speech_features(golden):
    stored = np.load(golden / "mfcc.npz")
    assert mfcc(stored["wav"]) == pytest.approx(stored["mfcc"], abs=1e-9)
    assert mfcc(np.zeros(4000, np.int16)) == pytest.approx(stored["mfcc_zero"], abs=1e-9)


@pytest.mark.parametrize(("samples", "rows"), [(0, 0), (1, 1), (400, 1), (401, 2), (560, 2), (561, 3), (16000, 99)])
def test_the_last_row_of_coefficients_may_be_part_zeros(samples, rows):
    found = mfcc(np.ones(samples, np.int16))
    assert found.shape == (rows, 13)
    assert np.isfinite(found).all()


def test_crops_equal_the_official_geometry(golden):
    stored = np.load(golden / "crop_geometry.npz")
    frames = [np.zeros((360, 480, 3), np.uint8)] * 30
    for at in (0, 12, 29):
        frames[at] = stored[f"frame{at}"][..., ::-1]  # stored as BGR
    crops = face_crops(frames, stored["boxes"])
    for at, name in ((0, "crop_first"), (12, "crop_12"), (29, "crop_29")):
        assert np.array_equal(crops[at], stored[name])


@pytest.mark.parametrize("frames", [1, 3, 6, 7, 13])
def test_a_short_track_is_cropped_where_its_box_is(frames):
    picture = np.zeros((200, 300, 3), np.uint8)
    picture[80:140, 100:160] = 255
    crops = face_crops([picture] * frames, np.tile([100.0, 80.0, 160.0, 140.0], (frames, 1)))
    assert crops.shape == (frames, 112, 112)
    assert crops[:, 95, 56].min() > 250  # a little above the chin
    assert crops[:, -1, 56].max() < 5  # below it


@pytest.mark.parametrize("x", [-100, 10, 290, 500])
def test_what_lies_beyond_the_frame_is_grey(x):
    crops = face_crops([np.full((200, 300, 3), 255, np.uint8)], np.array([[x - 40.0, 60, x + 40, 140]]))
    outside = 0 if x < 150 else -1
    assert (crops[0, :, outside] == 110).all()


def test_boxes_that_cannot_be_used():
    frames = [np.zeros((20, 20, 3), np.uint8)] * 2
    with pytest.raises(ValueError, match="2 frames need boxes"):
        face_crops(frames, np.zeros((3, 4)))
    with pytest.raises(ValueError, match="no frame has a face"):
        face_crops(frames, np.full((2, 4), np.nan))


def test_embeddings_equal_upstream(golden, official):
    stored = np.load(golden / "synthetic_37f.npz")
    with torch.inference_mode():
        heard = official.hear(torch.tensor(mfcc(stored["audio_int16"])))
        _, seen = visual_embeddings(official, torch.tensor(stored["visual"]))
        whole = official.judge(heard, seen)
    assert heard.numpy() == pytest.approx(stored["ava_audio_embed"], abs=1e-4)
    assert seen.numpy() == pytest.approx(stored["ava_visual_embed"], abs=1e-4)
    assert whole.numpy() == pytest.approx(stored["ava_scores_whole"], abs=1e-4)


@pytest.mark.parametrize("name", ["synthetic_37f", "real_wda_kh_130f"])
def test_scores_equal_upstream(golden, official, name):
    stored = np.load(golden / f"{name}.npz")
    found = scores(official, stored["visual"], stored["audio_int16"])
    assert found.dtype == np.float32
    assert found == pytest.approx(stored["ava_scores_mean"], abs=1e-4)
    assert rounded(found) == pytest.approx(stored["ava_scores_upstream_rounded"], abs=1e-6)


def test_sharing_the_visual_network_changes_nothing(official, talk):
    faces, sound = talk["visual"][50:78], talk["audio_int16"][50 * FRAME : 78 * FRAME + MORE]
    assert scores(official, faces, sound) == pytest.approx(as_upstream(official, faces, sound), abs=1e-5)


@pytest.mark.parametrize("frames", [1, 7])
def test_sharing_is_exact_for_any_length(untrained, frames):
    faces, sound = clip(frames)
    assert scores(untrained, faces, sound) == pytest.approx(as_upstream(untrained, faces, sound), abs=1e-5)


@pytest.mark.parametrize(
    ("frames", "samples", "scored"),
    [
        (1, FRAME + MORE, 1),
        (1, FRAME, 0),
        (5, 40 * FRAME, 5),
        (40, 5 * FRAME, 4),
        (40, 0, 0),
        (0, FRAME, 0),
    ],
)
def test_the_shorter_of_sound_and_video_is_scored(untrained, frames, samples, scored):
    faces, sound = clip(frames, samples)
    found = scores(untrained, faces, sound)
    assert found.shape == (scored,)
    assert found == pytest.approx(scores(untrained, faces[:scored], sound), abs=1e-6)


def test_silence_is_not_speech(official, talk):
    silent = scores(official, talk["visual"][:40], np.zeros(40 * FRAME + MORE, np.int16))
    assert np.mean(talk["ava_scores_mean"][:40] > 0) > 0.6
    assert silent.max() < -1


def test_scaled_sound_and_coloured_faces_are_refused(untrained):
    faces, sound = clip(2)
    with pytest.raises(ValueError, match="int16"):
        scores(untrained, faces, sound / np.float32(32768))
    with pytest.raises(ValueError, match="112"):
        scores(untrained, np.stack([faces] * 3, axis=-1), sound)


def test_names_and_shapes_are_the_official_ones(golden, untrained):
    rows = (golden / "state_dict.tsv").read_text().splitlines()[1:]
    listed = {name: shape for name, shape, _ in (row.split("\t") for row in rows)}
    assert {name: str(list(tensor.shape)) for name, tensor in untrained.state_dict().items()} == listed


@pytest.mark.parametrize("fault", ["missing", "added", "reshaped", "nested", "no tensors"])
def test_other_weights_are_refused(tmp_path, untrained, fault):
    weights = untrained.state_dict()
    first = "lossAV.FC.bias"
    faulty = {
        "missing": {name: weights[name] for name in weights if name != first},
        "added": {**weights, "epoch": 3},
        "reshaped": {**weights, first: torch.zeros(3)},
        "nested": {"state_dict": weights},
        "no tensors": [1, 2],
    }
    torch.save(faulty[fault], tmp_path / "asd.model")
    with pytest.raises(ValueError, match=r"names or shapes differ.*pretrain_AVA_CVPR"):
        load(tmp_path / "asd.model")


def test_a_damaged_file_is_refused(tmp_path):
    (tmp_path / "asd.model").write_bytes(b"<html>not found</html>")
    with pytest.raises(ValueError, match="can't be read"):
        load(tmp_path / "asd.model")
