# The package with both mini models, as `make demo` makes them.
#
#   docker build --tag unimur .
#   docker build --tag unimur --build-arg BASE=nvidia/cuda:13.0.1-base-ubuntu24.04 .     # for NVIDIA GPUs
#   docker run --publish 8000:8000 --volume $PWD/photos.index:/index unimur serve --index /index --host 0.0.0.0
#
# Any image with apt and Python 3.10 or newer may be the base.
ARG BASE=ubuntu:24.04
FROM ${BASE}

RUN apt-get update \
    && apt-get install --yes --no-install-recommends make python3 python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home unimur \
    && install --directory --owner unimur /app

USER unimur
WORKDIR /app
COPY --chown=unimur . .
RUN make demo

EXPOSE 8000
ENTRYPOINT ["/app/.venv/bin/unimur"]
CMD ["--help"]
