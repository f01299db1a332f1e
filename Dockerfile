# The operator's image: one static program and nothing else.
#
#   docker buildx build --platform linux/amd64,linux/arm64 --build-arg REVISION=$(git rev-parse HEAD) .
#
# The program is linked against the C library statically, so that it runs where there is none; it resolves
# names by itself. It carries the list of what it was built from (cargo-auditable), which scanners read.

FROM --platform=$BUILDPLATFORM rust:1.95-bookworm AS build
ARG TARGETARCH
RUN <<SCRIPT
set -eu
case "$TARGETARCH" in
    amd64) triple=x86_64-unknown-linux-gnu cross="" ;;
    arm64) triple=aarch64-unknown-linux-gnu cross=arm64 ;;
    *) echo "there is no build for $TARGETARCH, only for amd64 and arm64" >&2; exit 1 ;;
esac
echo "$triple" > /triple
rustup target add "$triple"
[ "$(uname -m)-$cross" = x86_64-arm64 ] || exit 0
apt-get update
apt-get install -y --no-install-recommends gcc-aarch64-linux-gnu libc6-dev-arm64-cross
rm -rf /var/lib/apt/lists/*
SCRIPT
RUN cargo install --locked cargo-auditable@0.7.7
WORKDIR /src
COPY . .
ENV CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc \
    RUSTFLAGS="-C target-feature=+crt-static"
# What was compiled stays between builds; only what changed is compiled again.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target <<SCRIPT
set -eu
cargo auditable build --release --locked --bin mcp-operator --target "$(cat /triple)"
install -D "target/$(cat /triple)/release/mcp-operator" /out/mcp-operator
SCRIPT

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
