# Builds the server and leaves nothing else in the image. See docs/operating/docker.md.

FROM rust:1.95-slim-bookworm AS build
WORKDIR /build
COPY . .
# The cache mounts keep downloads and compiled dependencies between builds; what must stay is copied out.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/build/target \
    cargo build --release --locked --bin hearth \
    && cp target/release/hearth /usr/local/bin/hearth

FROM debian:bookworm-slim
# The identifiers are fixed so that a folder of the host can be given to this user.
RUN groupadd --system --gid 8008 hearth \
    && useradd --system --uid 8008 --gid hearth --no-create-home --home-dir /data hearth \
    && install --directory --owner=hearth --group=hearth --mode=0700 /data
COPY --from=build /usr/local/bin/hearth /usr/local/bin/hearth
# The authorities whose certificates other servers show; the slim image has none.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
USER hearth
# The configuration (/data/hearth.toml, written on the first start) and the data folder (/data/data).
WORKDIR /data
VOLUME /data
# Inside a container the loopback address reaches nobody.
ENV HEARTH_LISTEN__ADDRESSES=0.0.0.0:8008
# 8448 is for other servers, once the configuration has a certificate and listens there.
EXPOSE 8008 8448
ENTRYPOINT ["hearth"]
