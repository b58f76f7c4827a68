# A node on an NVIDIA GPU (or, without one, on the CPU). From the root of the repository:
#   docker build -f containers/node.Dockerfile -t wanspec-node .
# torch's wheels for Linux bring the CUDA libraries; the host brings the driver and NVIDIA's container toolkit.
# docs/how-to/containers.md says how to run it.
FROM python:3.12-slim

WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY wanspec_p2p wanspec_p2p
COPY node node
COPY coordinator coordinator
RUN pip install --no-cache-dir --constraint constraints.txt ".[node]" \
    && useradd --uid 10001 --no-create-home wanspec \
    && install -d -m 0700 -o wanspec /data /cache

USER wanspec
WORKDIR /data
# /data: who this node is and where it belongs; never two containers on one. /cache: models, can be shared or lost.
ENV HOME=/data \
    WANSPEC_DATA_DIR=/data \
    WANSPEC_CACHE_DIR=/cache \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
VOLUME /data /cache
# Nothing is exposed: a node only dials out.
ENTRYPOINT ["wanspec"]
CMD ["node", "run", "--log-json"]
