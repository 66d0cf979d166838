"""The four stages of the paper one after another, at tiny size, and a video from what came out."""

import pytest
import torch

pytest.importorskip("deepspeed")

from cli import main
from model.checkpoint import load_network
from tests.trainer.runs import losses_of, start, write_latents

TINY = ("tokens=400", "frames=16", "batch=2", "steps=2", "save_every=2", "precision=fp32", "workers=0")


def test_every_stage_starts_from_the_last_ones_checkpoint_and_the_end_generates(tiny, tmp_path):
    data = write_latents(tmp_path / "latents", ("speech", "film", "best"), clips=3)
    before, last = load_network(tiny, "cpu", torch.float32).state_dict(), tiny
    for stage in ("audio-encoder", "speech", "film-speech", "sft"):
        run = tmp_path / stage
        start(data, last, run, *TINY, "validation.every=0", "optimiser.warmup=0", stage=stage, ranks=1).wait()
        assert len(losses_of(run)) == 2
        last = run / "step-000002"
        if stage == "audio-encoder":
            export(last, tmp_path / "audio")
            after = load_network(tmp_path / "audio", "cpu", torch.float32).state_dict()
            moved = {name for name in after if not torch.equal(after[name], before[name])}
            assert moved
            assert all("audio_encoder" in name or "audio_injector" in name for name in moved)
    export(last, tmp_path / "final")
    arguments = ["--size", "64x64", "--seconds", "1", "--steps", "2", "--force"]
    command(
        *("generate", "--image", picture(tmp_path), "--audio", sound(tmp_path), "--prompt", "a man speaks"),
        *("--checkpoint", str(tmp_path / "final"), "--out", str(tmp_path / "out.mp4"), *arguments),
    )
    assert (tmp_path / "out.mp4").stat().st_size > 1000


def export(step, folder):
    command("export", str(step), "--out", str(folder), "--weights", "trained")


def command(*words):
    with pytest.raises(SystemExit) as ended:
        main(list(words))
    assert not ended.value.code


def picture(folder):
    import numpy as np
    from PIL import Image

    file = folder / "ref.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (96, 96, 3), np.uint8)).save(file)
    return str(file)


def sound(folder):
    import wave

    import numpy as np

    file = folder / "talk.wav"
    with wave.open(str(file), "wb") as out:
        out.setparams((1, 2, 16_000, 0, "NONE", ""))
        out.writeframes((np.random.default_rng(0).normal(0, 3000, 16_000)).astype("<i2").tobytes())
    return str(file)
