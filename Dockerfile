# One image for each of the four services, by the argument SERVICE; build from the repository's root.
#
#   docker build --build-arg SERVICE=writer -t chat-sync/writer:dev .
#
# With BINARIES=outside the programs are taken from ./bin instead of being compiled here.
ARG BINARIES=compiled

FROM rust:1.95-bookworm AS compiled
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    cargo build --release --locked -p external -p synchronizer -p writer -p internal --features platform/kafka-tls && \
    mkdir /out && cp target/release/external target/release/synchronizer target/release/writer target/release/internal /out/

FROM scratch AS outside
COPY bin/ /out/

FROM ${BINARIES} AS binaries

FROM gcr.io/distroless/cc-debian12:nonroot
ARG SERVICE
LABEL org.opencontainers.image.title="chat-sync ${SERVICE}" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0"
COPY --from=binaries --chmod=755 /out/${SERVICE} /usr/local/bin/service
USER 65532
ENTRYPOINT ["/usr/local/bin/service"]
