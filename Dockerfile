# The image of pointsman: the binary, the libraries it is linked to, and nothing else. No shell,
# no package manager, not root. scripts/check-image.sh builds and runs it without any registry.
#
#   docker build -t pointsman .
#   docker run --network host -v ./pointsman.toml:/etc/pointsman/pointsman.toml:ro pointsman

ARG BUILDER=docker.io/library/rust:1.95-bookworm

FROM ${BUILDER} AS build
ENV CARGO_HOME=/usr/local/cargo
WORKDIR /src
COPY . .
# Names of functions stay in the binary for backtraces, tables of lines do not.
RUN CARGO_PROFILE_RELEASE_STRIP=debuginfo cargo build --locked --release --bin pointsman

# Names are resolved by libc, so the binary is linked to it. ldd knows which files that takes.
RUN set -eu; \
    root=/image; \
    install -D -m 755 target/release/pointsman $root/usr/local/bin/pointsman; \
    for library in $(ldd target/release/pointsman | grep -o '/[^ ]*'); do \
        install -D -m 755 "$(readlink -f "$library")" "$root$library"; \
    done; \
    install -d -m 755 $root/etc/pointsman; \
    install -d -m 750 -o 65532 -g 65532 $root/var/lib/pointsman $root/run/pointsman; \
    echo 'hosts: files dns' >$root/etc/nsswitch.conf; \
    echo 'pointsman:x:65532:65532::/var/lib/pointsman:/usr/sbin/nologin' >$root/etc/passwd; \
    echo 'pointsman:x:65532:' >$root/etc/group

FROM scratch
ARG VERSION=dev
LABEL org.opencontainers.image.title="pointsman" \
      org.opencontainers.image.description="A failover-aware proxy for Redis and Valkey" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}"
COPY --from=build /image/ /
USER 65532:65532
# The record of the `embedded` authority. It must outlive the container.
VOLUME /var/lib/pointsman
# 6379: clients (whatever [[listener]] says). 9121: admin, on loopback unless the config says otherwise.
EXPOSE 6379 9121
STOPSIGNAL SIGTERM
# There is no curl in here: the binary asks its own admin server.
HEALTHCHECK --interval=5s --timeout=3s --start-period=5s --retries=3 \
    CMD ["/usr/local/bin/pointsman", "status"]
ENTRYPOINT ["/usr/local/bin/pointsman"]
CMD ["run", "--config", "/etc/pointsman/pointsman.toml"]
