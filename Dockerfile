# The image of kmem_exporter. `make image` builds it with buildah; docker and podman do too:
#   docker build --build-arg VERSION=$(cat VERSION) --build-arg REVISION=$(git rev-parse --short=12 HEAD) .
# (buildah and podman: with --format docker, or the HEALTHCHECK is lost).

FROM docker.io/library/debian:bookworm-slim AS build
WORKDIR /src
# The tool chain is a layer of its own, which only the list of packages changes.
COPY deploy/install-deps deploy/install-deps
RUN deploy/install-deps program && rm -rf /var/lib/apt/lists/*
COPY CMakeLists.txt CMakePresets.json VERSION LICENSE ./
COPY collectors collectors
COPY exporter exporter
COPY deploy deploy
ARG REVISION=unknown
ARG BRANCH=unknown
RUN cmake --preset release -DBUILD_TESTING=OFF -DKMEM_GIT_REVISION="$REVISION" \
        -DKMEM_GIT_BRANCH="$BRANCH" --log-level=WARNING \
    && cmake --build --preset release --target kmem_exporter \
    && strip -o /kmem_exporter build/release/kmem_exporter \
    && rm -rf build

FROM docker.io/library/debian:bookworm-slim
# The libraries that the program is linked with; the last command fails if one is missing.
COPY --from=build /kmem_exporter /usr/bin/kmem_exporter
COPY LICENSE /usr/share/doc/kmem_exporter/LICENSE
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        libbpf1 libcivetweb1 libprometheus-cpp-core1.0 libspdlog1.10 libtracecmd1 libtracefs1 \
        libyaml-cpp0.7 \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/debconf/*-old /var/lib/dpkg/*-old \
        /var/log/* \
    && kmem_exporter --version

ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="kmem_exporter" \
      org.opencontainers.image.description="Prometheus exporter of the Linux kernel's kmem tracepoints" \
      org.opencontainers.image.source="https://github.com/kmem-exporter/kmem_exporter" \
      org.opencontainers.image.documentation="https://github.com/kmem-exporter/kmem_exporter/blob/main/docs/install.md" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION"

# tracefs goes by the owner of its files, so uid 0; it takes no capability. The in-kernel engine takes
# CAP_BPF and CAP_PERFMON and no file at all. Nothing is ever written below /.
USER 0:0
EXPOSE 15636
STOPSIGNAL SIGTERM
# bash is its own client. Where another port is configured, set HEALTHCHECK_PORT to it.
HEALTHCHECK --interval=30s --timeout=5s --start-period=10s --retries=3 CMD ["bash", "-c", \
    "exec 3<>/dev/tcp/127.0.0.1/${HEALTHCHECK_PORT:-15636} && printf 'GET /-/healthy HTTP/1.0\\r\\n\\r\\n' >&3 && read -r -t 4 answer <&3 && [[ $answer == HTTP/1.?' 200 '* ]]"]
ENTRYPOINT ["/usr/bin/kmem_exporter"]
