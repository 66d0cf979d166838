"""What users give: each mistake is told in a sentence before any model is loaded, and right ones are read right."""

from functools import partial

import av
import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from dataset.media import AUDIO_RATE
from dataset.pictures import cover
from dataset.video_out import VideoWriter
from generation import studio
from generation.clip_frames import ClipFrames
from generation.job import Plan, parse_size
from generation.pictures import frames_of, read_image
from generation.sound import read_sound
from model.config import S2VConfig
from model.long_video import CLIP_FRAMES
from model.pixels import to_pictures, to_tensor
from tests.generation.conftest import RATE, voice, write_wav
from tests.generation.films import s2v, watch
from tests.videos import clicks, moving_square, write_video


@pytest.fixture(autouse=True)
def no_models(monkeypatch):
    def fail(*args, **kwargs):
        raise AssertionError("a model was loaded")

    for loader in ("load_text_encoder", "load_speech_encoder", "load_network", "load_vae"):
        monkeypatch.setattr(studio, loader, fail)


def saved_image(path, width, height):
    Image.new("RGB", (width, height), (90, 120, 160)).save(path)
    return path


def silent_wav(path):
    return write_wav(path, np.zeros(RATE))


def text_file(path):
    path.write_text("not media")
    return path


def cut_png(path):
    noise = np.random.default_rng(0).integers(0, 255, (200, 200, 3), np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:60_000])
    return path


def long_wav(path):
    """Three hours at a low rate."""
    return write_wav(path, np.zeros(3 * 3600 * 1000), rate=1000)


def half_video(path):
    whole = write_video(path.with_suffix(".mkv"), 8.0, picture=moving_square).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    return path


def mute_video(path):
    return write_video(path.with_suffix(".mp4"), 0.5)


@pytest.mark.parametrize(
    ("option", "make", "words"),
    [
        ("image", partial(saved_image, width=1, height=1), "at least 64"),
        ("image", partial(saved_image, width=20_000, height=5_100), "more than 100 million"),
        ("image", partial(saved_image, width=300, height=200), "No face was found"),
        ("image", text_file, "is not an image"),
        ("image", cut_png, "is damaged"),
        ("image", lambda path: "/nowhere.png", "There is no image"),
        ("audio", text_file, "not a sound file"),
        ("audio", silent_wav, "is silent"),
        ("audio", long_wav, "--seconds"),
        ("audio", mute_video, "no audio stream"),
        ("audio", lambda path: "/nowhere.wav", "no such file"),
        ("audio-start", lambda path: 60, "0.5 s are needed"),
        ("continue", text_file, "not a video"),
        ("pose", lambda path: "/nowhere.mp4", "no such file"),
        ("pose", text_file, "not a video"),
        ("pose", half_video, "truncated"),
        ("checkpoint", lambda path: "/nowhere", "does not exist"),
        ("checkpoint", lambda path: path.parent, "Wan-AI/Wan2.2-S2V-14B"),
        ("size", lambda path: "huge", "WIDTHxHEIGHT"),
        ("size", lambda path: "9x9", "between 64x64"),
        ("out", lambda path: "out.avi", "ends in .mp4"),
        ("out", lambda path: "/nowhere/out.mp4", "does not exist"),
        ("tile", lambda path: 100, "multiple of 64"),
        ("solver", lambda path: "euler", "unipc, dpmpp"),
        ("seconds", lambda path: -1, "more than 0"),
    ],
)
def test_mistakes(options, tmp_path, capsys, option, make, words):
    suffix = {"image": ".png", "audio": ".wav"}.get(option, ".mp4")
    changed = {option: make(tmp_path / f"given{suffix}")}
    assert s2v(options(**{"out": tmp_path / "out.mp4", **changed})) == 2
    assert words in " ".join(capsys.readouterr().err.split())
    assert not list(tmp_path.glob("out.mp4*"))


def test_the_video_must_not_overwrite_what_it_is_made_from(options, tmp_path, capsys):
    video = write_video(tmp_path / "in.mp4", 1.0)
    assert s2v(options(video, **{"continue": video})) == 2
    assert "also given as input" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("remove", "words"),
    [
        ("Wan2.1_VAE.pth", "the VAE"),
        ("models_t5_umt5-xxl-enc-bf16.pth", "the text encoder"),
        ("diffusion_pytorch_model-00002-of-00002.safetensors", "diffusion_pytorch_model-00002"),
    ],
)
def test_an_incomplete_checkpoint_is_told_before_long_work(options, copied, tmp_path, capsys, remove, words):
    folder = copied()
    (folder / remove).unlink()
    assert s2v(options(tmp_path / "out.mp4", checkpoint=folder)) == 2
    assert words in " ".join(capsys.readouterr().err.split())


def test_a_damaged_vae_is_told_before_long_work(options, copied, tmp_path, capsys):
    vae = copied() / "Wan2.1_VAE.pth"
    vae.write_bytes(vae.read_bytes()[:-5000])
    assert s2v(options(tmp_path / "out.mp4", checkpoint=vae.parent)) == 2
    assert "Wan2.1_VAE.pth" in capsys.readouterr().err


def test_a_misshapen_tensor_is_named_before_long_work(options, copied, tmp_path, capsys):
    folder = copied()
    file = folder / "diffusion_pytorch_model-00001-of-00002.safetensors"
    tensors = load_file(file)
    name = next(name for name in tensors if name.endswith("self_attn.q.weight"))
    save_file(tensors | {name: tensors[name][:-1].clone()}, file, metadata={"format": "pt"})
    assert s2v(options(tmp_path / "out.mp4", checkpoint=folder)) == 2
    assert name in capsys.readouterr().err


def test_a_picture_is_turned_upright_and_its_middle_shown(tmp_path):
    picture = np.zeros((80, 120, 3), np.uint8)
    picture[:, :60] = 255
    rotated = Image.fromarray(picture)
    exif = rotated.getexif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    rotated.save(tmp_path / "turned.png", exif=exif)
    upright = read_image(str(tmp_path / "turned.png"))
    assert upright.shape == (120, 80, 3)
    assert upright[:40].mean() > 250 > 5 > upright[-40:].mean()
    assert cover(upright, 64, 64).shape == (64, 64, 3)


def test_the_picture_shown_at_each_sixteenth_of_a_second(tmp_path):
    """Brightness is time: 20 + 10 a second. At 25 a second, and with irregular times."""
    steady = write_video(tmp_path / "steady.mp4", 3.0)
    shown = np.array([picture.mean() for picture in frames_of(str(steady))])
    assert len(shown) == 48
    frame_shown = np.floor(np.arange(48) / 16 * 25 + 1e-6) / 25
    assert np.abs(shown - np.round(20 + 10 * frame_shown)).max() <= 1.5
    times = [0.0, 0.1, 0.5, 1.5, 1.6, 2.4]
    uneven = write_video(tmp_path / "uneven.mp4", times=times)
    shown = np.array([picture.mean() for picture in frames_of(str(uneven))])
    last = np.array([max(t for t in times if t <= k / 16 + 0.004) for k in range(38)])
    assert np.abs(shown[:38] - np.round(20 + 10 * last)).max() <= 1.5


def test_every_clip_gets_its_own_frames_of_a_pose_video(tmp_path):
    """The first clip begins 3 frames early, with the first picture; the last picture stays; then there is no pose."""
    path = write_video(tmp_path / "pose.mp4", 8.0, fps=16)
    plan = Plan(96, 128, 300, cut=3, lead=3)
    frames = ClipFrames(str(path), plan)
    brightness = [np.array(to_pictures(frames(clip)).mean(axis=(1, 2, 3))) for clip in (0, 1)]
    for clip, seen in enumerate(brightness):
        wanted = np.clip(np.arange(CLIP_FRAMES) + clip * CLIP_FRAMES - 3, 0, 8 * 16 - 1) / 16
        assert np.abs(seen - np.round(20 + 10 * wanted)).max() <= 1.5
    assert frames(2) is None


def test_what_is_written_looks_and_sounds_like_what_was_given(tmp_path):
    colours = np.array([[200, 40, 30], [30, 180, 60], [20, 60, 200], [128, 128, 128]], np.uint8)
    pictures = np.repeat(np.repeat(colours.reshape(2, 2, 3), 64, 0), 64, 1)[None].repeat(32, 0)
    sound = np.repeat(clicks(2.0)[None], 2, 0)
    with VideoWriter(str(tmp_path / "out.mp4"), 128, 128, 16, sound) as video:
        video.add(pictures)
    film = watch(tmp_path / "out.mp4")
    assert np.abs(film.frames - pictures)[:, 16:48, 16:48].mean() < 3
    assert np.abs(np.flatnonzero(np.abs(film.sound) > 0.4)[0] - RATE // 2) < 100
    assert np.abs(to_pictures(to_tensor(list(pictures))) - pictures).max() == 0


@pytest.mark.parametrize(("rate", "channels"), [(8000, 2), (44_100, 1), (48_000, 2)])
def test_sound_of_any_rate_is_heard_alike(tmp_path, rate, channels):
    sound = read_sound(write_wav(tmp_path / "a.wav", voice(2, rate), rate, channels), start=0.5, seconds=1)
    expected = voice(2, AUDIO_RATE)[AUDIO_RATE // 2 : AUDIO_RATE * 3 // 2]
    assert sound.speech.shape == (AUDIO_RATE,)
    assert sound.track.shape == (2, RATE)
    assert sound.frames == 16
    assert np.corrcoef(sound.speech[100:-100], expected[100:-100])[0, 1] > 0.97


def test_sound_is_read_to_its_end_whatever_the_header_says(tmp_path):
    """Raw AAC has no header to tell its length, and a guess from the first frames is wrong."""
    sound = np.concatenate([voice(2), np.zeros(6 * RATE), voice(2)]).astype(np.float32)
    with av.open(str(tmp_path / "a.aac"), "w", format="adts") as file:
        stream = file.add_stream("aac", rate=RATE, layout="mono")
        for at in range(0, len(sound), 1024):
            piece = av.AudioFrame.from_ndarray(np.ascontiguousarray(sound[None, at : at + 1024]), "fltp", "mono")
            piece.sample_rate, piece.pts = RATE, at
            file.mux(stream.encode(piece))
        file.mux(stream.encode(None))
    assert abs(read_sound(str(tmp_path / "a.aac")).speech.size / AUDIO_RATE - 10) < 0.05


def test_a_network_that_does_not_fit_is_refused(options, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(S2VConfig, "weight_bytes", lambda self: 10**13)
    assert s2v(options(tmp_path / "out.mp4")) == 2
    assert "are needed" in capsys.readouterr().err


def test_sizes():
    assert parse_size("1024x704") == parse_size("704*1024") == 1024 * 704
    assert Plan.of((480, 832), 1024 * 704, 80, has_past=True).clips == 1
    assert Plan.of((480, 832), 1024 * 704, 80, has_past=False).clips == 2
    plan = Plan.of((480, 832), 1024 * 704, 1, has_past=True)
    assert (plan.height, plan.width) == (512, 832)  # as the official code has it: small pictures grow
