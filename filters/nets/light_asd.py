"""Light-ASD: does a face speak, by its lips and the sound? (Liao et al. 2023, https://github.com/Junhua-Liao/Light-ASD)

It sees a moving mouth together with a voice; it does not see whether the two are in sync. Modules carry the names of
the official weights, which are MIT. Use `pretrain_AVA_CVPR.model`: with `finetuning_TalkSet.model`, which has the same
names, moving lips score as speech even in digital silence.

Names of sizes: T video frames at 25 fps, C channels, H x W pixels, M = 13 cepstral coefficients.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from filters.nets import checkpoint
from filters.nets.mfcc import mfcc

FPS = 25
MFCC_PER_FRAME = 4
SIDE = 112  # pixels of a face crop
DURATIONS = (1, 2, 3, 4, 5, 6)  # seconds. Upstream lists some of them more than once, but in a set: each counts once
REACH = 6  # frames to each side that the visual embedding of a frame depends on: three layers of five
WIDTHS = (3, 5)  # of the two branches of each block
SIZE = 128  # of an embedding
REMEDY = "Use weight/pretrain_AVA_CVPR.model of https://github.com/Junhua-Liao/Light-ASD."


class Block(nn.Module):
    """Two branches of a convolution within the moment and one over time, summed, then mixed. Subclasses add them."""

    within: str  # how the official names call the first convolution

    def add(self, name: str, convolution: nn.Conv2d | nn.Conv3d) -> None:
        norm = nn.BatchNorm2d if isinstance(convolution, nn.Conv2d) else nn.BatchNorm3d
        self.add_module(name, convolution)
        self.add_module(f"bn_{name}", norm(convolution.out_channels, eps=1e-3))

    def step(self, name: str, x: Tensor) -> Tensor:
        return torch.relu(self.get_submodule(f"bn_{name}")(self.get_submodule(name)(x)))

    def forward(self, x: Tensor) -> Tensor:
        narrow, wide = (self.step(f"t_{k}", self.step(f"{self.within}_{k}", x)) for k in WIDTHS)
        return self.step("last", narrow + wide)


class VisualBlock(Block):
    """(B, C, T, H, W) -> (B, channels, T, H / stride, W / stride)."""

    within = "s"

    def __init__(self, channels_in: int, channels: int, stride: int = 1):
        super().__init__()
        for k in WIDTHS:
            pad = k // 2
            space = nn.Conv3d(channels_in, channels, (1, k, k), (1, stride, stride), (0, pad, pad), bias=False)
            self.add(f"s_{k}", space)
            self.add(f"t_{k}", nn.Conv3d(channels, channels, (k, 1, 1), 1, (pad, 0, 0), bias=False))
        self.add("last", nn.Conv3d(channels, channels, 1, bias=False))


class AudioBlock(Block):
    """(B, C, M, time) -> (B, channels, M, time)."""

    within = "m"

    def __init__(self, channels_in: int, channels: int):
        super().__init__()
        for k in WIDTHS:
            self.add(f"m_{k}", nn.Conv2d(channels_in, channels, (k, 1), 1, (k // 2, 0), bias=False))
            self.add(f"t_{k}", nn.Conv2d(channels, channels, (1, k), 1, (0, k // 2), bias=False))
        self.add("last", nn.Conv2d(channels, channels, 1, bias=False))


class VisualEncoder(nn.Module):
    """(B, 1, T, 112, 112) -> (B, T, 128)."""

    def __init__(self):
        super().__init__()
        self.block1, self.block2, self.block3 = VisualBlock(1, 32, stride=2), VisualBlock(32, 64), VisualBlock(64, SIZE)
        self.halve = nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1))

    def forward(self, x_B1THW: Tensor) -> Tensor:
        x_BCTHW = self.block3(self.halve(self.block2(self.halve(self.block1(x_B1THW)))))
        return x_BCTHW.amax(dim=(3, 4)).transpose(1, 2)


class AudioEncoder(nn.Module):
    """(B, 1, M, 4 T) -> (B, T, 128)."""

    def __init__(self):
        super().__init__()
        self.block1, self.block2, self.block3 = AudioBlock(1, 32), AudioBlock(32, 64), AudioBlock(64, SIZE)
        self.halve = nn.MaxPool2d((1, 3), (1, 2), (0, 1))

    def forward(self, x_B1Mt: Tensor) -> Tensor:
        x_BCMT = self.block3(self.halve(self.block2(self.halve(self.block1(x_B1Mt)))))
        return x_BCMT.mean(dim=2).transpose(1, 2)


class BothWays(nn.Module):
    """(B, T, 128) -> (B, T, 128): one GRU forward in time, then one backward over its output."""

    def __init__(self):
        super().__init__()
        self.gru_forward = nn.GRU(SIZE, SIZE, batch_first=True)
        self.gru_backward = nn.GRU(SIZE, SIZE, batch_first=True)

    def forward(self, x_BTC: Tensor) -> Tensor:
        x_BTC = nn.functional.gelu(self.gru_forward(x_BTC)[0])
        return nn.functional.gelu(self.gru_backward(x_BTC.flip(1))[0].flip(1))


class LightASD(nn.Module):
    """The three parts that scoring runs one by one. `lossV` takes part in training only; the official file has it."""

    def __init__(self):
        super().__init__()
        parts = {"visualEncoder": VisualEncoder(), "audioEncoder": AudioEncoder(), "GRU": BothWays()}
        self.model = nn.ModuleDict(parts)
        self.lossAV = nn.ModuleDict({"FC": nn.Linear(SIZE, 2)})
        self.lossV = nn.ModuleDict({"FC": nn.Linear(SIZE, 2)})

    def see(self, faces_THW: Tensor) -> Tensor:
        """Grey crops (T, 112, 112), 0 to 255 -> (T, 128)."""
        return self.model["visualEncoder"]((faces_THW[None, None].float() / 255 - 0.4161) / 0.1688)[0]

    def hear(self, mfcc_tM: Tensor) -> Tensor:
        """Coefficients (4 T, 13) as `mfcc` gives them, not normalised -> (T, 128)."""
        return self.model["audioEncoder"](mfcc_tM.T[None, None].float())[0]

    def judge(self, heard_TC: Tensor, seen_TC: Tensor) -> Tensor:
        """(T, 128) each -> (T,) logits of "speaks" (class 1), without softmax; above 0 is speech."""
        return self.lossAV["FC"](self.model["GRU"]((heard_TC + seen_TC)[None]))[0, :, 1]


def load(path: Path) -> LightASD:
    """The official weights on the CPU, ready for `scores`. Raises ValueError where the file holds something else: no
    tensors, or other names or shapes."""
    return checkpoint.filled(LightASD(), checkpoint.read(path, REMEDY), path, "Light-ASD", REMEDY)


def scores(net: LightASD, faces: np.ndarray, sound: np.ndarray) -> np.ndarray:
    """How surely the face speaks in each frame: the mean logit over cuts of the clip into chunks of 1, 2, .. 6 s.

    faces: (T, 112, 112) uint8 at 25 fps, from `face_crops`. sound: (samples,) int16 at 16 kHz from the same start.
    Returns (N,) float32, above 0 where it speaks: the first N frames that have four rows of `mfcc` each. Sound as
    long as the video ends one row early, so then N = T - 1, as upstream. Raises ValueError on other shapes or types.

    Equals upstream's `evaluate_network` (before its rounding), which runs the visual network once for each of the six
    cuts. Here it runs twice: see `visual_embeddings`.
    """
    if faces.dtype != np.uint8 or faces.shape[1:] != (SIDE, SIDE):
        raise ValueError(f"faces are (T, {SIDE}, {SIDE}) uint8, not {faces.shape} {faces.dtype}")
    if sound.dtype != np.int16 or sound.ndim != 1:
        raise ValueError(f"sound is (samples,) int16, not {sound.shape} {sound.dtype}")
    heard = mfcc(sound)
    frames = min(len(faces), len(heard) // MFCC_PER_FRAME)
    device = next(net.parameters()).device
    mfcc_tM = torch.tensor(heard[: frames * MFCC_PER_FRAME], dtype=torch.float32, device=device)
    seen = visual_embeddings(net, torch.tensor(faces[:frames], device=device))
    return mean_logits(net, seen, mfcc_tM).cpu().numpy()


def rounded(logits: np.ndarray) -> np.ndarray:
    """Scores as upstream stores and compares them, to one decimal."""
    return np.round(logits, 1)


@torch.inference_mode()
def visual_embeddings(net: LightASD, faces_THW: Tensor) -> tuple[Tensor, Tensor]:
    """(T, 128) of the clip cut at every second, and (T, 128) of the clip in one piece.

    An embedding depends on 6 frames to each side, and a chunk's neighbours beyond its ends count as nothing. All chunks
    begin and end at whole seconds. So near its ends a chunk has the values of the first, elsewhere those of the second;
    and the two differ near cuts only. Never more than a second of video is in the network.
    """
    frames = len(faces_THW)
    pieces = [net.see(faces_THW[start : start + FPS]) for start in range(0, frames, FPS)]
    cut_TC = torch.cat(pieces) if pieces else torch.zeros(0, SIZE, device=faces_THW.device)
    whole_TC = cut_TC.clone()
    for at in range(FPS, frames, FPS):
        seam_TC = net.see(faces_THW[at - 2 * REACH : at + 2 * REACH])
        whole_TC[at - REACH : at + REACH] = seam_TC[REACH : 3 * REACH]
    return cut_TC, whole_TC


@torch.inference_mode()
def mean_logits(net: LightASD, seen: tuple[Tensor, Tensor], mfcc_tM: Tensor) -> Tensor:
    """`scores` for faces that were seen already, so that one face can be judged with several sounds.

    seen: the two of `visual_embeddings`, (T, 128) each. mfcc_tM: (4 T, 13). Returns (T,).
    """
    cut_TC, whole_TC = seen
    frames = len(whole_TC)
    total_T = torch.zeros(frames, device=whole_TC.device)
    for seconds in DURATIONS:
        for start in range(0, frames, seconds * FPS):
            stop = min(start + seconds * FPS, frames)
            seen_TC = whole_TC[start:stop].clone()
            if start > 0:
                seen_TC[:REACH] = cut_TC[start:stop][:REACH]
            if stop < frames:
                seen_TC[-REACH:] = cut_TC[stop - REACH : stop]
            heard_TC = net.hear(mfcc_tM[start * MFCC_PER_FRAME : stop * MFCC_PER_FRAME])
            total_T[start:stop] += net.judge(heard_TC, seen_TC)
    return total_T / len(DURATIONS)
