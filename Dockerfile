# The server of many sessions in a container; docs/clients.md says how to run it, and what its sandboxes need.
#   docker build -t mlgym-mcp .
# No BuildKit syntax: the engine's API builds with the classic builder.
ARG BASE_IMAGE=python:3.11-slim

FROM ${BASE_IMAGE} AS wheel
WORKDIR /src
COPY LICENSE README.md pyproject.toml ./
COPY requirements ./requirements
COPY mlgym_mcp ./mlgym_mcp
COPY sandbox ./sandbox
COPY clients/mlgym_clients ./clients/mlgym_clients
COPY tasks ./tasks
RUN python3 -m pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM ${BASE_IMAGE}
RUN apt-get update \
 && apt-get install -y --no-install-recommends bubblewrap uidmap \
 && rm -rf /var/lib/apt/lists/*
COPY --from=wheel /wheels /wheels
COPY requirements/lock.txt /wheels/
RUN python3 -m venv /opt/mlgym \
 && /opt/mlgym/bin/pip install --no-cache-dir --constraint /wheels/lock.txt "$(ls /wheels/*.whl)[fast,otel,report]" \
 && rm -rf /wheels \
 && useradd --system --uid 999 --user-group --home-dir /var/lib/mlgym --create-home mlgym \
 && usermod --add-subuids 100000-165535 --add-subgids 100000-165535 mlgym \
 && chmod 700 /var/lib/mlgym
ENV MLGYM_HOME=/var/lib/mlgym PATH=/opt/mlgym/bin:${PATH} PYTHONUNBUFFERED=1
LABEL io.modelcontextprotocol.server.name=dev.mlgym/mlgym-mcp
USER mlgym
WORKDIR /var/lib/mlgym
VOLUME /var/lib/mlgym
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=10s --start-period=30s CMD ["python3", "-c", "import urllib.request as r; r.urlopen(r.Request('http://127.0.0.1:8000/api/health'), timeout=8)"]
ENTRYPOINT ["mlgym-mcp"]
CMD ["serve", "--http", "0.0.0.0:8000", "--allow-host", "localhost", "--allow-host", "127.0.0.1"]
