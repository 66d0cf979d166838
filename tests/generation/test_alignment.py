"""A click in the sound is at the frame that it conditions: measured in the pictures, on a network that shows it.

Nothing in the network mixes frames here (self-attention and wav2vec2's transformer add nothing), so the first picture
that changes with a click tells which latent frame heard it. Latent j hears frames 4j - 5 to 4j + 3 of its clip and is
shown as frames 4j to 4j + 3; hence a click at frame k of a clip is first seen at its frame 4 (k // 4).
"""

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from dataset.video_out import VideoWriter
from tests.generation.conftest import RATE, write_wav
from tests.generation.films import s2v, watch

SECONDS = 157 / 16  # two clips, of 77 and 80 frames
CLICKS = (100, 101)  # frames of the second clip, on both sides of where one latent's hearing ends
ELSEWHERE = 155  # at its end: a reference whose sound has as much energy


def scale(folder, names, factor):
    """Multiply the parameters whose name has one of these words in it."""
    for file in folder.glob("*.safetensors"):
        tensors = load_file(file)
        for name, tensor in tensors.items():
            if any(word in name for word in names):
                tensor.mul_(factor)
        save_file(tensors, file, metadata={"format": "pt"})


@pytest.fixture(scope="module")
def checkpoint(copied):
    folder = copied()
    scale(folder, ("self_attn.o.",), 0)
    scale(folder, ("injector.0.o.", "injector.1.o."), 10)
    scale(
        folder / "wav2vec2-large-xlsr-53-english",
        (
            "attention.out_proj.",
            "feed_forward.output_dense.",
            "pos_conv_embed.conv.weight_g",
            "pos_conv_embed.conv.bias",
        ),
        0,
    )
    return folder


def with_click(path, frame):
    sound = 0.01 * np.random.default_rng(0).standard_normal(round(SECONDS * RATE))
    at = round(frame / 16 * RATE)  # wav2vec2's window begins at the frame's time, give or take 16 ms, and lasts 25 ms
    sound[at : at + RATE // 25] = 0.9
    return write_wav(path, sound)


@pytest.fixture
def written(options, checkpoint, tmp_path, monkeypatch):
    """Pictures that `s2v generate` writes for a sound with a click, as they go to the encoder, which isn't exact."""
    pictures = []
    monkeypatch.setattr(VideoWriter, "add", lambda self, added: (pictures.extend(added), setattr(self, "frames", 1)))

    def written(frame, **changed):
        pictures.clear()
        out = tmp_path / f"{frame}.mp4"
        sound = with_click(tmp_path / f"{frame}.wav", frame)
        s2v(options(out, audio=sound, checkpoint=checkpoint, guidance=1, force=True, **changed))
        return np.stack(pictures).astype(float)

    return written


@pytest.mark.parametrize(("changed", "shift"), [({}, 3), ({"upstream_alignment": True}, 0)])
def test_a_click_is_seen_at_the_frame_it_conditions(written, changed, shift):
    """shift: frames that the sound comes later, so that frame f of the video hears frame f of the sound."""
    without = written(ELSEWHERE, **changed)

    def onset(frame):
        change = np.abs(written(frame, **changed) - without).mean(axis=(1, 2, 3))[:140]
        return int(np.flatnonzero(change > 0.02 * change.max())[0])

    assert [onset(frame) for frame in CLICKS] == [4 * ((frame + shift) // 4) - 3 for frame in CLICKS]


def test_the_click_is_heard_where_it_was(options, checkpoint, tmp_path):
    out = tmp_path / "out.mp4"
    sound = with_click(tmp_path / "click.wav", 60)
    assert s2v(options(out, audio=sound, checkpoint=checkpoint, guidance=1, force=True, seconds=4)) == 0
    heard = np.flatnonzero(np.abs(watch(out).sound) > 0.4)[0] / RATE
    assert heard == pytest.approx(60 / 16, abs=0.002)
