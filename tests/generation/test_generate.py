"""`s2v generate` from files to a file, with a complete random checkpoint in the official layout."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from dataset.video_out import VideoWriter
from model import long_video, vae
from model.launch import run_processes
from tests.generation.conftest import voice, write_wav
from tests.generation.films import s2v, watch


@pytest.fixture(scope="module")
def film(options, tmp_path_factory):
    """Three clips, made without any trouble."""
    out = tmp_path_factory.mktemp("film") / "out.mp4"
    assert s2v(options(out)) == 0
    return out


@pytest.fixture(scope="module")
def short(options, tmp_path_factory):
    """One second of it: one clip, of which most is cut."""
    out = tmp_path_factory.mktemp("short") / "out.mp4"
    assert s2v(options(out, seconds=1)) == 0
    return out


def alike(first: Path, second: Path) -> bool:
    """Equal but for rounding (a CPU may add up in another order from run to run) and what H.264 makes of it."""
    return np.abs(watch(first).frames - watch(second).frames).mean() < 1  # of 255; another seed: 18


def test_the_video_is_as_long_as_the_sound_to_the_frame(film):
    made = watch(film)
    assert len(made.frames) == 12 * 16
    assert np.allclose(made.times, np.arange(192) / 16, atol=1e-3)
    assert abs(len(made.sound) / 48_000 - 12) < 1024 / 48_000
    assert not film.with_name("out.mp4.latents").exists()


def test_the_sound_is_the_track_itself_where_it_was(film):
    made, track = watch(film).sound, voice(12)
    piece = track[96_000:144_000]
    lags = range(-60, 61, 4)
    match = [float(np.corrcoef(made[96_000 + lag : 144_000 + lag], piece)[0, 1]) for lag in lags]
    assert abs(lags[int(np.argmax(match))]) <= 8  # samples
    assert max(match) > 0.99


def test_the_same_seed_makes_the_same_video_and_another_one_another(options, short, tmp_path):
    assert s2v(options(tmp_path / "same.mp4", seconds=1)) == 0
    assert alike(tmp_path / "same.mp4", short)
    assert s2v(options(tmp_path / "other.mp4", seed=1, seconds=1)) == 0
    assert np.abs(watch(tmp_path / "other.mp4").frames - watch(short).frames).mean() > 10


def test_a_stopped_run_goes_on_with_the_next_clip(options, film, tmp_path, monkeypatch, capsys):
    """Stopped after two clips were sampled; the second run samples only the third, and the video is the same."""
    sampled = []
    original = long_video.sample_clip

    def stop_at_third(*args, **kwargs):
        if len(sampled) == 2:
            raise KeyboardInterrupt
        sampled.append(args[4])
        return original(*args, **kwargs)

    monkeypatch.setattr(long_video, "sample_clip", stop_at_third)
    out = tmp_path / "out.mp4"
    assert s2v(options(out)) == 130
    assert "run the same command again" in " ".join(capsys.readouterr().err.split())
    assert not out.exists()
    assert len(list(tmp_path.glob("out.mp4.latents/clip-*"))) == 2
    sampled.clear()
    assert s2v(options(out)) == 0
    assert sampled == [2]
    assert alike(out, film)


def test_latents_of_other_settings_are_not_used(options, tmp_path, monkeypatch):
    out = tmp_path / "out.mp4"
    monkeypatch.setattr(VideoWriter, "add", lambda self, pictures: (_ for _ in ()).throw(OSError("No space left")))
    assert s2v(options(out, seconds=1)) == 1
    kept = next(tmp_path.glob("out.mp4.latents/clip-*")).read_bytes()
    assert s2v(options(out, seconds=1, seed=3)) == 1
    assert next(tmp_path.glob("out.mp4.latents/clip-*")).read_bytes() != kept


def test_running_out_of_memory_in_the_decoder_loses_nothing(options, short, tmp_path, monkeypatch, capsys):
    def fail(self, latents):
        raise torch.OutOfMemoryError("CUDA out of memory")

    out = tmp_path / "out.mp4"
    with monkeypatch.context() as patched:
        patched.setattr(vae.VideoVAE, "decode", fail)
        assert s2v(options(out, seconds=1)) == 1
    told = " ".join(capsys.readouterr().err.split())
    assert "1 sampled clips are kept" in told
    assert "--tile 512" in told
    assert s2v(options(out, seconds=1)) == 0
    assert alike(out, short)


def test_a_streamed_video_plays_while_it_is_made(options, film, tmp_path, monkeypatch):
    lengths = []
    original = VideoWriter.add

    def add(self, pictures):
        original(self, pictures)
        shutil.copy(self.path, tmp_path / "so far.mp4")
        lengths.append(len(watch(tmp_path / "so far.mp4").frames))

    monkeypatch.setattr(VideoWriter, "add", add)
    out = tmp_path / "out.mp4"
    assert s2v(options(out, stream=True)) == 0
    assert lengths[0] >= 60  # of 77
    assert lengths[1] >= 140  # of 157
    made = watch(out)
    assert len(made.frames) == 192
    assert np.abs(made.frames - watch(film).frames).mean() < 6
    assert np.corrcoef(made.sound[48_000:96_000], voice(12)[48_000:96_000])[0, 1] > 0.99


def test_continuing_a_video_needs_no_warm_up_and_sees_its_end(options, film, tmp_path):
    """The end, made as a continuation of a video, has every frame and depends on what came before."""
    assert s2v(options(tmp_path / "next.mp4", audio_start=8, **{"continue": film})) == 0
    assert len(watch(tmp_path / "next.mp4").frames) == 4 * 16
    assert s2v(options(tmp_path / "fresh.mp4", audio_start=8)) == 0
    first, fresh = watch(tmp_path / "next.mp4").frames, watch(tmp_path / "fresh.mp4").frames
    assert np.abs(first[:60] - fresh[:60]).mean() > 3


def test_a_continuation_keeps_the_size_of_what_it_continues(options, short, tmp_path):
    assert s2v(options(tmp_path / "next.mp4", size="256x256", seconds=1, **{"continue": short})) == 0
    assert watch(tmp_path / "next.mp4").frames.shape == (16, 64, 64, 3)


def test_beginning_with_the_image_keeps_the_first_frames(options, film, tmp_path):
    out = tmp_path / "out.mp4"
    assert s2v(options(out, seconds=5, init_first_frame=True)) == 0  # 80 frames: one clip, of which nothing is cut
    assert len(watch(out).frames) == 80


def test_odd_lengths_and_formats_of_sound(options, tmp_path, capsys):
    """8 kHz stereo, shorter than a clip, and no whole number of frames."""
    sound = write_wav(tmp_path / "short.wav", voice(1.03, 8000), rate=8000, channels=2)
    assert s2v(options(tmp_path / "out.mp4", audio=sound)) == 0
    told = " ".join(capsys.readouterr().err.split())
    assert "8000 Hz" in told
    assert "a whole clip of 5 s is sampled, and cut" in told
    assert len(watch(tmp_path / "out.mp4").frames) == 17  # 16.48, rounded up


def test_two_ranks_under_torchrun_make_what_one_makes(options, film, tmp_path, capfd):
    """Guidance's branches on one rank each."""
    out = tmp_path / "out.mp4"
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "cli"]
    assert subprocess.run([sys.executable, *torchrun, *options(out)], timeout=300, check=False).returncode == 0
    assert "192 frames" in capfd.readouterr().err
    assert alike(out, film)


def test_two_ranks_without_guidance_make_what_one_makes(options, tmp_path, capfd):
    """The sequence on both, as --gpus does."""
    alone, shared = tmp_path / "alone.mp4", tmp_path / "shared.mp4"
    assert s2v(options(alone, guidance=1, seconds=6)) == 0
    assert run_processes(2, "cli", options(shared, guidance=1, seconds=6)) == 0
    assert "96 frames" in capfd.readouterr().err
    assert alike(alone, shared)


def test_a_mistake_under_several_ranks_is_told_once_and_without_a_traceback(options, tmp_path, capfd):
    assert run_processes(2, "cli", options(tmp_path / "out.mp4", image="/nowhere.png")) == 2
    told = capfd.readouterr().err
    assert told.count("There is no image") == 1
    assert "Traceback" not in told


def test_many_gpus_on_a_machine_without(options, tmp_path, capsys):
    assert s2v(options(tmp_path / "out.mp4", gpus=8)) == 2
    assert "this machine has" in capsys.readouterr().err


def test_a_pose_video_changes_the_picture(options, tmp_path, film):
    pose = tmp_path / "pose.mp4"
    with VideoWriter(str(pose), 64, 64, 16, None) as video:
        video.add(np.random.default_rng(0).integers(0, 255, (40, 64, 64, 3), np.uint8))
    assert s2v(options(tmp_path / "posed.mp4", seconds=3, pose=pose)) == 0
    assert np.abs(watch(tmp_path / "posed.mp4").frames - watch(film).frames[:48]).mean() > 3
