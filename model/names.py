"""The official checkpoint's parameter names and ours: a one-to-one map, by rules."""

import re
from collections.abc import Iterable

from model.config import S2VConfig

RENAMED = {
    "cond_encoder.": "pose_embedding.",
    "trainable_cond_mask.": "segment_embedding.",
    "casual_audio_encoder.encoder.padding_tokens": "audio_encoder.padding_token",
    "casual_audio_encoder.weights": "audio_encoder.layer_weights",
    "casual_audio_encoder.encoder.": "audio_encoder.",
}
INJECTOR = re.compile(r"audio_injector\.(?:injector\.(\d+)\.(.+)|injector_adain_layers\.(\d+)\.linear\.(.+))")
INJECTED = re.compile(r"blocks\.(\d+)\.audio_injector\.(?:attention\.(.+)|adain\.(.+))")


def from_official(name: str, config: S2VConfig) -> str:
    """Our name of an official parameter. The official injectors are numbered; ours live in their block."""
    if match := INJECTOR.fullmatch(name):
        number, attention, adain_number, adain = match.groups()
        layer = config.audio_inject_layers[int(number or adain_number)]
        inside = f"attention.{attention}" if attention else f"adain.{adain}"
        return f"blocks.{layer}.audio_injector.{inside}"
    for official, ours in RENAMED.items():
        if name.startswith(official):
            rest = name.removeprefix(official)
            return ours + (rest.replace(".conv.", ".") if official.startswith("casual") else rest)
    return name


def to_official(name: str, config: S2VConfig) -> str:
    """The official name of one of our parameters."""
    if match := INJECTED.fullmatch(name):
        layer, attention, adain = match.groups()
        number = config.audio_inject_layers.index(int(layer))
        kind = f"injector.{number}.{attention}" if attention else f"injector_adain_layers.{number}.linear.{adain}"
        return f"audio_injector.{kind}"
    for official, ours in RENAMED.items():
        if name.startswith(ours):
            rest = name.removeprefix(ours)
            if rest.startswith("conv"):
                rest = rest.replace(".", ".conv.", 1)
            return official + rest
    return name


def official_names(names: Iterable[str], config: S2VConfig) -> dict[str, str]:
    """{official name: our name}"""
    return {to_official(name, config): name for name in names}
