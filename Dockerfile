# The service's image: Python, the packages that answering needs, and this one with its demo bundle. No torch.
#
#   docker build -t bst-ranker .
#   docker run --rm bst-ranker python -m service.keys me rank      # a key, and the line that makes it known: NAME SCOPES HASH
#   docker run --rm -p 127.0.0.1:8000:8000 -e RANKER_REDIS_URL=redis://host:6379/0 -e RANKER_KEYS='me rank sha256:…' bst-ranker
#   ... -v "$PWD/bundles:/bundles:ro" -e RANKER_BUNDLE=/bundles    # serves your own bundle instead of the demo's
#
# /bundles is what training wrote to, as `--out bundles`: the one bundle in it is served. Of several, name one:
# RANKER_BUNDLE=/bundles/bst_mine. Mount the folder of bundles and not a version: its `current` is a link within it.
# It runs with --read-only and no /tmp: its counts, 7 MB a worker, lie in /dev/shm.
#
# The embedded store is not in the image: RANKER_REDIS_URL must name one. docker-compose.yml brings one along. Without
# keys (RANKER_KEYS_FILE, RANKER_KEYS) the image does not start, since others reach it; RANKER_UNSAFE_NO_KEYS=true lets it.

# Both stages stand on the same base, or the environment's link to its Python would lead nowhere.
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS build

WORKDIR /src
# What installs packages has no business in the image, so it has an environment of its own.
RUN python -m venv /opt/tools && python -m venv --without-pip /opt/ranker

# Packages before sources: a change of code then leaves this layer, the large one, as it is.
COPY pyproject.toml constraints.txt .ci/requirements ./
# With the extra `otel`: spans are sent where OTEL_EXPORTER_OTLP_ENDPOINT says, and nowhere without it. Images for other
# work take other extras: EXTRAS=tables drains and prepares, EXTRAS=train trains (docs/kubernetes.md).
ARG EXTRAS=otel
# Whence torch comes without CUDA: https://download.pytorch.org/whl/cpu
ARG PIP_EXTRA_INDEX_URL=
RUN python requirements "$EXTRAS" > requirements.txt \
    && /opt/tools/bin/pip --python /opt/ranker/bin/python install --no-cache-dir \
        --requirement requirements.txt --constraint constraints.txt

COPY README.md LICENSE ./
COPY model model
COPY service service
RUN /opt/tools/bin/pip --python /opt/ranker/bin/python install --no-cache-dir --no-deps .

# What is in it, as CycloneDX JSON: /opt/ranker/sbom.json. Made by a tool that stays out of the image.
COPY .ci/sbom ./
RUN /opt/tools/bin/pip install --no-cache-dir --constraint constraints.txt cyclonedx-bom \
    && sh sbom /opt/tools/bin/cyclonedx-py /opt/ranker/bin/python /opt/ranker/sbom.json


FROM ${BASE}

COPY --from=build /opt/ranker /opt/ranker

# PYTHONUNBUFFERED: a log line leaves the process when it is written, so a killed process has said all it had to say.
# ORT_DISABLE_TELEMETRY, DO_NOT_TRACK: model/quiet.py sets them too; so does the image, for whatever else is run in it.
# RANKER_HOST: loopback would be the container's own; which address of the host is open, the port mapping decides.
# RANKER_ADMIN_PORT: probes and scrapes must be answered whatever the load is; 0 switches that process off.
ENV PATH=/opt/ranker/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    ORT_DISABLE_TELEMETRY=1 \
    DO_NOT_TRACK=1 \
    RANKER_HOST=0.0.0.0 \
    RANKER_ADMIN_PORT=8001

# By number, so that an orchestrator can see that it is not root; nothing in the image belongs to it.
USER 10001:10001
# An empty place of its own: `python -m` would import from whatever folder it starts in.
WORKDIR /run/ranker

EXPOSE 8000 8001
STOPSIGNAL SIGTERM

# Ready, not only alive: whoever waits for "healthy" wants answers. By http.client, since the image has no curl and
# urllib would ask the proxy that an environment may name. An answer other than 200, or none, is exit status 1.
HEALTHCHECK --interval=5s --timeout=3s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import http.client, os; c = http.client.HTTPConnection('127.0.0.1', int(os.environ.get('RANKER_ADMIN_PORT') or 0) or int(os.environ.get('RANKER_PORT', '8000')), timeout=2); c.request('GET', '/health/ready'); raise SystemExit(c.getresponse().status != 200)"]

# Exec form: the service itself is process 1 and gets the stop signal, not a shell that would swallow it.
CMD ["python", "-m", "service"]
