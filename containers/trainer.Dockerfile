# syntax=docker/dockerfile:1
# What `s2v submit train` runs: s2v with Ray, torch and DeepSpeed.
#
#   docker build -f containers/trainer.Dockerfile -t REGISTRY/s2v/trainer:0.1.0 .
#
# torch's wheels bring CUDA, and the trainer lets DeepSpeed compile nothing (plain AdamW, also on CPUs): no nvcc here.
ARG BASE=python:3.11.14-slim-bookworm

FROM ${BASE} AS source
WORKDIR /s2v
COPY pyproject.toml constraints.txt README.md LICENSE cli.py ./
COPY dataset/ dataset/
COPY filters/ filters/
COPY captioning/ captioning/
COPY curation/ curation/
COPY model/ model/
COPY generation/ generation/
COPY trainer/ trainer/
COPY cluster/ cluster/
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

# Other people's packages are a layer of their own: a change of s2v sends a small one after it.
FROM ${BASE} AS packages
COPY pyproject.toml constraints.txt /
RUN python -m venv /opt/s2v \
 && python -c "import tomllib; p = tomllib.load(open('/pyproject.toml', 'rb'))['project']; x = p['optional-dependencies']; \
print(*p['dependencies'], *x['model'], *(n for n in x['train'] if not n.startswith('s2v')), sep='\n')" > /needed.txt \
 && /opt/s2v/bin/pip install --no-cache-dir -c /constraints.txt -r /needed.txt

FROM ${BASE}
# wget: KubeRay before 1.6 probes and submits with it. A C compiler: Triton's, at run time. The verbs libraries: without them NCCL takes TCP between nodes, and says nothing.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends gcc libc6-dev ibverbs-providers libibverbs1 librdmacm1 wget \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --uid 1000 --create-home s2v \
 && echo "PATH=/opt/s2v/bin:\$PATH" > /etc/profile.d/s2v.sh
COPY --from=packages /opt/s2v /opt/s2v
RUN --mount=type=bind,from=source,source=/wheels,target=/wheels \
    /opt/s2v/bin/pip install --no-cache-dir --no-deps /wheels/*.whl
ENV PATH=/opt/s2v/bin:$PATH HOME=/home/s2v NVIDIA_DRIVER_CAPABILITIES=compute,utility RAY_USAGE_STATS_ENABLED=0
USER 1000:1000
WORKDIR /home/s2v
RUN s2v doctor && python -c "import trainer.zero" && python -m cluster.torchrun_on_ray --help > /dev/null && ray --version
CMD ["s2v", "train", "--help"]
