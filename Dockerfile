# The operator's image: one static program and nothing else.
#
#   docker buildx build --platform linux/amd64,linux/arm64 --build-arg REVISION=$(git rev-parse HEAD) .
#
# The program is linked against the C library statically, so that it runs where there is none; it resolves
# names by itself. It carries the list of what it was built from (cargo-auditable), which scanners read.
#
# Tried on amd64 only, for both platforms, by buildah and on a stand-in for the base image; what CI builds is the
# last stage. Never tried: buildx, the base image itself, an arm64 machine. See docs/development.md.

ARG RUST=1.95.0
FROM --platform=$BUILDPLATFORM rust:$RUST-bookworm AS build
ARG RUST
# Whatever a file in the sources asks for, rustup fetches no other toolchain and no components.
ENV RUSTUP_TOOLCHAIN=$RUST
RUN --mount=type=cache,id=mcp-operator-registry,target=/usr/local/cargo/registry \
    cargo install --locked cargo-auditable@0.7.7
# What is above is made once, what is below once for each platform.
ARG TARGETARCH
RUN set -eu; \
    case "$TARGETARCH" in \
        amd64) triple=x86_64-unknown-linux-gnu compiler=gcc-x86-64-linux-gnu ;; \
        arm64) triple=aarch64-unknown-linux-gnu compiler=gcc-aarch64-linux-gnu ;; \
        *) echo "there is no build for '$TARGETARCH', only for amd64 and arm64" >&2; exit 1 ;; \
    esac; \
    echo "$triple" > /triple; \
    rustup target add "$triple"; \
    if [ "$(dpkg --print-architecture)" != "$TARGETARCH" ]; then \
        apt-get update; \
        apt-get install --yes --no-install-recommends "$compiler" "libc6-dev-$TARGETARCH-cross"; \
        rm -rf /var/lib/apt/lists/*; \
    fi
# Debian calls a native compiler by the same names. What is compiled from C finds them by itself.
ENV CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc \
    CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_LINKER=x86_64-linux-gnu-gcc \
    RUSTFLAGS="-C target-feature=+crt-static"
WORKDIR /src
COPY . .
# What was compiled stays between builds; only what changed is compiled again. Each platform has a folder of its own:
# cargo locks the one that it builds in, and the platforms are built at once.
RUN --mount=type=cache,id=mcp-operator-registry,target=/usr/local/cargo/registry \
    --mount=type=cache,id=mcp-operator-target,target=/target \
    set -eu; \
    triple=$(cat /triple); \
    cargo auditable build --release --locked --bin mcp-operator --target "$triple" --target-dir "/target/$triple"; \
    install -D "/target/$triple/$triple/release/mcp-operator" /out/mcp-operator

FROM scratch
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="mcp-operator" \
      org.opencontainers.image.description="Runs Model Context Protocol servers on Kubernetes" \
      org.opencontainers.image.source="https://github.com/mcp-operator/mcp-operator" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION"
COPY --from=build --chown=0:0 --chmod=0555 /out/mcp-operator /mcp-operator
# Nobody's: not root, and no owner of any file in the image.
USER 65532:65532
# Webhooks; health and metrics.
EXPOSE 9443 8080
ENTRYPOINT ["/mcp-operator"]
CMD ["run"]
