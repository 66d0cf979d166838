"""SyncNet: how well lips and sound fit together at which offset (Chung and Zisserman 2016, "Out of time").

Modules carry the names of the official weights, `syncnet_v2.model` of https://github.com/joonson/syncnet_python (MIT):
a plain state dict in torch's format of before 1.6, which `weights_only` reads, without counts of batches. LSE-C and
LSE-D, as papers on talking heads report them (Prajwal et al. 2020, Wav2Lip), are its confidence and its smallest
distance.

Names of sizes: T video frames at 25 fps, N = T - 5 windows of five frames, C = 1024 channels of an embedding.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from filters.nets import checkpoint
from filters.nets.mfcc import mfcc

FPS = 25
WINDOW = 5  # frames
SAMPLES = 640  # of sound a frame
ROWS_PER_FRAME, ROWS = 4, 20  # of `mfcc`: a frame's, a window's
REACH = 15  # frames: the largest offset looked at
SIDE = 224  # pixels of a face
SIZE = 1024  # of an embedding
CHUNK = 25  # windows that go through the visual network at once: 270 MB
REMEDY = "Use https://www.robots.ox.ac.uk/~vgg/software/lipsync/data/syncnet_v2.model."


def step(convolution: nn.Conv2d | nn.Conv3d) -> list[nn.Module]:
    norm = nn.BatchNorm2d if isinstance(convolution, nn.Conv2d) else nn.BatchNorm3d
    return [convolution, norm(convolution.out_channels), nn.ReLU(inplace=True)]


def embedding() -> nn.Sequential:
    return nn.Sequential(nn.Linear(512, 512), nn.BatchNorm1d(512), nn.ReLU(), nn.Linear(512, SIZE))


class SyncNet(nn.Module):
    """Two networks whose embeddings lie close together where lips and sound fit."""

    def __init__(self):
        super().__init__()
        self.netcnnaud = nn.Sequential(
            *step(nn.Conv2d(1, 64, 3, padding=1)),
            nn.Identity(),  # upstream: a pooling of one value
            *step(nn.Conv2d(64, 192, 3, padding=1)),
            nn.MaxPool2d(3, (1, 2)),
            *step(nn.Conv2d(192, 384, 3, padding=1)),
            *step(nn.Conv2d(384, 256, 3, padding=1)),
            *step(nn.Conv2d(256, 256, 3, padding=1)),
            nn.MaxPool2d(3, 2),
            *step(nn.Conv2d(256, 512, (5, 4))),
        )
        self.netfcaud = embedding()
        self.netfclip = embedding()
        self.netcnnlip = nn.Sequential(
            *step(nn.Conv3d(3, 96, (WINDOW, 7, 7), (1, 2, 2))),
            nn.MaxPool3d((1, 3, 3), (1, 2, 2)),
            *step(nn.Conv3d(96, 256, (1, 5, 5), (1, 2, 2), (0, 1, 1))),
            nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)),
            *step(nn.Conv3d(256, 256, (1, 3, 3), padding=(0, 1, 1))),
            *step(nn.Conv3d(256, 256, (1, 3, 3), padding=(0, 1, 1))),
            *step(nn.Conv3d(256, 256, (1, 3, 3), padding=(0, 1, 1))),
            nn.MaxPool3d((1, 3, 3), (1, 2, 2)),
            *step(nn.Conv3d(256, 512, (1, 6, 6))),
        )

    def see(self, faces_T3HW: Tensor) -> Tensor:
        """Faces (T, 3, 224, 224) BGR, 0 to 255 -> (T - 4, C), one for each window of five frames.

        Only the first layer looks at more than a moment, so this equals upstream, which stacks the windows: each frame
        five times.
        """
        lips = self.netcnnlip(faces_T3HW.transpose(0, 1)[None].float())
        return self.netfclip(lips[0, :, :, 0, 0].T)

    def hear(self, mfcc_N1Mt: Tensor) -> Tensor:
        """Coefficients (N, 1, 13, 20) of each window, as `mfcc` gives them -> (N, C)."""
        return self.netfcaud(self.netcnnaud(mfcc_N1Mt.float()).flatten(1))


@dataclass(frozen=True)
class Fit:
    """confidence: LSE-C, the median of the distances over offsets minus the smallest. distance: LSE-D, the smallest.
    offset: where it is, in frames; + means that the sound comes late. (Upstream's "AV offset" has the other sign.)"""

    confidence: float
    distance: float
    offset: int


def load(path: Path) -> SyncNet:
    """The official weights on the CPU, ready to run. Raises ValueError where the file holds something else."""
    net, found = SyncNet(), checkpoint.read(path, REMEDY)
    if isinstance(found, dict):  # the official file is without counts of batches, which nothing here reads
        found = {name: it for name, it in net.state_dict().items() if name.endswith("num_batches_tracked")} | found
    return checkpoint.filled(net, found, path, "SyncNet", REMEDY)


@torch.inference_mode()
def evaluate(net: SyncNet, faces: np.ndarray, sound: np.ndarray) -> Fit | None:
    """Equals upstream's `SyncNetInstance.evaluate`.

    faces: (T, 224, 224, 3) uint8 RGB at 25 fps, from `face_regions`. sound: (samples,) int16 at 16 kHz from the same
    start. None where they are shorter than six frames. Raises ValueError on other shapes or types.
    """
    if faces.dtype != np.uint8 or faces.shape[1:] != (SIDE, SIDE, 3):
        raise ValueError(f"faces are (T, {SIDE}, {SIDE}, 3) uint8, not {faces.shape} {faces.dtype}")
    if sound.dtype != np.int16 or sound.ndim != 1:
        raise ValueError(f"sound is (samples,) int16, not {sound.shape} {sound.dtype}")
    windows = min(len(faces), len(sound) // SAMPLES) - WINDOW
    if windows < 1:
        return None
    device = next(net.parameters()).device
    seen = []
    for start in range(0, windows, CHUNK):
        some = faces[start : min(start + CHUNK, windows) + WINDOW - 1, :, :, ::-1]
        seen.append(net.see(torch.tensor(some.copy(), device=device).movedim(-1, 1)))
    rows = torch.tensor(mfcc(sound), dtype=torch.float32, device=device)
    heard = torch.stack([rows[ROWS_PER_FRAME * i :][:ROWS].T for i in range(windows)])
    return fit(torch.cat(seen), net.hear(heard[:, None]))


def fit(seen_NC: Tensor, heard_NC: Tensor) -> Fit:
    """Mean distance of the windows' embeddings at every offset; what lies beyond the ends of the sound is zero."""
    padded = nn.functional.pad(heard_NC, (0, 0, REACH, REACH))
    count = len(seen_NC)
    offsets = range(2 * REACH + 1)
    mean = torch.stack([nn.functional.pairwise_distance(seen_NC, padded[k : k + count]).mean() for k in offsets])
    best = int(mean.argmin())
    return Fit(float(mean.median() - mean[best]), float(mean[best]), best - REACH)
