"""From a shard to pixels: the right frames, the sound of the whole clip, the pose where the picture shows it."""

import io
import json
import pickle
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from dataset.cut import cut_clip
from dataset.errors import RunError
from dataset.shards import Sample, make_shard
from model.config import S2VConfig
from tests.trainer.shards import Made, make_dataset, number_of, numbered, pointing, stage, tone
from tests.videos import write_video
from trainer.budget import fit, frame_count
from trainer.corpus import read_corpus
from trainer.reading import APART, Unreadable, choose_caption, draw_window, on_disk, read_pixels, window_of
from trainer.sample import Clip, Request, Shape, Window

CONFIG = S2VConfig()


def request_of(clip: Clip, epoch: int = 0, **changes) -> Request:
    shape = fit(clip.seconds, clip.width, clip.height, stage(**changes), CONFIG)
    assert shape
    return Request(clip, shape, epoch)


def packed(folder: Path, *clips: Made, **options) -> list[Clip]:
    return read_corpus([str(make_dataset(folder / "data", clips, **options))], stage())


def any_clip(seconds: float) -> Clip:
    return Clip("c", "speech", "x.tar", 0, seconds, 128, 96)


# ---------------------------------------------------------------- windows


@pytest.mark.parametrize("seconds", [0.3125, 0.5, 1.5, 3, 9, 30])
def test_windows_have_their_history_and_show_no_reference(seconds):
    drawn = []
    for epoch in range(300):
        request = request_of(any_clip(seconds), epoch)
        shape, window = request.shape, window_of(request, 0)
        total = frame_count(seconds)
        assert shape.history <= window.start <= total - shape.frames
        assert window.frames == shape.frames
        assert 0 <= window.reference < total
        assert not window.start <= window.reference < window.end
        far = [n for n in range(total) if n <= window.start - APART or n >= window.end - 1 + APART]
        assert not far or window.reference in far
        assert 0 <= window.caption < 1
        drawn.append(window)
    room = total - shape.frames - shape.history + 1
    starts = {window.start for window in drawn}
    assert starts == set(range(shape.history, shape.history + room)) if room < 40 else len(starts) > 40
    assert np.mean([window.caption for window in drawn]) == pytest.approx(0.5, abs=0.07)


def test_all_starts_and_references_come_up_equally():
    windows = [window_of(request_of(any_clip(0.75), epoch, frames=4), 0) for epoch in range(4000)]
    counts = np.bincount([w.start for w in windows])[4:]  # 12 frames: starts 4 to 8
    assert len(counts) == 5
    assert counts.min() > 0.8 * 4000 / 5
    first = np.bincount([w.reference for w in windows if w.start == 4], minlength=12)
    assert ((first > 0) == [True] * 4 + [False] * 4 + [True] * 4).all()  # all that it doesn't show


def test_a_window_is_drawn_by_seed_clip_and_epoch():
    request = request_of(any_clip(30))
    assert window_of(request, 0) == window_of(request, 0)
    others = [window_of(request, 1), window_of(replace(request, epoch=1), 0)]
    others.append(window_of(replace(request, clip=replace(request.clip, clip_id="d")), 0))
    assert len({window_of(request, 0), *others}) == 4
    assert window_of(replace(request, clip=replace(request.clip, shard="moved.tar", offset=9)), 0) == window_of(
        request, 0
    )


def test_where_the_whole_clip_is_shown_the_reference_is_part_of_it():
    window = window_of(Request(any_clip(1), Shape(16, 0, 64, 64), 0), 0)
    assert (window.start, window.end) == (0, 16)
    assert 0 <= window.reference < 16


# ---------------------------------------------------------------- pictures and sound


@pytest.mark.parametrize(("seconds", "fps"), [(1.5, 16), (6.0, 16), (4.0, 32), (4.0, 25), (4.0, 8)])
def test_every_frame_is_the_one_it_should_be(tmp_path, seconds, fps):
    """History, video and reference, by the numbers that are painted into the pictures."""
    [clip] = packed(tmp_path, Made("c", seconds, fps=fps, sound=tone(seconds)))
    for epoch in range(4):
        request = request_of(clip, epoch)
        pixels = read_pixels(request, 7)
        shape, window = request.shape, window_of(request, 7)
        assert pixels.request == request
        assert pixels.window == window
        assert pixels.frames.shape == (window.history + shape.frames, shape.height, shape.width, 3)
        assert pixels.frames.dtype == pixels.reference.dtype == np.uint8
        wanted = np.arange(window.start - window.history, window.end)
        shown = np.array([number_of(frame) for frame in pixels.frames])
        late = np.abs(shown - wanted) if fps < 16 or fps % 16 else shown != wanted
        assert late.max() <= (16 / fps if fps < 16 else 1 if fps % 16 else 0)
        assert abs(number_of(pixels.reference) - window.reference) <= (0 if fps % 16 == 0 else 16 / fps)
        assert pixels.pose is None
        assert pixels.caption == "about c"


def test_the_history_is_all_that_the_model_looks_back_at_where_the_clip_has_it(tmp_path):
    [clip] = packed(tmp_path, Made("c", 8.0))
    seen = set()
    for epoch in range(8):
        pixels = read_pixels(request_of(clip, epoch), 0)
        seen.add(pixels.window.history)
        assert len(pixels.frames) == min(73, pixels.window.start) + 16
        assert number_of(pixels.frames[pixels.window.history]) == pixels.window.start
    assert max(seen) == 73
    assert len(seen) > 1


def test_the_sound_is_the_whole_clips(tmp_path):
    [clip] = packed(tmp_path, Made("c", 4.0, sound=tone(4.0)))
    speech = read_pixels(request_of(clip), 0).speech
    assert speech.dtype == np.float32
    assert speech.shape == (4 * 16_000,)
    loud = np.sqrt(2 * (speech.reshape(4, -1)[:, 2000:-2000] ** 2).mean(1))
    assert loud == pytest.approx([0.1, 0.2, 0.3, 0.4], abs=0.02)


def test_sound_that_ends_early_is_filled_with_silence_and_late_sound_stays_late(tmp_path):
    path = write_video(tmp_path / "a.mp4", 3, fps=16, picture=numbered(), sound=tone(1), sound_late=1.0)
    [clip] = packed(tmp_path, made := Made("c", 3.0), samples=[Sample("c", {"mp4": path.read_bytes()})])
    assert made.sound is None
    speech = read_pixels(request_of(clip), 0).speech
    assert speech.shape == (48_000,)
    heard = np.flatnonzero(np.abs(speech) > 0.05) / 16_000
    assert heard.min() == pytest.approx(1.0, abs=0.03)
    assert heard.max() == pytest.approx(2.0, abs=0.06)


def test_a_clip_without_sound(tmp_path):
    [clip] = packed(tmp_path, Made("c"))
    assert read_pixels(request_of(clip), 0).speech.shape == (0,)


def test_what_curation_cuts_is_read(tmp_path):
    """Between two frames of a 30 fps source: the cut begins with the next frame."""
    source = write_video(tmp_path / "a.mp4", 6, fps=30, picture=numbered(), sound=tone(6))
    cut = cut_clip(str(source), 1.01, 4.51)
    [clip] = packed(tmp_path, Made("c", 3.5), samples=[Sample("c", {"mp4": cut.video})])
    for epoch in range(10):
        pixels = read_pixels(request_of(clip, epoch), 0)
        shown = [number_of(f) for f in pixels.frames]
        first = pixels.window.start - pixels.window.history
        assert np.abs(np.array(shown) - 16 - np.arange(first, pixels.window.end)).max() <= 1
    assert len(pixels.speech) == 3.5 * 16_000


def test_the_same_request_gives_the_same_pixels_and_an_epoch_others(tmp_path):
    clips = packed(tmp_path, *(Made(f"c{n}", 4.0) for n in range(3)))
    request = request_of(clips[1])
    one, two, other = read_pixels(request, 0), read_pixels(request, 0), read_pixels(replace(request, epoch=1), 0)
    assert np.array_equal(one.frames, two.frames)
    assert np.array_equal(one.reference, two.reference)
    assert one.window != other.window


# ---------------------------------------------------------------- pose


@pytest.mark.parametrize("size", [(384, 96), (96, 384), (200, 150)])
def test_the_pose_lies_where_the_cropped_picture_shows_it(tmp_path, size):
    """A disc walks through the picture, and the pose's nose with it: after crop and scaling they still meet."""
    width, height = size

    def place(time: float) -> tuple[float, float]:
        return 0.5 + 0.08 * np.sin(4 * time), 0.5 + 0.08 * np.cos(3 * time)

    def picture(time: float) -> np.ndarray:
        image = np.zeros((height, width, 3), np.uint8)
        x, y = place(time)
        cv2.circle(image, (round(x * width), round(y * height)), max(3, min(size) // 16), (255, 255, 255), -1)
        return image

    tracks = pointing(place, 3.0, rate=16)
    [clip] = packed(tmp_path, Made("c", 3.0, width, height, picture=picture, tracks=tracks))
    pixels = read_pixels(request_of(clip), 0)
    shape = pixels.request.shape
    assert shape.height * width != shape.width * height  # so something is cut off
    assert pixels.pose is not None
    assert pixels.pose.shape == pixels.frames[pixels.window.history :].shape
    for shown, drawn in zip(pixels.frames[pixels.window.history :], pixels.pose, strict=True):
        middles = [np.argwhere(image.max(-1) > 100).mean(0) for image in (shown, drawn)]
        assert middles[0] == pytest.approx(middles[1], abs=1.2)


def test_what_the_crop_cuts_off_is_not_in_the_pose(tmp_path):
    [clip] = packed(tmp_path, Made("c", 3.0, 512, 64, tracks=pointing(lambda t: (0.1, 0.5), 3.0)))
    request = request_of(clip, tokens=400)
    assert request.shape.width == 192
    pose = read_pixels(request, 0).pose
    assert pose is not None
    assert not pose.any()


def test_the_pose_is_drawn_in_the_size_that_cover_scales_to():
    tracks = pointing(lambda t: (0.5, 0.5), 1.0)
    for size in ((97, 131), (131, 97), (64, 64), (30, 50), (2160, 3840)):
        request = Request(any_clip(1), Shape(4, 1, 64, 128), 0)
        drawn = draw_window(tracks, request, Window(4, 4, 0, 0.0), size)
        middle = np.argwhere(drawn[0].max(-1) > 100).mean(0)
        assert middle == pytest.approx((32, 64), abs=1)


# ---------------------------------------------------------------- captions


@pytest.mark.parametrize(
    ("facts", "luck", "wanted"),
    [
        ({"captions": ["a", "b", "c"], "caption": "x"}, 0.0, "a"),
        ({"captions": ["a", "b", "c"]}, 0.34, "b"),
        ({"captions": ["a", "b", "c"]}, 0.9999999999999999, "c"),
        ({"captions": {"short": "b", "long": "a"}}, 0.0, "a"),
        ({"captions": {"short": "b", "long": "a"}}, 0.6, "b"),
        ({"captions": ["", "b", None]}, 0.0, "b"),
        ({"captions": [], "caption": "x"}, 0.5, "x"),
        ({"captions": None, "caption": "x"}, 0.5, "x"),
        ({"caption": None}, 0.5, ""),
        ({}, 0.5, ""),
    ],
)
def test_captions(facts, luck, wanted):
    assert choose_caption(facts, luck) == wanted


def test_all_captions_come_up(tmp_path):
    [clip] = packed(tmp_path, Made("c", 1.0, facts={"captions": ["a", "b", "c"]}))
    assert {read_pixels(request_of(clip, epoch), 0).caption for epoch in range(30)} == {"a", "b", "c"}


# ---------------------------------------------------------------- hostile samples


def refused(clip: Clip) -> Unreadable:
    with pytest.raises(Unreadable) as caught:
        read_pixels(request_of(clip), 0)
    assert caught.value.clip == clip
    assert caught.value.remedy
    return caught.value


def changed(folder: Path, made: Made | None = None, **files: bytes | None) -> Clip:
    """A clip of which files were replaced, or taken away (None)."""
    made = made or Made("c")
    content = made.sample().files | {name.replace("_", "."): data for name, data in files.items()}
    left = {name: data for name, data in content.items() if data is not None}
    return packed(folder, made, samples=[Sample("c", left)])[0]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[1, 2]",
        b"\xff\xfe",
        b'{"captions": 5}',
        b'{"captions": "abc"}',
        b'{"captions": [1]}',
        b'{"caption": {"a": 1}}',
        b"[" * 100_000,
    ],
)
def test_json_garbage(tmp_path, content):
    assert ".json" in refused(changed(tmp_path, json=content)).error


def test_no_json_is_no_caption(tmp_path):
    assert read_pixels(request_of(changed(tmp_path, json=None)), 0).caption == ""


class Evil:
    def __reduce__(self):
        return (Path.touch, (Path("/tmp/s2v-evil"),))


def npz(**arrays: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def huge_header() -> bytes:
    """An array that says it is 8 EB."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "<f8", "fortran_order": False, "shape": (1 << 60,)})
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name in ("times", "ids", "points", "confidence", "boxes", "faces"):
            archive.writestr(f"{name}.npy", file.getvalue())
    return out.getvalue()


def good_tracks() -> dict[str, np.ndarray]:
    return dict(np.load(io.BytesIO(pointing(lambda t: (0.5, 0.5), 3.0).to_npz_bytes())))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PK\x03\x04 garbage",
        pickle.dumps(Evil()),
        npz(times=np.array([Evil()], dtype=object)),
        npz(times=np.zeros(3)),
        huge_header(),
        npz(**good_tracks() | {"points": np.zeros((1, 24, 3, 2), np.int16)}),
        npz(**good_tracks() | {"points": np.full((1, 24, 128, 2), -32768, np.int16)}),
        npz(**good_tracks() | {"times": np.zeros(3)}),
        npz(**good_tracks() | {"times": np.zeros(24)}),
        npz(**good_tracks() | {"times": np.full(24, np.nan)}),
        npz(**good_tracks() | {"ids": np.zeros(5, np.int32)}),
        pointing(lambda t: (0.5, 0.5), 3.0).to_npz_bytes()[:-50],
    ],
)
def test_pose_garbage(tmp_path, content):
    assert ".pose.npz" in refused(changed(tmp_path, pose_npz=content)).error
    assert not Path("/tmp/s2v-evil").exists()


def test_video_garbage(tmp_path):
    whole = Made("c", 3.0).sample().files["mp4"]
    for n, (content, said) in enumerate(
        [
            (b"", "empty file"),
            (b"no video at all" * 100, "can't be opened"),
            (whole[: len(whole) // 2], "can't be opened"),
            (None, "it has no .mp4"),
        ]
    ):
        assert said in refused(changed(tmp_path / str(n), mp4=content)).error


@pytest.mark.parametrize("sample", [np.nan, np.inf, -np.inf])
def test_sound_that_is_no_numbers(tmp_path, sample):
    sound = tone(3)
    sound[70_000] = sample
    path = write_video(tmp_path / "a.mov", 3, fps=16, sound=sound, sound_codec="pcm_f32le")
    assert "its sound" in refused(changed(tmp_path, mp4=path.read_bytes())).error


def test_a_video_that_lost_its_end(tmp_path):
    """The index at its front promises more than the file holds."""
    path = tmp_path / "a.mp4"
    write_video(
        path, 6, fps=16, picture=lambda t: np.random.default_rng(int(100 * t)).integers(0, 255, (96, 128, 3), np.uint8)
    )
    with av.open(str(path)) as source, av.open(str(tmp_path / "b.mp4"), "w", options={"movflags": "faststart"}) as out:
        stream = out.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                out.mux(packet)
    whole = (tmp_path / "b.mp4").read_bytes()
    clip = changed(tmp_path, Made("c", 6.0), mp4=whole[: len(whole) // 4])
    assert "frames at 16 a second" in refused(clip).error or "truncated" in refused(clip).error


@pytest.mark.parametrize("claimed", [3.2, 30.0])
def test_a_video_shorter_than_the_index_says_is_no_sample(tmp_path, claimed):
    """Whatever window is drawn."""
    [clip] = packed(tmp_path, Made("c", 3.0, claims={"seconds": claimed}))
    for epoch in range(5):
        with pytest.raises(Unreadable, match=f"has 48 frames at 16 a second; the index promises {int(16 * claimed)}"):
            read_pixels(request_of(clip, epoch), 0)


def test_a_frame_less_is_rounding_unless_it_is_needed(tmp_path):
    [clip] = packed(tmp_path, Made("c", 8.0, claims={"seconds": 129 / 16}))
    needed = 0
    for epoch in range(60):
        request = request_of(clip, epoch)
        window = window_of(request, 0)
        if max(window.end - 1, window.reference) == 128:
            needed += 1
            with pytest.raises(Unreadable, match="has 128 frames"):
                read_pixels(request, 0)
        else:
            assert len(read_pixels(request, 0).frames) == window.history + 16
    assert 0 < needed < 30


def test_shards_that_are_not_as_the_index_says(tmp_path):
    dataset = make_dataset(tmp_path / "data", [Made("a"), Made("b")])
    first, second = read_corpus([str(dataset)], stage())
    shard = Path(first.shard)
    whole = shard.read_bytes()
    assert "has 'b' at byte" in refused(replace(first, offset=second.offset)).error
    assert "ReadError" in refused(replace(first, offset=512)).error
    assert "its shard" in refused(replace(first, offset=len(whole) + 512)).error
    assert "FileNotFoundError" in refused(replace(first, shard=f"{tmp_path}/gone.tar")).error
    shard.write_bytes(whole[: second.offset + 2000])
    assert "ReadError" in refused(second).error
    assert read_pixels(request_of(first), 0).caption == "about a"
    shard.write_bytes(make_shard([])[0])
    assert "has nothing at byte 0" in refused(first).error


def test_members_are_never_extracted(tmp_path):
    """Links and names that lead out of the shard."""
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        link = tarfile.TarInfo("c.mp4")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
        info = tarfile.TarInfo("c.json")
        tar.addfile(info, io.BytesIO())
    assert "it has no .mp4" in refused(Clip("c", "speech", f"{tmp_path}/x.tar", 0, 3, 128, 96)).error


def test_the_error_travels_between_processes():
    error = Unreadable(any_clip(1), "what", "do")
    again = pickle.loads(pickle.dumps(error))
    assert (again.clip, again.error, again.remedy, str(again)) == (error.clip, "what", "do", "c in x.tar: what")


def test_a_full_disk_is_not_the_clips_fault(tmp_path, monkeypatch):
    [clip] = packed(tmp_path, Made("c"))

    class Full(io.BytesIO):
        def write(self, data):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("trainer.reading.tempfile.TemporaryFile", Full)
    with pytest.raises(RunError, match="make room there, or set TMPDIR"):
        read_pixels(request_of(clip), 0)


def test_nothing_is_left_in_the_temporary_folder(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with on_disk(b"abc") as path:
        assert Path(path).read_bytes() == b"abc"
        assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------- real clips


@pytest.mark.real
def test_real_clips(real_clips, tmp_path):
    paths = sorted(real_clips.glob("*.mp4"))[::4]
    samples = [
        Sample(path.stem, {"mp4": path.read_bytes(), "json": json.dumps({"seconds": 1e3}).encode()}) for path in paths
    ]
    (tmp_path / "x.tar").write_bytes(make_shard(samples)[0])
    clips = read_corpus([str(tmp_path / "x.tar")], stage())
    assert len(clips) == len(paths)
    for clip in clips:
        pixels = read_pixels(request_of(clip, tokens=3000, frames=48), 0)
        assert pixels.frames.std() > 5
