# syntax=docker/dockerfile:1
# What `s2v submit curate` and `s2v submit preflight` run: s2v with Ray, and torch for the recipe `paper`.
#
#   docker build -f containers/curation.Dockerfile -t REGISTRY/s2v/curation:0.1.0 .
#
# For CPUs alone (recipe `embedded`) and several GB less: --build-arg EXTRA=
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
ARG EXTRA=paper
COPY pyproject.toml constraints.txt /
RUN python -m venv /opt/s2v \
 && python -c "import tomllib; p = tomllib.load(open('/pyproject.toml', 'rb'))['project']; \
print(*p['dependencies'], *p['optional-dependencies'].get('${EXTRA}', ()), sep='\n')" > /needed.txt \
 && /opt/s2v/bin/pip install --no-cache-dir -c /constraints.txt -r /needed.txt

FROM ${BASE}
# wget: KubeRay before 1.6 probes and submits with it.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends wget \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --uid 1000 --create-home s2v \
 && echo "PATH=/opt/s2v/bin:\$PATH" > /etc/profile.d/s2v.sh
COPY --from=packages /opt/s2v /opt/s2v
RUN --mount=type=bind,from=source,source=/wheels,target=/wheels \
    /opt/s2v/bin/pip install --no-cache-dir --no-deps /wheels/*.whl
ENV PATH=/opt/s2v/bin:$PATH HOME=/home/s2v NVIDIA_DRIVER_CAPABILITIES=compute,utility RAY_USAGE_STATS_ENABLED=0
USER 1000:1000
WORKDIR /home/s2v
# The weights of the recipe `embedded`; those of `paper` have licences of their own: S2V_CACHE names a volume for them.
RUN s2v doctor --fetch && ray --version \
 && python -c "import ai_edge_litert.interpreter, av, cv2, onnxruntime, rapidocr"
CMD ["s2v", "--help"]
