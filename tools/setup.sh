#!/bin/sh
# Installs what GRAF needs on a Debian or Ubuntu machine: system packages for the lab and its images, uv, and the
# locked Python environment with .venv/bin/graf. Can be run again at any time; it installs only what is missing.
set -eu
cd "$(dirname "$0")/.."

# program or file -> Debian package
NEEDED="
ip:iproute2
nft:nftables
nsenter:util-linux
sysctl:procps
git:git
bird:bird2
knotd:knot
conntrack:conntrack
mmdebstrap:mmdebstrap
buildah:buildah
gcc:gcc
/usr/include/stdio.h:libc6-dev
/etc/ssl/certs/ca-certificates.crt:ca-certificates
pkg-config:pkg-config
rsync:rsync
restic:restic
rclone:rclone
openssl:openssl
mariadbd:mariadb-server-core
mariadb:mariadb-client-core
mariadb-backup:mariadb-backup
mariadb-binlog:mariadb-client
redis-server:redis-server
/usr/share/doc/libseccomp-dev:libseccomp-dev
/usr/share/doc/libnftables1:libnftables1
"
PATH="$PATH:/usr/sbin:/sbin"

missing=""
for entry in $NEEDED; do
    what="${entry%%:*}"
    package="${entry#*:}"
    case "$what" in
        /*) [ -e "$what" ] || missing="$missing $package" ;;
        *) command -v "$what" >/dev/null 2>&1 || missing="$missing $package" ;;
    esac
done

if [ -n "$missing" ]; then
    install="apt-get install -y --no-install-recommends$missing"
    if ! command -v apt-get >/dev/null 2>&1; then
        echo "setup: missing:$missing" >&2
        echo "setup: this is no Debian or Ubuntu; install the packages of these names with its own tool" >&2
        exit 1
    fi
    if [ "$(id -u)" -ne 0 ]; then
        echo "setup: missing:$missing" >&2
        echo "setup: run as root: $install" >&2
        exit 1
    fi
    echo "setup: $install"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -q
    # shellcheck disable=SC2086  # a list of package names
    apt-get install -y -q --no-install-recommends $missing || {
        echo "setup: failed: $install" >&2
        exit 1
    }
fi

# BIRD's package starts a router of its own; the lab runs BIRD only inside its namespaces.
if command -v systemctl >/dev/null 2>&1 && systemctl is-active --quiet bird 2>/dev/null; then
    echo "setup: note: the machine's own BIRD is running; the lab does not need it (systemctl disable --now bird)"
fi

if ! command -v uv >/dev/null 2>&1; then
    echo "setup: pip install uv"
    if ! python3 -m pip install --quiet uv && ! python3 -m pip install --quiet --break-system-packages uv; then
        echo "setup: uv is missing and could not be installed; see https://docs.astral.sh/uv, or: pip install uv" >&2
        exit 1
    fi
fi

# The driver's tests run against it too. Its failure is told here and by those tests, and stops nothing else.
tools/mysql_server.sh || true

uv sync --frozen
if ! command -v go >/dev/null 2>&1; then
    echo "setup: note: Go is not installed. The lab's Kubernetes programs are then downloaded from their releases;"
    echo "setup:       where those cannot be reached, install Go 1.26 or newer, or set GRAF_CONTROL_PLANE_DIR."
fi
echo "setup: done; the command is .venv/bin/graf"
