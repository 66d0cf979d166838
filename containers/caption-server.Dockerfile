# syntax=docker/dockerfile:1
# What `s2v submit caption-server` runs: vLLM's own image, and `s2v caption serve`, which knows the flags for the GPUs.
#
#   docker build -f containers/caption-server.Dockerfile -t REGISTRY/s2v/caption-server:0.1.0 .
#
# The weights aren't in it: HF_HOME names a volume that keeps them, else each pod fetches its own.
ARG PYTHON=python:3.11.14-slim-bookworm
# The version is that of captioning/serve.py.
ARG BASE=vllm/vllm-openai:v0.32.0

FROM ${PYTHON} AS source
WORKDIR /s2v
COPY pyproject.toml README.md LICENSE cli.py ./
COPY dataset/ dataset/
COPY filters/ filters/
COPY captioning/ captioning/
COPY curation/ curation/
COPY model/ model/
COPY generation/ generation/
COPY trainer/ trainer/
COPY cluster/ cluster/
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM ${BASE}
COPY constraints.txt /opt/s2v/
# An environment beside vLLM's, with as much of s2v's needs as the one command has.
RUN --mount=type=bind,from=source,source=/wheels,target=/wheels \
    uv venv --allow-existing /opt/s2v \
 && uv pip install --no-cache --python /opt/s2v/bin/python -c /opt/s2v/constraints.txt \
    av opencv-python-headless pydantic pyyaml rich typer \
 && uv pip install --no-cache --python /opt/s2v/bin/python --no-deps /wheels/*.whl \
 && { getent passwd 1000 || useradd --uid 1000 s2v; } \
 && install -d -o 1000 -g 1000 /home/s2v
ENV PATH=$PATH:/opt/s2v/bin HOME=/home/s2v VLLM_NO_USAGE_STATS=1
USER 1000:1000
WORKDIR /home/s2v
RUN s2v caption serve --print && vllm --version
EXPOSE 8000
HEALTHCHECK --start-period=2h --interval=30s --timeout=10s \
    CMD ["python3", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/health', timeout=5)"]
ENTRYPOINT []
CMD ["s2v", "caption", "serve", "--host", "0.0.0.0"]
