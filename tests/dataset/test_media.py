"""Reading: true times, upright pictures, sound in place, one pass, and clear errors for what isn't a video."""

import os
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from dataset.media import AUDIO_RATE, WRAP, Counters, DecodedClip, Frames, MediaError, read_clips
from dataset.scan import probe, scan
from tests.videos import clicks, grey_ramp, moving_square, number_of, numbered, write_video

DENSE, SPARSE = Frames(25, 48), Frames(2)


def read_one(path: Path, start: float = 0.0, end: float = 99.0, *needs: Frames) -> DecodedClip:
    return next(read_clips(str(path), [(start, end)], needs or (DENSE,), audio=True, counters=Counters()))


def look(path: Path):
    return scan(str(path), Counters(), lambda time, image: None)


def brightness_time(image: np.ndarray) -> float:
    """The time that a frame of `grey_ramp` was made for."""
    return (float(image.mean()) - 20) / 10


def click_times(sound: np.ndarray) -> np.ndarray:
    loud = np.flatnonzero(np.abs(sound) > 0.2)
    return loud[np.insert(np.diff(loud) > AUDIO_RATE / 10, 0, True)] / AUDIO_RATE


def test_every_size_and_rate_comes_from_one_pass(tmp_path):
    path = write_video(tmp_path / "a.mp4", 4, picture=moving_square, sound=clicks(4))
    counters = Counters()
    needs = [Frames(25, 48), Frames(5, 48), Frames(2), Frames(12.5, 64)]
    clip = next(read_clips(str(path), [(0, 4)], needs, audio=True, counters=counters))
    assert (counters.opens, counters.decoded, clip.span_frames) == (1, 100, 100)
    assert [len(clip.batches[n]) for n in needs] == [100, 20, 8, 50]
    assert clip.batches[needs[0]].images[0].shape == (48, 64, 3)
    assert clip.batches[needs[2]].images[0].shape == (96, 128, 3)
    assert clip.batches[needs[0]].images[0] is clip.batches[needs[1]].images[0]  # one conversion for both


def left_half(image: np.ndarray) -> np.ndarray:
    return image[:, : image.shape[1] // 2].copy()


def test_pictures_are_cut_for_those_who_ask_for_it(tmp_path):
    path = write_video(tmp_path / "a.mp4", 1, picture=moving_square)
    whole, cut = Frames(5), Frames(5, cut=left_half)
    batches = read_one(path, 0, 9, whole, cut).batches
    assert batches[whole].images[0].shape == (96, 128, 3)
    for image, half in zip(batches[whole].images, batches[cut].images, strict=True):
        np.testing.assert_array_equal(half, image[:, :64])


def test_clips_of_a_source_share_one_pass(tmp_path):
    path = write_video(tmp_path / "a.mp4", 10, sound=clicks(10), gop=250)
    counters = Counters()
    spans = [(1.0, 3.0), (3.0, 5.0), (5.0, 9.0)]
    clips = list(read_clips(str(path), spans, [DENSE], audio=True, counters=counters))
    assert counters.opens == 1
    assert counters.decoded <= 226  # from the one keyframe to the end of the last span
    for (start, end), clip in zip(spans, clips, strict=True):
        batch = clip.batches[DENSE]
        assert clip.span_frames == round((end - start) * 25)
        assert abs(brightness_time(batch.images[0]) - start) < 0.25
        assert batch.times[0] == pytest.approx(0, abs=0.021)
        assert click_times(clip.audio) == pytest.approx(np.arange(0.5, end - start), abs=0.005)


def test_a_far_away_clip_is_reached_by_seeking(tmp_path):
    path = write_video(tmp_path / "a.mp4", 20, gop=25)
    counters = Counters()
    clips = list(read_clips(str(path), [(0, 1), (15.5, 16.5)], [DENSE], audio=True, counters=counters))
    assert counters.decoded < 80
    assert abs(brightness_time(clips[1].batches[DENSE].images[0]) - 15.5) < 0.25


@pytest.mark.parametrize(("name", "codec"), [("a.ts", "libx264"), ("a.ts", "libx265"), ("a.mpg", "libx264")])
def test_a_stream_without_an_index_is_read_from_before_its_clips(tmp_path, name, codec):
    """Seeking lands behind the keyframe. x265 decodes pictures out of order: even at time zero it lands too late."""
    sound = {"sound": clicks(14), "sound_codec": "mp2", "sound_late": 0.1}
    path = write_video(tmp_path / name, 14, codec=codec, gop=150, **sound)
    for spans in ([(0.0, 1.0), (8.0, 9.0)], [(4.0, 5.0)], [(11.0, 12.0)]):
        clips = list(read_clips(str(path), spans, [DENSE], audio=True, counters=Counters()))
        for (start, _), clip in zip(spans, clips, strict=True):
            images = clip.batches[DENSE].images
            assert clip.span_frames == len(images) == 25
            assert [brightness_time(images[i]) for i in (0, -1)] == pytest.approx([start, start + 0.96], abs=0.3)
            assert click_times(clip.audio) == pytest.approx([0.6], abs=0.005)


def test_a_stream_without_an_index_is_not_read_from_its_beginning(tmp_path):
    path = write_video(tmp_path / "a.ts", 40, gop=12)
    counters = Counters()
    next(read_clips(str(path), [(35.0, 36.0)], [DENSE], audio=False, counters=counters))
    assert counters.decoded < 70


def write_numbered(path: Path, seconds: float, start: float = 0.0, **options) -> Path:
    times = [start + n / 25 for n in range(round(seconds * 25))]
    sound = {"sound": clicks(seconds), "sound_late": start}
    return write_video(path, times=times, picture=lambda time: numbered(time - start), gop=25, **sound, **options)


def check_clips(path: Path, spans: list[tuple[float, float]]) -> None:
    """Each has the frames of its span at their times, and the clicks that belong to them."""
    for together in [spans, *([span] for span in spans)]:
        clips = read_clips(str(path), together, [DENSE], audio=True, counters=Counters())
        for (start, end), clip in zip(together, clips, strict=True):
            batch = clip.batches[DENSE]
            frames = np.arange(np.ceil(start * 25), np.ceil(end * 25))
            assert [number_of(image) for image in batch.images] == frames.tolist()
            assert batch.times + start == pytest.approx(frames / 25, abs=0.001)
            heard = np.arange(0.5, 60)
            heard = heard[(heard >= start) & (heard < end)]
            assert click_times(clip.audio) + start == pytest.approx(heard, abs=0.01)


SPANS = [(0.0, 1.0), (1.3, 2.9), (5.22, 6.7), (10.3, 11.7)]


def test_sound_that_begins_before_the_clock_of_mpeg_ts_does_is_heard(tmp_path):
    """The encoder of AAC begins before zero, and 33 bits make that 26.5 hours."""
    check_clips(write_numbered(tmp_path / "a.ts", 12), SPANS)


@pytest.mark.parametrize(
    ("name", "codec", "sound_codec", "b_frames"),
    [
        ("a.mpg", "libx264", "mp2", 3),
        ("a.vob", "libx264", "ac3", 3),  # in which libav's seeks fail
        ("a.vob", "mpeg2video", "ac3", 2),
    ],
)
def test_where_many_frames_share_a_stamp_each_has_its_own_time(tmp_path, name, codec, sound_codec, b_frames):
    path = write_numbered(tmp_path / name, 12, codec=codec, sound_codec=sound_codec, b_frames=b_frames)
    times = []
    facts = scan(str(path), Counters(), lambda time, image: times.append(time))
    assert times == pytest.approx(np.arange(300) / 25, abs=0.001)
    assert (facts.duration, facts.fps) == pytest.approx((12, 25), abs=0.01)
    check_clips(path, SPANS)


def test_a_frame_belongs_to_one_clip_though_spans_are_rounded(tmp_path):
    """Of 30 frames a second, number 20 is shown at 0.6667 s: the first of a shot that is said to start at 0.667."""
    path = write_video(tmp_path / "a.mp4", 2, fps=30, picture=lambda time: numbered(time, fps=30))
    need, spans = Frames(30), [(0.0, 0.667), (0.667, 1.333), (1.333, 2.0)]
    clips = read_clips(str(path), spans, [need], audio=False, counters=Counters())
    seen = [[number_of(image) for image in clip.batches[need].images] for clip in clips]
    assert seen == [list(range(20)), list(range(20, 40)), list(range(40, 60))]


@pytest.mark.parametrize(("name", "start"), [("a.ts", 36_000), ("a.ts", WRAP - 6), ("a.mkv", 5), ("a.mp4", 5)])
def test_a_clock_may_begin_anywhere_and_begin_anew(tmp_path, name, start):
    path = write_numbered(tmp_path / name, 12, start, b_frames=3)
    check_clips(path, SPANS)
    assert look(path).duration == pytest.approx(12, abs=0.01)
    assert probe(str(path), Counters()).duration == pytest.approx(12, abs=0.1)


def test_a_late_start_is_not_a_missing_end(tmp_path):
    path = write_video(tmp_path / "a.mkv", times=[5 + n / 25 for n in range(100)])
    assert [look(path).duration, probe(str(path), Counters()).duration] == pytest.approx([4, 4], abs=0.01)


def test_a_torn_start_does_not_count_as_slow_frames(tmp_path):
    whole = write_video(tmp_path / "whole.ts", 4, gop=25).read_bytes()
    (tmp_path / "a.ts").write_bytes(whole[len(whole) // 2 // 188 * 188 :])
    assert look(tmp_path / "a.ts").fps == pytest.approx(25, abs=0.01)


def test_two_recordings_in_one_file_are_refused(tmp_path):
    one = write_video(tmp_path / "one.ts", 12).read_bytes()
    (tmp_path / "a.ts").write_bytes(one + one)
    with pytest.raises(MediaError, match=r"jumps back from 12\.0 to 0\.0 s"):
        look(tmp_path / "a.ts")


def test_a_stream_without_times_says_so(tmp_path):
    path = write_video(tmp_path / "a.h264", 4)
    with pytest.raises(MediaError, match="no way to a place in a file of type h264"):
        read_one(path, 1, 2)


@pytest.mark.parametrize(("name", "codec"), [("a.flv", "libx264"), ("a.mp4", "libx265")])
def test_a_clip_that_starts_just_before_a_keyframe_is_whole(tmp_path, name, codec):
    """The keyframe is decoded before the clip's first frame is shown."""
    path = write_numbered(tmp_path / name, 6, codec=codec, b_frames=3)
    check_clips(path, [(0.92, 1.9), (2.96, 3.8), (4.9, 5.7)])


def test_variable_frame_rate_keeps_its_times(tmp_path):
    times = [0, 0.04, 0.08, 0.5, 1.0, 1.04, 1.9]
    path = write_video(tmp_path / "a.mkv", times=times)
    batch = read_one(path).batches[DENSE]
    assert batch.times == pytest.approx(times, abs=0.002)
    assert [brightness_time(i) for i in batch.images] == pytest.approx(times, abs=0.25)


def test_late_sound_stays_late(tmp_path):
    path = write_video(tmp_path / "a.mkv", 4, sound=clicks(3), sound_late=1.0, sound_codec="pcm_s16le")
    clip = read_one(path)
    assert click_times(clip.audio)[:3] == pytest.approx([1.5, 2.5, 3.5], abs=0.002)


def test_no_sound_is_none_not_silence(tmp_path):
    assert read_one(write_video(tmp_path / "a.mp4", 1)).audio is None


def test_pixels_are_square(tmp_path):
    path = write_video(tmp_path / "a.mp4", 1, aspect=Fraction(2, 1))
    assert look(path).width == 256
    assert read_one(path, 0, 9, SPARSE).batches[SPARSE].images[0].shape == (96, 256, 3)


@pytest.mark.parametrize("pix_fmt", ["yuv420p10le", "yuv444p"])
def test_deep_and_dense_colour(tmp_path, pix_fmt):
    path = write_video(tmp_path / "a.mp4", 1, pix_fmt=pix_fmt)
    image = read_one(path).batches[DENSE].images[0]
    assert image.dtype == np.uint8
    assert abs(brightness_time(image)) < 0.25


def test_odd_sizes(tmp_path):
    path = write_video(tmp_path / "a.mp4", 1, picture=lambda t: grey_ramp(t, 97, 131), pix_fmt="yuv444p")
    assert read_one(path, 0, 9, SPARSE).batches[SPARSE].images[0].shape == (97, 131, 3)


def test_facts_are_counted_not_believed(tmp_path):
    facts = look(write_video(tmp_path / "a.mp4", 2, fps=30, sound=clicks(2)))
    assert (facts.width, facts.height, facts.frames, facts.video_codec, facts.audio_codec) == (
        128,
        96,
        60,
        "h264",
        "aac",
    )
    assert facts.duration == pytest.approx(2.0, abs=0.02)
    assert facts.fps == pytest.approx(30, abs=0.1)


def test_probe_reads_the_header_only(tmp_path):
    path = write_video(tmp_path / "a.mp4", 2)
    counters = Counters()
    assert probe(str(path), counters).duration == pytest.approx(2.0, abs=0.05)
    assert (counters.opens, counters.decoded) == (1, 0)


def truncated(path: Path) -> None:
    whole = write_video(path.with_suffix(".whole.mkv"), 6, picture=moving_square)
    remuxed = path.with_suffix(".fast.mp4")
    with av.open(str(whole)) as source, av.open(str(remuxed), "w", options={"movflags": "+faststart"}) as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    data = remuxed.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def headless(path: Path) -> None:
    data = write_video(path.with_suffix(".whole.mp4"), 2).read_bytes()
    path.write_bytes(data[: len(data) // 2])


def picture(path: Path) -> None:
    av.VideoFrame.from_ndarray(grey_ramp(0), "rgb24").to_image().save(path, "JPEG")


def sound_only(path: Path) -> None:
    with av.open(str(path), "w") as target:
        audio = target.add_stream("aac", rate=48_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(clicks(1)[None, :1024], "fltp", "mono")
        frame.sample_rate = 48_000
        target.mux(audio.encode(frame))
        target.mux(audio.encode(None))


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda p: p.write_bytes(b""), "empty file"),
        (lambda p: p.write_text("<html>404</html>" * 99), "can't be opened"),
        (lambda p: p.mkdir(), "not a regular file"),
        (lambda p: os.mkfifo(p), "not a regular file"),
        (lambda p: None, "no such file"),
        (truncated, r"truncated: \d\.\d of 6\.0 s"),
        (headless, "can't be opened"),
        (picture, "still picture"),
        (sound_only, "no video stream"),
        (lambda p: write_video(p, 0.04), "only 1 frame"),
    ],
    ids=["empty", "html", "folder", "fifo", "absent", "truncated", "headless", "picture", "sound_only", "one_frame"],
)
def test_what_is_not_a_video_says_why_and_what_to_do(tmp_path, make, error):
    path = tmp_path / "clip.mp4"
    make(path)
    with pytest.raises(MediaError, match=error) as caught:
        look(path)
    assert caught.value.remedy
