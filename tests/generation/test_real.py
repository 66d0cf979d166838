"""Slow checks: real people, four ranks, and another program's view of the file."""

import json
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pytest

from dataset.pictures import cover
from generation.mouth import track_mouths
from generation.pictures import frames_of
from tests.generation.films import s2v, watch

pytestmark = pytest.mark.real


@pytest.mark.parametrize("clip", ["talk_hdtf_01.mp4", "talk_vr_02.mp4", "two_dj_04.mp4"])
def test_a_real_talkers_mouth_changes_and_the_rest_stays(real_clips, tiny, talk, tmp_path, clip):
    out = tmp_path / "out.mp4"
    words = ["--size", "192x192", "--steps", "1", "--guidance", "1", "--seconds", "3", "--keep-pixels", "--force"]
    source = real_clips / clip
    files = ["--video", str(source), "--audio", talk, "--checkpoint", str(tiny), "--out", str(out)]
    assert s2v(["lipsync", *files, *words]) == 0
    film = watch(out).frames
    height, width = film.shape[1:3]
    kept = [cover(picture, height, width) for picture, _ in zip(frames_of(str(source)), film, strict=False)]
    mouths = track_mouths(kept, np.arange(len(kept)) / 16)
    masks = mouths.masks(0, len(kept), height, width)
    change = np.abs(film - np.stack(kept)).mean(axis=3)
    assert mouths.share > 0.8
    assert change[masks == 1].mean() > 20
    far = np.stack([cv2.dilate(mask, np.ones((17, 17))) for mask in masks]) == 0
    assert change[far].mean() < 5


def test_four_ranks_make_what_one_makes(options, tmp_path):
    """Two branches of guidance, each on two ranks."""
    assert s2v(options(tmp_path / "alone.mp4", seconds=6)) == 0
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=4", "-m", "cli"]
    done = subprocess.run([*command, *options(tmp_path / "shared.mp4", seconds=6)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Ulysses 2 x ring 1" in " ".join(done.stderr.split())
    difference = np.abs(watch(tmp_path / "alone.mp4").frames - watch(tmp_path / "shared.mp4").frames)
    assert difference.mean() < 1


@pytest.mark.parametrize("stream", [None, True])
def test_ffprobe_sees_the_same_length_and_start(options, tmp_path, stream):
    if not shutil.which("ffprobe"):
        pytest.skip("needs ffprobe (Debian: ffmpeg)")
    out = tmp_path / "out.mp4"
    assert s2v(options(out, stream=stream)) == 0
    asked = "stream=codec_type,start_time,duration,nb_read_frames,avg_frame_rate"
    probe = ["ffprobe", "-v", "error", "-count_frames", "-show_entries", asked, "-of", "json", str(out)]
    streams = json.loads(subprocess.run(probe, capture_output=True, text=True, check=True).stdout)["streams"]
    video, audio = sorted(streams, key=lambda s: s["codec_type"], reverse=True)
    assert video["nb_read_frames"] == "192"
    assert video["avg_frame_rate"] == "16/1"
    priming = 1024 / 48_000  # silence that AAC begins with, before time 0; in a whole file it isn't shown
    assert -priming - 0.001 < float(audio["start_time"]) - float(video["start_time"]) < 0.001
    assert abs(float(video["duration"]) - 12) < 0.001
    assert abs(float(audio["duration"]) - 12) < 0.03
