#!/usr/bin/env bash
# Builds the target `cpu` of the Dockerfile without a container engine, serves a bundle with it, and asks for verdicts:
# with the client from outside, and by the image's own health check. All that it made is removed, however it ends.
#
#     apt-get install buildah debootstrap
#     tests/deployment/build_cpu_image.sh build/bundle
#
# The base is a minimal Debian with Python 3.11, so the server is that of the package nvidia-pytriton (2.51): loopback
# only. Not run by `make test`: it needs root, two packages of the system, minutes, and 3 GB of disk.
#
# SCRATCH      a new folder for all of it (one under /tmp)
# MIRROR       of Debian (debootstrap's own)
# PIP_FILES    what pip is configured by on this machine, such as /etc/pip.conf: files and folders that are there, read
#              only, while the image is built, and are no part of it
# PYTHON       of an environment with the client (.venv/bin/python)
# GRPC_PORT    of the server; the next is for its metrics (18001)
set -euo pipefail
cd "$(dirname "$0")/../.."

bundle=$(realpath "${1:?usage: build_cpu_image.sh BUNDLE}")
scratch=${SCRATCH:-$(mktemp -d /tmp/tritonguard-image.XXXXXX)}
python=${PYTHON:-.venv/bin/python}
port=${GRPC_PORT:-18001}
base=localhost/tritonguard-base
image=localhost/tritonguard-cpu
server='' launcher=''

# Neither namespaces nor a network of its own: the server is reached on this machine's loopback.
export BUILDAH_ISOLATION=chroot
buildah() { command buildah --root "$scratch/storage" --runroot "$scratch/run" "$@"; }
step() { echo "== $(date -u +%H:%M:%S) $*"; }

remove() {
    if [ -n "$launcher" ]; then kill -TERM "$launcher" && wait "$server" || true; fi
    buildah rm --all && buildah rmi --all --force || true
    rm -rf "$scratch"
} >/dev/null 2>&1
trap remove EXIT
mkdir -p "$scratch"

step "a base: minimal Debian, Python 3.11 with its shared library and pip"
debootstrap --variant=minbase --include=ca-certificates,libpython3.11,python3,python3-pip \
    bookworm "$scratch/debian" ${MIRROR:+"$MIRROR"} >"$scratch/debootstrap.log"
container=$(buildah from scratch)
buildah add --quiet "$container" "$scratch/debian" / >/dev/null
buildah commit --quiet --rm "$container" "$base" >/dev/null
rm -rf "$scratch/debian"

step "the image"
volumes=()
for path in ${PIP_FILES:-}; do volumes+=(--volume "$path:$path:ro"); done
# Of the two formats only docker's holds a health check.
buildah bud --format docker --target cpu --build-arg BASE_IMAGE="$base" "${volumes[@]}" --tag "$image" . \
    >"$scratch/build.log" 2>&1 || { tail -n 40 "$scratch/build.log"; exit 1; }
buildah images

step "its server, as the image says"
words() { # of a command in the image's configuration, one a line
    buildah inspect --type image "$image" | "$python" -c \
        'import json, sys; print(*json.load(sys.stdin)["Docker"]["config"][sys.argv[1]]'"$2"', sep="\n")' "$1"
}
mapfile -t entrypoint < <(words Entrypoint '')
mapfile -t health < <(words Healthcheck '["Test"][1:]')
container=$(buildah from "$image")
# buildah would end it with SIGKILL, whatever signal it gets itself. There is one process namespace, so its id is known.
buildah run --volume "$bundle:/bundle:ro" "$container" -- sh -c 'echo $$ && exec "$@"' sh "${entrypoint[@]}" --no-http \
    --grpc-port "$port" --metrics-port "$((port + 1))" >"$scratch/serve.out" 2>"$scratch/serve.err" &
server=$!
until grep 'tritonguard ready' "$scratch/serve.out"; do
    kill -0 "$server" 2>/dev/null || { tail -n 40 "$scratch/serve.err"; exit 1; }
    sleep 0.5
done
launcher=$(head -n 1 "$scratch/serve.out")
ps -o user:12=,args= -p "$launcher"

step "verdicts for a client outside"
"$python" -m tritonguard.cli health --url "127.0.0.1:$port" --deadline 60

step "its own health check: ${health[*]}"
healthy() { buildah run "$container" -- "${health[@]}" --url "127.0.0.1:$port"; }
# A container engine calls it unhealthy after three failures, 30 s apart.
healthy || { sleep 30 && healthy; } || { sleep 30 && healthy; }

step "its end, by its stop signal"
kill -TERM "$launcher"
launcher=''
wait "$server" && echo "exit 0"
