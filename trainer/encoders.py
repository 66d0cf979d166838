"""From pictures, sound and words to what the network learns: VAE, wav2vec2 and umT5, frozen, as sampling uses them.

Everything ends as float16, whether it is kept in latent shards or not, so that training from one or the other is the
same to the bit on the same kind of machine. Nothing is random: the VAE gives the mode of its distribution.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from model.audio_encoder import MOTION_FRAMES
from model.audio_frames import STATE_RATE, WAV2VEC_RATE, pick_states, resample, state_indices
from model.checkpoint import PARTS, Checkpoint, network_config
from model.config import AUDIO_LAYERS, LATENT_STRIDE, MOTION_LATENTS, S2VConfig
from model.long_video import pose_latents
from model.pixels import to_tensor
from model.speech_encoder import SpeechEncoder, load_speech_encoder
from model.text_encoder import TextEncoder, load_text_encoder
from model.vae import VideoVAE, load_vae
from trainer.reading import Unreadable
from trainer.sample import Clip, Example, Pixels, Shape

ENCODERS = ("vae", "text_encoder", "tokenizer", "speech_encoder")  # parts of a checkpoint
LARGEST = torch.finfo(torch.float16).max
BLOCK, BLOCKS = 64 << 10, 16  # what `digest` reads of a file: bytes, evenly spread


@dataclass(frozen=True)
class Widths:
    """Sizes of what the encoders give, beside the clip's own. text_len: the most tokens of a caption."""

    channels: int
    audio_dim: int
    text_dim: int
    text_len: int

    def shapes(self, shape: Shape) -> dict[str, tuple[int, ...]]:
        """The shape of each tensor of an `Example`; of texts the largest."""
        channels, frames = self.channels, shape.latent_frames
        h, w = shape.height // LATENT_STRIDE, shape.width // LATENT_STRIDE
        text = (self.text_len, self.text_dim)
        return {
            "latent": (channels, frames, h, w),
            "motion": (channels, MOTION_LATENTS, h, w),
            "reference": (channels, 1, h, w),
            "pose": (channels, frames, h, w),
            "audio": (AUDIO_LAYERS, self.audio_dim, shape.frames),
            "text": text,
            "no_text": text,
        }


@dataclass
class Encoders:
    vae: VideoVAE
    text: TextEncoder
    speech: SpeechEncoder
    device: torch.device

    @classmethod
    def load(cls, checkpoint: Checkpoint, device: torch.device | str) -> "Encoders":
        """All three. On a CPU they stay views of their files where their type allows it."""
        checkpoint.require(*ENCODERS)
        words = checkpoint.path("text_encoder"), checkpoint.path("tokenizer")
        return cls(
            load_vae(checkpoint.path("vae"), device),
            load_text_encoder(*words, device, max_tokens=config_of(checkpoint).text_len),
            load_speech_encoder(checkpoint.path("speech_encoder"), device),
            torch.device(device),
        )

    @property
    def widths(self) -> Widths:
        return Widths(
            self.vae.network.config.z_dim,
            self.speech.network.config.hidden_size,
            self.text.network.config.d_model,
            self.text.max_tokens,
        )

    def encode(self, pixels: Pixels) -> Example:
        """On the encoders' device: tensors that training may use, even where the caller is in inference mode."""
        clip = pixels.request.clip
        with torch.inference_mode(False), torch.no_grad(), one_thread(self.device):
            motion, latent = self.video(pixels)
            tensors = {
                "latent": latent,
                "motion": motion,
                "reference": self.vae.encode(to_tensor([pixels.reference])),
                "pose": self.pose(pixels, latent),
                "audio": self.audio(pixels),
                "text": self.words(pixels.caption),
                "no_text": self.no_text,
            }
            halves = {name: half(tensor, name, clip).to(self.device) for name, tensor in tensors.items()}
        return Example(clip.clip_id, clip.kind, pixels.request.epoch, **halves)

    def video(self, pixels: Pixels) -> tuple[Tensor, Tensor]:
        """(16, 19, h, w) of the 73 frames before, and (16, F, h, w) of the video, out of one pass.

        The VAE is causal: motion is what the 73 frames alone would give, and the video's latents are those of a video
        that goes on after them. Sampling decodes them just so (`model.long_video.make_clips`). Frames of the past that
        the clip lacks are grey, and come first.
        """
        frames = to_tensor(list(pixels.frames))
        missing = MOTION_FRAMES - (frames.shape[1] - pixels.window.frames)
        grey = frames.new_zeros(3, missing, *frames.shape[2:])
        latents = self.vae.encode(torch.cat([grey, frames], 1))
        return latents[:, :MOTION_LATENTS], latents[:, MOTION_LATENTS:]

    def pose(self, pixels: Pixels, latent: Tensor) -> Tensor:
        encoded = pose_latents(self.vae, None if pixels.pose is None else to_tensor(list(pixels.pose)))
        return torch.zeros_like(latent) if encoded is None else encoded[0]

    def audio(self, pixels: Pixels) -> Tensor:
        """(25, C, 4 F): what the window's frames hear of the whole clip's sound, on the clip's own clock."""
        window = pixels.window
        if not len(pixels.speech):
            return torch.zeros(AUDIO_LAYERS, self.widths.audio_dim, window.frames)
        states = resample(self.speech.states(pixels.speech), WAV2VEC_RATE, STATE_RATE)
        return pick_states(states, state_indices(window.end)[window.start :]).permute(1, 2, 0)

    def words(self, caption: str) -> Tensor:
        return self.text.encode([caption])[0]

    @cached_property
    def no_text(self) -> Tensor:
        return self.words("")


@contextmanager
def one_thread(device: torch.device) -> Iterator[None]:
    """On a CPU, sums depend on how many threads share them: a worker of `s2v encode` has one, a training run many."""
    threads = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def half(tensor: Tensor, name: str, clip: Clip) -> Tensor:
    """In float16, by itself in memory. Numbers beyond its range become its largest one; what is no number is refused.

    Latents are normalised and text states end with a norm; only wav2vec2's inner states, which no norm bounds, could
    leave that range (65,504), in single channels. The largest number is then the nearest to what sampling hears;
    infinity would end the run, and refusing would lose the clip.
    """
    if not tensor.isfinite().all():
        remedy = "check the clip's pictures and sound; if all clips fail, download the encoders' weights again"
        raise Unreadable(clip, f"its encoded {name} has values that are no numbers", remedy)
    # Clamped in float32: bfloat16 would round the limit up, and out of range.
    return tensor.float().clamp(-LARGEST, LARGEST).half().contiguous()


def config_of(checkpoint: Checkpoint) -> S2VConfig:
    """Of the network that the encoders work for. It needn't be there: then it is taken for the official one."""
    return S2VConfig() if checkpoint.lacks("network") else network_config(checkpoint)


def digest(checkpoint: Checkpoint) -> str:
    """Of the encoders' files: names, sizes, and samples of their content all the way through, so that other weights
    of the same shapes are told apart, and a copy with new dates is not. Edits of a few bytes may go unseen.
    """
    found = hashlib.blake2b(digest_size=12)
    for part in ENCODERS:
        path = checkpoint.path(part)
        files = [path] if path.is_file() else sorted(f for name in PARTS[part].holds for f in path.glob(name))
        for file in files:
            found.update(f"{part}/{file.name}:{file.stat().st_size}".encode())
            for block in blocks(file):
                found.update(block)
    return found.hexdigest()


def blocks(file: Path) -> Iterator[bytes]:
    """The first and the last block of a file, and others evenly between: all of it where it is small."""
    last = max(file.stat().st_size - BLOCK, 0)
    with file.open("rb") as opened:
        for offset in sorted({last * i // (BLOCKS - 1) for i in range(BLOCKS)}):
            opened.seek(offset)
            yield opened.read(BLOCK)
