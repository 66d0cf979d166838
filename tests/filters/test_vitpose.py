"""The pose filter of the paper: its tracker and layouts on made inputs, its networks with random weights."""

from pathlib import Path

import numpy as np
import pytest

from dataset.draw import draw_overlay, draw_pose
from dataset.media import Sampler
from dataset.tracks import BODY, FACE, LEFT_HAND, RIGHT_HAND, Tracks
from filters import weights
from filters.faces import visible
from filters.nets import dwpose
from filters.nets.box_tracker import BoxTrack, track_boxes
from filters.nets.layouts import face_box, from_coco, from_whole_body
from filters.pose import FRAMES, Pose
from filters.vitpose import RT_DETR, VITPOSE, Vitpose, beat, between, dense_boxes, settled
from tests.filters.builders import view
from tests.filters.tiny_onnx import write_pose

LOOKS = 5  # a second
PERSON = np.array([-30, -90, 30, 90.0])  # a box around its middle


def at(x: float, y: float = 180) -> np.ndarray:
    return PERSON + np.tile([x, y], 2)


def joined(*looks: list[np.ndarray]) -> list[BoxTrack]:
    """Tracks of what was found at each look."""
    return track_boxes([np.array(boxes).reshape(-1, 4) for boxes in looks], range(len(looks)), np.arange(99) / LOOKS)


def columns(track: BoxTrack) -> list[float]:
    return [float(box[[0, 2]].mean()) for _, box in sorted(track.boxes.items())]


# ---------------------------------------------------------------- tracking


def test_two_who_cross_stay_themselves():
    """One hides the other for two looks; the detector names them in any order."""
    there, back = 100 + 30 * np.arange(12), 440 - 30 * np.arange(12)
    looks = [[at(a), at(b)] if n % 2 else [at(b), at(a)] for n, (a, b) in enumerate(zip(there, back, strict=True))]
    looks[5], looks[6] = [at(there[5])], [at(there[6])]
    one, two = sorted(joined(*looks), key=lambda t: columns(t)[0])
    assert columns(one) == there.tolist()
    assert columns(two) == np.delete(back, [5, 6]).tolist()


def test_of_two_who_meet_the_one_in_front_stays_the_same():
    """The other is hidden for the rest of the clip."""
    there, back = 100 + 30 * np.arange(5), 360 - 30 * np.arange(5)
    front = [[at(230)]] * 8
    one, two = joined(*([at(a), at(b)] for a, b in zip(there, back, strict=True)), [at(240)], *front, [at(230)])
    assert sorted((len(one.boxes), len(two.boxes))) == [5, 15]


def test_a_miss_keeps_the_person_and_is_bridged():
    (track,) = joined([at(100)], [at(130)], [], [at(190)], [at(220)])
    times = np.arange(25) / 25
    looked = BoxTrack(0, {5 * n: box for n, box in track.boxes.items()}, track.last, 0.8, track.velocity)
    boxes = dense_boxes(looked, times, gap=0.5)
    assert np.isfinite(boxes).all()
    np.testing.assert_allclose(boxes[:21, [0, 2]].mean(axis=1), 100 + 30 * np.arange(21) / 5)


def test_who_leaves_and_returns_is_the_same_person():
    gone = [[]] * 4  # 1 s from box to box
    (track,) = joined([at(500)], [at(560)], [at(600)], *gone, [at(590)], [at(540)])
    assert len(track.boxes) == 5
    boxes = dense_boxes(track, np.arange(9) / LOOKS, gap=0.5)
    assert np.isnan(boxes[4:7]).all()  # but nobody is made up meanwhile
    late = [[]] * 10
    assert [t.id for t in joined([at(600)], [at(600)], *late, [at(600)])] == [0, 1]


def test_who_begins_to_run_is_not_lost():
    (track,) = joined([at(100)], [at(105)], [at(155)], [at(215)], [at(275)])
    assert len(track.boxes) == 5


def test_a_newcomer_is_somebody_new_and_a_second_box_is_not():
    tracks = joined([at(100)], [at(100), at(104, 182)], [at(100), at(300)])
    assert [t.id for t in tracks] == [0, 1]
    assert columns(tracks[1]) == [300]


def test_looks_keep_their_beat_at_any_rate():
    assert beat(np.arange(25) / 25, 5) == [0, 5, 10, 15, 20]
    assert beat(np.arange(4) / 2, 5) == [0, 1, 2, 3]
    assert beat(np.arange(0.0), 5) == []


@pytest.mark.parametrize("rate", [10, 15, 16, 23.976, 25, 29.97, 59.94, 60])
@pytest.mark.parametrize("fps", [12.5, 25])
def test_a_face_shows_in_every_frame_at_any_rate(rate, fps):
    """Frames of most rates are taken from the file at uneven times."""
    sampler = Sampler(FRAMES)
    times = np.array([time for n in range(100) if sampler.wants(time := n / rate)])
    moments = beat(times, fps)
    path = between(moments, {i: np.full((1, 2), times[i]) for i in moments}, (1, 2), times)
    np.testing.assert_allclose(path[: moments[-1], 0, 0], times[: moments[-1]])
    assert np.isfinite(path).all()
    if fps == 25:
        assert moments == list(range(len(times)))


def test_a_face_is_not_made_up_where_it_was_not_seen():
    x = between([0, 2, 4, 6], {0: np.zeros((1, 2)), 6: np.ones((1, 2))}, (1, 2), np.arange(8) / 25)[:, 0, 0]
    np.testing.assert_array_equal(x, [0, 0, np.nan, np.nan, np.nan, np.nan, 1, 1])


# ---------------------------------------------------------------- layouts


def test_coco_becomes_openpose():
    """COCO: nose, eyes, ears, shoulders, elbows, wrists, hips, knees, ankles, the left one first."""
    coco = np.stack([np.arange(17.0), 10 * np.arange(17.0), np.full(17, 0.9)], axis=1)
    coco[6, 2] = 0.5
    body = from_coco(coco)
    assert body[:, 0].tolist() == [0, 5.5, 6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3]
    assert body[1].tolist() == [5.5, 55, 0.5]  # the neck, as sure as the less sure shoulder
    coco[5, 2] = 0.3
    assert from_coco(coco)[1, 2] == 0


def test_whole_bodies_lose_their_feet():
    whole = np.repeat(np.arange(133.0)[:, None], 3, axis=1)
    joints = from_whole_body(whole)
    assert joints[FACE, 0].tolist() == list(range(23, 91))
    assert joints[LEFT_HAND, 0].tolist() == list(range(91, 112))
    assert joints[RIGHT_HAND, 0].tolist() == list(range(112, 133))


def head(eyes: float = 38, confidence: float = 0.9) -> np.ndarray:
    """(128, 3) nose and eyes of somebody who looks straight ahead, the face 100 pixels high."""
    joints = np.zeros((128, 3))
    joints[[0, 14, 15]] = (200, 120, confidence), (200 - eyes / 2, 100, confidence), (200 + eyes / 2, 100, confidence)
    return joints


def test_a_face_box_reaches_from_the_hairline_to_the_chin():
    joints = head()
    joints[FACE] = np.column_stack([np.linspace(160, 240, 68), np.linspace(80, 150, 68), np.full(68, 0.8)])
    np.testing.assert_allclose(face_box(joints), [160, 80 - 0.19 * 70, 240, 150])
    joints[FACE, 2] = 0.1  # turned away
    assert face_box(joints) is None


def test_without_face_points_the_head_tells_where_the_face_is():
    box = face_box(head())
    assert box is not None
    x0, y0, x1, y1 = box
    assert (x0 + x1) / 2 == pytest.approx(200)
    assert (x1 - x0, y1 - y0) == pytest.approx((84, 100))
    assert y0 < 100 < 120 < y1
    profile = face_box(head(eyes=10))
    assert profile is not None
    assert 60 < profile[3] - profile[1] < 100
    assert face_box(head(confidence=0.2)) is None


def test_a_point_that_is_not_seen_does_not_pull_on_those_that_are():
    path = np.stack([np.arange(5.0), np.zeros(5), np.full(5, 0.9)], axis=1)[:, None]
    path[2] = (-400, 300, 0.05)
    np.testing.assert_allclose(settled(path)[2, 0], [2, 0, 0.05])


# ---------------------------------------------------------------- networks


torch = pytest.importorskip("torch", reason="ViTPose needs torch")
transformers = pytest.importorskip("transformers", reason="ViTPose needs transformers")


@pytest.fixture(scope="module")
def snapshots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights: an RT-DETR that takes whatever it looks at for people, a ViTPose, and DWPose's pose network."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("weights")
    stages = {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1], "out_features": ["stage2", "stage3", "stage4"]}
    config = transformers.RTDetrConfig(
        backbone_config=transformers.RTDetrResNetConfig(embedding_size=8, layer_type="basic", **stages),
        encoder_in_channels=[8, 16, 16], encoder_hidden_dim=16, encoder_ffn_dim=16, encoder_attention_heads=2,
        decoder_in_channels=[16] * 3, d_model=16, decoder_ffn_dim=16, decoder_layers=1, decoder_attention_heads=2,
        num_queries=4, id2label={0: "dog", 1: "person"}, label2id={"dog": 0, "person": 1},
    )  # fmt: skip
    detector = transformers.RTDetrForObjectDetection(config)
    for layer in detector.model.decoder.class_embed:
        layer.bias.data = torch.tensor([-5.0, 5.0])
    detector.save_pretrained(folder / RT_DETR)
    backbone = transformers.VitPoseBackboneConfig(
        image_size=[64, 48], hidden_size=16, num_hidden_layers=1, num_attention_heads=2, out_features=["stage1"]
    )
    body = transformers.VitPoseForPoseEstimation(transformers.VitPoseConfig(backbone_config=backbone, num_labels=17))
    body.head.conv.bias.data.fill_(0.6)
    body.save_pretrained(folder / VITPOSE)
    write_pose(folder / dwpose.POSE)
    return folder


@pytest.fixture
def clip_frames() -> list[np.ndarray]:
    """Half a second: a bright patch that moves over noise."""
    draw = np.random.default_rng(0)
    ground = draw.integers(0, 120, (180, 320, 3), dtype=np.uint8)
    frames = [ground.copy() for _ in range(13)]
    for n, frame in enumerate(frames):
        frame[60:140, 100 + n : 140 + n] = 250
    return frames


def measured(filter_: Vitpose, frames: list[np.ndarray]) -> tuple[dict, Tracks]:
    filter_.setup()
    clip = view({FRAMES: frames})
    found = filter_.measure(clip)
    assert isinstance(found, Pose.Scores)
    assert clip.tracks is not None
    assert clip.looked is not None
    assert clip.looked.frames == 8  # of 13: every second for poses, every fifth for people
    return found.model_dump(), clip.tracks


@pytest.mark.parametrize("details", [True, False])
def test_a_clip_through_all_networks(snapshots, clip_frames, monkeypatch, details):
    asked = []
    monkeypatch.setattr(weights, "path", lambda name: asked.append(name) or snapshots / name)
    filter_ = Vitpose(details=details, max_people=2)
    scores, tracks = measured(filter_, clip_frames)
    assert sorted(asked) == sorted(filter_.chosen_weights())
    assert 1 <= scores["people"] == len(tracks.ids) <= 2
    assert scores["longest"] == 1.0
    assert (tracks.keypoints[..., BODY, 2] > 0).any()
    seen = np.isfinite(tracks.boxes[..., 0])
    assert (tracks.boxes[seen] >= 0).all()
    assert (tracks.boxes[seen] <= 1).all()
    outside = ((tracks.keypoints[..., :2] < 0) | (tracks.keypoints[..., :2] > 1)).any(axis=-1)
    assert (tracks.keypoints[outside, 2] == 0).all()
    for part in (FACE, LEFT_HAND, RIGHT_HAND):
        assert (tracks.keypoints[..., part, 2] > 0).any() == details
    back = Tracks.from_row(tracks.to_row("c"))
    np.testing.assert_array_equal(visible(back), visible(tracks))
    drawn = draw_pose(back, 0.2, 180, 320)
    assert drawn.any()
    assert draw_overlay(clip_frames[0], back, 0.2).shape == drawn.shape


def test_the_detector_names_people_alone(snapshots, clip_frames):
    from filters.nets.people_detector import RTDetrDetector

    find = RTDetrDetector(snapshots / RT_DETR)
    (boxes,) = find(clip_frames[:1])
    assert boxes.shape == (4, 4)
    find._person = [0]
    assert find(clip_frames[:1])[0].shape == (0, 4)


def test_poses_do_not_depend_on_their_batch(snapshots, clip_frames):
    from filters.nets.vitpose import VitposeNet

    pose = VitposeNet(snapshots / VITPOSE)
    boxes = np.array([[90, 50, 150, 150], [100, 20, 280, 160], [-20, -10, 90, 200.0]])
    together = pose(clip_frames[:3], boxes)
    alone = np.concatenate([pose([image], box[None]) for image, box in zip(clip_frames[:3], boxes, strict=True)])
    np.testing.assert_allclose(together, alone, atol=1e-3)


def test_heatmaps_are_read_between_their_cells():
    from filters.nets.vitpose import decoded

    y, x = np.mgrid[:64, :48]
    peaks = np.array([[20.3, 30.6, 0.8], [8.2, 55.9, 0.5]])
    maps = np.array([h * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / 8) for cx, cy, h in peaks], np.float32)[None]
    found = decoded(maps)
    np.testing.assert_allclose(found[0, :, :2], peaks[:, :2], atol=0.15)
    np.testing.assert_allclose(found[0, :, 2], peaks[:, 2], rtol=0.05)
    assert decoded(-maps)[0, :, 2].max() <= 0


def test_a_crop_is_taken_where_its_points_are_put_back():
    """The first and last cells of the heatmap lie on the edges of the padded box, as do those pixels of the crop."""
    from filters.nets.vitpose import cropped, padded

    corners, sizes = padded(np.array([[100, 50, 160, 130.0]]), 48 / 64)
    np.testing.assert_allclose(sizes, [[75, 100]])
    np.testing.assert_allclose(corners, [[92.5, 40]])
    y, x = np.mgrid[:180, :320].astype(np.float32)
    crop = cropped(np.stack([x, y, x], axis=-1), corners[0], sizes[0], np.array([48, 64]))
    np.testing.assert_allclose(crop[[0, -1], [0, -1], :2], [[92.5, 40], [167.5, 140]], atol=0.05)


@pytest.mark.parametrize(
    ("kind", "name"), [("RTDetrForObjectDetection", VITPOSE), ("VitPoseForPoseEstimation", RT_DETR)]
)
def test_weights_of_another_network_are_refused(snapshots, kind, name):
    from filters.nets.snapshot import load

    with pytest.raises(ValueError, match=f"{name}.*fetch it again"):
        load(getattr(transformers, kind), snapshots / name)


def test_weights_that_lack_a_part_are_refused(snapshots, tmp_path):
    from filters.nets.snapshot import load

    net = transformers.VitPoseForPoseEstimation.from_pretrained(snapshots / VITPOSE)
    state = {name: value for name, value in net.state_dict().items() if "head" not in name}
    net.save_pretrained(tmp_path, state_dict=state)
    with pytest.raises(ValueError, match="lacks 2 weights"):
        load(transformers.VitPoseForPoseEstimation, tmp_path)


def test_only_the_weights_that_are_used_are_asked_for():
    assert Vitpose.name() == "vitpose"
    assert Vitpose.stands_for == "pose"
    assert Vitpose().chosen_weights() == (RT_DETR, VITPOSE, dwpose.POSE)
    assert Vitpose(details=False).chosen_weights() == (RT_DETR, VITPOSE)
    assert Vitpose(bodies="dwpose").chosen_weights() == (dwpose.DETECTOR, dwpose.POSE)
