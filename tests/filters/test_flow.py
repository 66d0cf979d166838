import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="UniMatch needs torch")

from dataset.media import FrameBatch, Sampler  # noqa: E402
from filters import weights  # noqa: E402
from filters.base import ClipView  # noqa: E402
from filters.flow import FRAMES, Flow  # noqa: E402
from filters.nets import unimatch  # noqa: E402
from filters.nets.flow_score import flow_score  # noqa: E402
from filters.nets.unimatch import Config, UniMatch  # noqa: E402
from tests.filters.builders import moved, nobody, person, scores, texture, view  # noqa: E402

BOX = (0.25, 0.25, 0.75, 1.0)
SOMEBODY = person(count=40, body=BOX, face=BOX)


class Classical(torch.nn.Module):
    """DIS where UniMatch would be: what UniMatch finds depends on weights that tests don't have."""

    def __init__(self):
        super().__init__()
        self.anchor = torch.nn.Parameter(torch.zeros(1))

    def forward(self, image0, image1):
        assert image0.shape[1:] == (3, 320, 576)
        return torch.stack([self.pair(first[0], second[0]) for first, second in zip(image0, image1, strict=True)])

    def pair(self, *images):
        first, second = (np.ascontiguousarray(image.byte().numpy()) for image in images)
        flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM).calc(first, second, None)
        return torch.from_numpy(flow).movedim(-1, 0)


@pytest.fixture
def classical(monkeypatch):
    monkeypatch.setattr(weights, "path", lambda name: name)
    monkeypatch.setattr(unimatch, "load", lambda path, config: Classical())


def pan(height: int, width: int) -> list[np.ndarray]:
    """1.6 s at 25 frames a second, moving 2 pixels to the right and 1 up in each."""
    scene = texture(height, width, finest=3)
    return [moved(scene, 2 * i, -i) for i in range(40)]


def test_speed_does_not_depend_on_the_shape_of_the_frame(classical):
    found = {}
    for name, (height, width) in {"landscape": (360, 640), "portrait": (640, 360), "square": (360, 360)}.items():
        found[name] = scores(Flow(), view({FRAMES: pan(height, width)}, tracks=nobody(40)))
        assert found[name]["background"] == pytest.approx(np.hypot(2, 1) * 25 / 360, rel=0.05)
        assert found[name]["subject"] is None
    # Open-Sora's score is one of the stretched frame
    assert found["landscape"]["overall"] == pytest.approx(25 / 3 * (2 * 576 / 640 + 320 / 360) / 2, rel=0.1)
    assert found["portrait"]["overall"] == pytest.approx(25 / 3 * (2 * 320 / 360 + 576 / 640) / 2, rel=0.1)


def test_the_background_moves_with_the_camera_and_the_subject_apart_from_it(classical):
    room, body = texture(360, 640, seed=1, finest=3), texture(360, 640, seed=2, finest=3)
    images = []
    for i in range(40):
        image = moved(room, i, 0)
        image[90:360, 160:480] = moved(body, i, 2 * i)[90:360, 160:480]
        images.append(image)
    found = scores(Flow(), view({FRAMES: images}, tracks=SOMEBODY))
    assert found["background"] == pytest.approx(25 / 360, rel=0.1)
    assert found["subject"] == pytest.approx(2 * 25 / 360, rel=0.25)


def steady(height: int, width: int, x: float, y: float) -> np.ndarray:
    """Flow of the stretched frame, px/s."""
    return np.broadcast_to(np.array([x, y], np.float32), (height, width, 2)).copy()


def test_a_landscape_and_a_portrait_field():
    landscape = Flow().speeds(steady(320, 576, 57.6, 0), texture(360, 640), SOMEBODY, 0)
    portrait = Flow().speeds(steady(576, 320, 0, 57.6), texture(640, 360), SOMEBODY, 0)
    assert landscape == pytest.approx(portrait)
    assert landscape == pytest.approx((57.6 / 2 / 3, 64 / 360, 0), abs=1e-5)


def test_regions_apart_in_a_field():
    flow = steady(320, 576, 57.6, 32)
    flow[80:, 144:432] += (0, 96)
    overall, background, subject = Flow().speeds(flow, texture(360, 640), SOMEBODY, 0)
    assert background == pytest.approx(np.hypot(64, 36) / 360, rel=1e-3)
    assert subject == pytest.approx(108 / 360, rel=0.02)
    assert overall == pytest.approx((57.6 + 32 + 96 * 0.375) / 2 / 3, rel=1e-3)


def test_a_region_too_small_or_without_texture_has_no_speed():
    flow, scene = steady(320, 576, 10, 0), texture(360, 640)
    everywhere, small = (person(count=40, body=box, face=box) for box in ((0, 0, 1, 1), (0.5, 0.5, 0.55, 0.6)))
    assert Flow().speeds(flow, scene, everywhere, 0)[1] is None
    assert Flow().speeds(flow, scene, small, 0)[2] is None
    assert Flow().speeds(flow, np.full_like(scene, 90), SOMEBODY, 0) == (pytest.approx(10 / 6), None, None)


def sampled(fps: float, seconds: float) -> np.ndarray:
    sampler = Sampler(FRAMES)
    return np.array([time for time in np.arange(round(seconds * fps)) / fps if sampler.wants(time)])


def frames_compared(which: Flow, fps: float, seconds: float) -> list[tuple[int, int]]:
    """Numbers of the source's frames."""
    times = sampled(fps, seconds)
    return [(round(times[i] * fps), round(times[j] * fps)) for i, j in which.moments(times)]


def test_frames_are_the_published_ones_at_30_and_the_nearest_elsewhere():
    assert frames_compared(Flow(), 30, 5) == [(0, 10), (10, 20), (20, 30)]
    assert frames_compared(Flow(), 24, 5) == [(0, 8), (8, 16), (16, 24)]
    assert frames_compared(Flow(), 25, 5) == [(0, 8), (8, 17), (17, 25)]
    assert frames_compared(Flow(), 60, 5) == [(0, 19), (19, 39), (39, 60)]
    assert frames_compared(Flow(), 1, 5) == [(0, 1), (1, 2)]  # one picture a second: the next one


def test_pairs_over_the_whole_clip():
    assert frames_compared(Flow(pairs=2, every=None), 24, 10) == [(58, 66), (173, 181)]


def test_short_clips_have_fewer_pairs():
    assert frames_compared(Flow(), 30, 1) == [(0, 10), (10, 20), (20, 29)]
    assert frames_compared(Flow(), 30, 0.5) == [(0, 10)]
    assert frames_compared(Flow(), 30, 0.1) == []
    assert Flow().measure(view({FRAMES: pan(36, 64)[:1]}, tracks=nobody(1))) == Flow.Scores()


def test_the_overall_score_is_open_soras(tmp_path, monkeypatch):
    small = Config(scales=1, channels=16, layers=2, expansion=1)
    net, path = UniMatch(small), tmp_path / "gmflow.pth"
    torch.save({"model": net.state_dict()}, path)
    monkeypatch.setattr(weights, "path", {"unimatch/gmflow-scale1-mixdata-train320x576-4c3a6e9a.pth": path}.__getitem__)
    monkeypatch.setattr(unimatch, "SCALE1", small)
    times = sampled(30, 1)
    scene = texture(360, 480)
    images = {round(30 * time): moved(scene, 90 * time, 0) for time in times}
    clip = ClipView(view().clip, {FRAMES: FrameBatch(list(images.values()), times)}, None, {}, SOMEBODY)
    found = scores(Flow(fast=True, pairs=2), clip)
    assert found["overall"] == pytest.approx(flow_score(net.eval(), [images[i] for i in (0, 10, 20)]), rel=1e-4)
    assert None not in found.values()


def test_only_the_weights_of_the_chosen_network_are_asked_for():
    assert "scale2-regrefine6" in Flow().chosen_weights()[0]
    assert "scale1" in Flow(fast=True).chosen_weights()[0]
