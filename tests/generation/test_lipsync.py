"""`s2v lipsync` on a video file: the mouth changes, the rest stays."""

import av
import cv2
import numpy as np
import pytest

from generation.mouth import track_mouths
from generation.pictures import frames_of
from tests.generation.conftest import voice, write_wav
from tests.generation.films import s2v, watch
from tests.videos import write_video


@pytest.fixture(scope="module")
def talker(portrait, tmp_path_factory):
    """The portrait at 25 frames a second for 3 s, growing slowly."""
    picture = cv2.cvtColor(cv2.imread(portrait), cv2.COLOR_BGR2RGB)[:384, :384]

    def shown(time: float) -> np.ndarray:
        edge = round(20 * time)
        return cv2.resize(picture[edge : 384 - edge, edge : 384 - edge], (256, 256), interpolation=cv2.INTER_AREA)

    return write_video(tmp_path_factory.mktemp("talker") / "in.mp4", 3.0, picture=shown)


@pytest.fixture(scope="module")
def arguments(tiny, talker):
    usual = {"video": talker, "checkpoint": tiny, "size": "64x64", "steps": 1, "guidance": 1}

    def arguments(**changed):
        chosen = usual | {key.replace("_", "-"): value for key, value in changed.items()}
        return ["lipsync", *(w for key, value in chosen.items() for w in (f"--{key}", str(value)))]

    return arguments


def test_the_mouth_changes_and_the_rest_stays(arguments, talker, tmp_path):
    """With a sound shorter than the video: the length stays, the rest is silent."""
    out, sound = tmp_path / "out.mp4", write_wav(tmp_path / "new.wav", voice(1.5))
    assert s2v([*arguments(audio=sound, out=out), "--keep-pixels"]) == 0
    film = watch(out)
    assert film.frames.shape == (48, 64, 64, 3)
    assert np.abs(film.sound[60_000:70_000]).max() > 0.1
    assert np.abs(film.sound[80_000:]).max() < 0.01
    source = [cv2.resize(picture, (64, 64), interpolation=cv2.INTER_AREA) for picture in frames_of(str(talker))]
    masks = track_mouths(source, np.arange(48) / 16).masks(0, 48, 64, 64)
    change = np.abs(film.frames - np.stack(source)).mean(axis=3)
    assert change[masks == 1].mean() > 20
    assert (
        change[cv2.dilate(masks.transpose(1, 2, 0), np.ones((9, 9))).transpose(2, 0, 1) == 0].mean() < 5
    )  # H.264, colour at half size


def test_a_video_without_a_face_is_refused(arguments, tmp_path, capsys, talk):
    empty = write_video(tmp_path / "empty.mp4", 1.0)
    assert s2v(arguments(video=empty, audio=talk, out=tmp_path / "out.mp4")) == 2
    assert "face" in capsys.readouterr().err


def test_a_truncated_video_is_refused(arguments, talker, tmp_path, capsys, talk):
    with av.open(str(talker)) as whole, av.open(str(tmp_path / "whole.mkv"), "w") as copy:
        stream = copy.add_stream_from_template(whole.streams.video[0])
        for packet in whole.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                copy.mux(packet)
    data = (tmp_path / "whole.mkv").read_bytes()
    (tmp_path / "half.mkv").write_bytes(data[: len(data) // 2])
    assert s2v(arguments(video=tmp_path / "half.mkv", audio=talk, out=tmp_path / "out.mp4")) == 2
    assert "truncated" in capsys.readouterr().err
