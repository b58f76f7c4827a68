# A coordinator: no torch, no models. From the root of the repository:
#   docker build -f containers/coordinator.Dockerfile -t wanspec-coordinator .
# docs/how-to/containers.md says how to run it.
FROM python:3.12-slim

WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY wanspec_p2p wanspec_p2p
COPY node node
COPY coordinator coordinator
RUN pip install --no-cache-dir --constraint constraints.txt . \
    && useradd --uid 10001 --no-create-home wanspec \
    && install -d -m 0700 -o wanspec /data

USER wanspec
WORKDIR /data
# Key, ledger and certificate: keep this volume, and back it up (wanspec coordinator backup).
# What `docker exec … wanspec coordinator token` has to know as well; flags are nobody's business but `run`'s.
ENV HOME=/data \
    WANSPEC_DATA_DIR=/data \
    WANSPEC_COORDINATOR_HOST=0.0.0.0
VOLUME /data
EXPOSE 8443
# Its own certificate, asked from within: nothing here could vouch for it, and nothing is sent.
HEALTHCHECK --start-period=10s --interval=10s --timeout=3s CMD ["python", "-c", "import ssl, urllib.request as web; web.urlopen('https://127.0.0.1:8443/health', context=ssl._create_unverified_context(), timeout=2)"]
ENTRYPOINT ["wanspec"]
CMD ["coordinator", "run", "--port", "8443", "--log-json"]
