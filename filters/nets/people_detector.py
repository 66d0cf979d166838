"""People in single images by RT-DETR."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import RTDetrForObjectDetection

# By name: the processor that transformers picks itself depends on whether torchvision is there.
from transformers.models.rt_detr.image_processing_pil_rt_detr import RTDetrImageProcessorPil

from filters.nets.device import device, placed
from filters.nets.snapshot import load

CERTAIN = 0.5
BATCH = 8  # images


class RTDetrDetector:
    def __init__(self, folder: Path):
        self._prepare = RTDetrImageProcessorPil()  # stretched to 640x640, from 0 to 1: what all RT-DETR were trained on
        self._net = placed(load(RTDetrForObjectDetection, folder))
        self._person = [n for n, label in self._net.config.id2label.items() if label.lower() == "person"]
        if not self._person:
            raise ValueError(f"{folder} knows no label 'person'. Give an RT-DETR trained on COCO or Objects365.")

    @torch.inference_mode()
    def __call__(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        """(N, 4) boxes of people in each image: x0, y0, x1, y1 in pixels from its left and upper edge.

        images: (H, W, 3) uint8 RGB. In full precision on a GPU too: places on the picture are sums of small steps.
        """
        found = []
        for start in range(0, len(images), BATCH):
            batch = list(images[start : start + BATCH])
            out = self._net(**self._prepare(batch, return_tensors="pt").to(device()))
            sizes = [image.shape[:2] for image in batch]
            for seen in self._prepare.post_process_object_detection(out, threshold=CERTAIN, target_sizes=sizes):
                people = np.isin(seen["labels"].cpu().numpy(), self._person)
                found.append(seen["boxes"].cpu().numpy()[people])
        return found
