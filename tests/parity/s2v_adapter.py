"""Our network behind the interface of the parity harness, so that golden sets can be run against it."""

import torch

from model.audio_frames import STATE_RATE, pick_states, resample, state_indices
from model.config import S2VConfig
from model.layout import PACKED, Layout, grid
from model.long_video import Request, make_clips
from model.names import from_official, to_official
from model.network import Conditions, S2VModel
from model.rope import angles, rotate
from model.sampler import Sampling
from model.schedulers import make_scheduler
from model.size import fit_size


def build(config):
    return S2VModel(S2VConfig.from_official(config, text_dim=config["text_dim"]))


def load_state_dict(model, weights):
    model.load_state_dict({from_official(name, model.config): w for name, w in weights.items()}, strict=True)


def named_parameters(model):
    return [(to_official(name, model.config), parameter) for name, parameter in model.named_parameters()]


def forward(
    model, *, x, t, context, ref_latents, motion_latents, cond_states, audio_input, motion_frames, add_last_motion,
    drop_motion_frames,
):  # fmt: skip
    assert tuple(motion_frames) == (73, 19)
    motion = None if drop_motion_frames else motion_latents
    t = t.reshape(-1).expand(len(x))
    return model(x, t, Conditions(context, audio_input, ref_latents, motion, cond_states, add_last_motion))


def audio_encoder(model, audio):
    tokens_global, tokens_local = model.audio_encoder(audio)
    return tokens_global[:, :, None], tokens_local


def frame_packer(model, latents, add_last_motion, drop_mode):
    levels, newest = tuple(PACKED), {0: 3, 1: 1, 2: 0}[add_last_motion]
    if drop_mode == "drop":
        levels, newest = {0: (4,), 1: (2, 4), 2: levels}[add_last_motion], 0
    h, w = latents.shape[-2:]
    layout = Layout.of(1, h // 2, w // 2, levels)
    turned = angles(layout.positions[-len(layout.rows[2]) :], model.config.head_dim)
    return model.frame_packer(latents[None], levels, newest)[0], torch.polar(torch.ones_like(turned), turned)


def rope_grid(start, end, span, head_dim):
    turned = angles(grid(start, [e - s for s, e in zip(start, end, strict=True)], span), head_dim)
    return torch.polar(torch.ones_like(turned), turned)


def rope_apply(x, freqs):
    return rotate(x, (freqs.real.float()[:, None], freqs.imag.float()[:, None]))


def bucket(feat, fps, batch_frames, m):
    clips = int(feat.shape[1] / (batch_frames * (STATE_RATE / fps))) + 1  # a whole number of clips gets one more
    return pick_states(feat, state_indices(clips * batch_frames, fps), context=m), clips


def interpolate(x, in_fps, out_fps, output_len):
    return resample(x, in_fps, out_fps, output_len)


def size_rule(h, w, target_area):
    return fit_size(h, w, target_area)


def schedule(kind, steps, shift):
    scheduler = make_scheduler(kind, steps, shift)
    return scheduler.sigmas, scheduler.timesteps


def sample(kind, steps, shift, x0, velocity):
    scheduler, states = make_scheduler(kind, steps, shift), [x0]
    for t in scheduler.timesteps:
        x = states[-1]
        states.append(scheduler.step(velocity(x, t), t, x).prev_sample)
    return states


class HarnessVAE:
    """The harness' VAE, which takes and returns lists."""

    def __init__(self, vae):
        self.vae = vae

    def encode(self, frames):
        return self.vae.encode([frames])[0]

    def decode(self, latents):
        return self.vae.decode([latents[None] if latents.dim() == 3 else latents])[0]


def clip_loop(model, vae, case, tensors):
    clips, frames = case["num_repeat"], case["infer_frames"]
    size = case["height"] // tensors["ref_image_u8"].shape[0]
    reference = tensors["ref_image_u8"].permute(2, 0, 1).float() / 127.5 - 1
    reference = reference.repeat_interleave(size, 1).repeat_interleave(size, 2)[:, None]
    pose = tensors["pose_sub8"].repeat_interleave(8, 2).repeat_interleave(8, 3)
    audio = tensors["audio_emb"][0, ..., : clips * frames].unflatten(-1, (clips, frames)).permute(2, 0, 1, 3)

    def pose_of(clip):
        return pose[:, clip * frames : (clip + 1) * frames] if case["use_pose"] else None

    request = Request(
        reference=reference,
        text=tensors["context"],
        negative=tensors["context_null"],
        audio=audio,
        pose=pose_of,
        first_frame=case["init_first_frame"],
    )
    sampling = Sampling(case["steps"], case["guide_scale"], case["shift"], case["solver"], case["seed"])
    made = make_clips(model, HarnessVAE(vae), request, sampling)
    return [{"latents": clip.latents, "frames": clip.frames} for clip in made]
