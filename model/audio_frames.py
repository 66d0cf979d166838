"""From wav2vec2's clock (50 states a second) to the video's (16 frames a second), as the official model hears."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

WAV2VEC_RATE = 50  # hidden states a second
STATE_RATE = 30  # states a second that video frames choose from
FRAME_RATE = 16  # video frames a second


def resample(states_LTC: Tensor, rate: float, target: float, length: int | None = None) -> Tensor:
    """(L, T, C) -> (L, T', C), linear in time with both ends kept. T' = int(T / rate * target), or `length`."""
    wanted = int(states_LTC.shape[1] / float(rate) * target) if length is None else length
    return F.interpolate(states_LTC.transpose(1, 2), size=wanted, mode="linear", align_corners=True).transpose(1, 2)


def state_indices(frames: int, fps: float = FRAME_RATE) -> np.ndarray:
    """(frames,) the state at 30 a second that each video frame hears: round half to even, of times taken in float64.

    The times are spread over the whole duration at once: ties at rates such as 24 then round as in the official code.
    """
    times = np.linspace(0.0, frames / fps, frames, endpoint=False)
    return np.round(times * STATE_RATE).astype(np.int64)


def pick_states(states_LNC: Tensor, indices: np.ndarray, context: int = 0) -> Tensor:
    """(L, N, C) at 30 a second -> (frames, L, C * (2 context + 1)): each frame's state, `context` neighbours each way.

    Before the first state there is the first; frames beyond the last hear zeros.
    """
    count = states_LNC.shape[1]
    wanted = torch.as_tensor(indices)
    around = (wanted[:, None] + torch.arange(-context, context + 1)).clamp(0, count - 1)
    picked = states_LNC[:, around.to(states_LNC.device)].flatten(2).transpose(0, 1)
    heard = (wanted < count).to(picked.device, picked.dtype)
    return picked * heard[:, None, None]


def clip_states(states_LTC: Tensor, clips: int, clip_frames: int, lead: int = 0) -> Tensor:
    """wav2vec2's states (L, T, C) at 50 a second -> (clips, L, C, clip_frames).

    lead: frames of the first clip that stand before the beginning of the sound. They hear its first state.
    """
    states = resample(states_LTC, WAV2VEC_RATE, STATE_RATE)
    indices = np.concatenate(
        [np.zeros(lead, np.int64), state_indices(clips * clip_frames)[: clips * clip_frames - lead]]
    )
    picked = pick_states(states, indices)
    return picked.unflatten(0, (clips, clip_frames)).permute(0, 2, 3, 1)
