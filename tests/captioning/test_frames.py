"""What of a clip is shown to the model."""

import base64
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from captioning.frames import Frames, Sight, fitted, read_frames
from dataset.media import Counters, MediaError
from dataset.records import Clip
from dataset.scan import scan
from dataset.tracks import Tracks
from tests.videos import grey_ramp, write_video


def clip_of(path: Path, start: float = 0.0, end: float | None = None) -> Clip:
    media = scan(str(path), Counters(), lambda time, image: None)
    end = round(media.duration, 3) if end is None else end
    return Clip(clip_id="a", source=str(path), source_id="b", start=start, end=end, media=media)


def pictures(frames: Frames) -> list[np.ndarray]:
    return [cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)[..., ::-1] for jpeg in frames.jpegs]


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight seconds whose brightness is the time, playable while it loads."""
    folder = tmp_path_factory.mktemp("video")
    whole = write_video(folder / "whole.mp4", 8, picture=lambda t: grey_ramp(t, 360, 640))
    ready = folder / "ready.mp4"
    with av.open(str(whole)) as source, av.open(str(ready), "w", options={"movflags": "+faststart"}) as target:
        track = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                packet.stream = track
                target.mux(packet)
    return ready


def test_pictures_are_of_the_clip_at_a_steady_rate(video):
    frames = read_frames(str(video), clip_of(video, 2.0, 6.0), Sight())
    seen = [float(image.mean()) for image in pictures(frames)]
    assert seen == pytest.approx([20 + 10 * (2 + i / 2) for i in range(8)], abs=1.5)
    assert (frames.rate, frames.seconds, frames.marked) == (2.0, 4.0, False)


def test_sizes_are_whole_cells_and_tokens_follow(video):
    frames = read_frames(str(video), clip_of(video), Sight(pixels=100_000))
    height, width = pictures(frames)[0].shape[:2]
    assert (frames.width, frames.height) == (width, height)
    assert width % 28 == height % 28 == 0
    assert width * height <= 100_000
    assert width / height == pytest.approx(640 / 360, rel=0.15)
    assert frames.tokens == 8 * (width // 28) * (height // 28)
    assert fitted(100, 60, 200_704) == (84, 56)  # never enlarged


def test_long_clips_are_sampled_more_coarsely_and_odd_ones_end_twice(video):
    frames = read_frames(str(video), clip_of(video), Sight(most=4))
    assert (len(frames.jpegs), frames.rate) == (4, 0.5)
    odd = read_frames(str(video), clip_of(video, 0.0, 2.5), Sight())
    assert len(odd.jpegs) == 6
    assert odd.jpegs[-1] == odd.jpegs[-2] != odd.jpegs[-3]


def test_the_url_and_its_timing_are_what_vllm_takes(video):
    frames = read_frames(str(video), clip_of(video, 0.0, 2.0), Sight())
    kind, _, data = frames.url().partition(",")
    assert kind == "data:video/jpeg;base64"
    assert tuple(base64.b64decode(part, validate=True) for part in data.split(",")) == frames.jpegs
    timing = {"fps": 2.0, "frames_indices": [0, 1, 2, 3], "total_num_frames": 4, "duration": 2.0, "num_frames": 4}
    assert frames.timing() == timing


@pytest.mark.parametrize("share", [0.35, 0.6, 0.97])
def test_of_a_truncated_file_nothing_is_told(video, tmp_path, share):
    clip = clip_of(video)
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(video.read_bytes()[: int(video.stat().st_size * share)])
    with pytest.raises(MediaError, match=r"truncated|no frame"):
        read_frames(str(cut), clip, Sight())
    early = clip.model_copy(update={"end": 1.0})
    assert len(read_frames(str(cut), early, Sight()).jpegs) == 2  # this clip is whole


def test_a_variable_frame_rate_is_no_truncation(tmp_path):
    times = [0.0, 0.04, 0.08, 1.5, 1.54, 3.0, 3.04, 3.08]
    path = write_video(tmp_path / "vfr.mp4", times=times)
    pictures = read_frames(str(path), clip_of(path), Sight()).jpegs
    assert len(pictures) == 8  # every half second, as the model takes them: a picture stays until the next one comes
    assert pictures[0] == pictures[1] == pictures[2] != pictures[3]
    assert pictures[3] == pictures[4] == pictures[5] != pictures[6]
    assert read_frames(str(path), clip_of(path, 0.0, 1.2), Sight()).jpegs  # ends in a gap


def test_a_hole_in_a_file_that_was_whole_is_found(video):
    whole = clip_of(video)
    frames = round(whole.seconds * whole.media.fps)
    assert read_frames(str(video), whole, Sight(), measured=frames)
    with pytest.raises(MediaError, match="frames could be decoded"):
        read_frames(str(video), whole, Sight(), measured=frames + 20)


def test_the_main_person_is_framed_on_demand(video):
    times = np.arange(0, 8, 0.5)
    boxes = np.full((1, 16, 4), np.nan, np.float32)
    boxes[0, :8] = (0.25, 0.25, 0.5, 0.75)
    nobody = Tracks.empty(times)
    tracks = Tracks(times, np.array([1]), np.zeros((1, 16, 128, 3), np.float32), boxes, boxes)
    clip = clip_of(video)
    framed = read_frames(str(video), clip, Sight(mark=True), tracks=tracks)
    plain = read_frames(str(video), clip, Sight(), tracks=tracks)
    assert framed.marked
    assert not plain.marked
    assert not read_frames(str(video), clip, Sight(mark=True), tracks=nobody).marked
    first, last = pictures(framed)[0].astype(int), pictures(framed)[-1].astype(int)
    green = (first[..., 1] - first[..., 0]) > 60
    rows, columns = np.nonzero(green)
    height, width = green.shape
    found = np.array([columns.min() / width, rows.min() / height, columns.max() / width, rows.max() / height])
    assert found == pytest.approx([0.25, 0.25, 0.5, 0.75], abs=0.02)
    assert not ((last[..., 1] - last[..., 0]) > 60).any()  # not seen any more
