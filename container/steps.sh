#!/bin/sh
# The steps of the Dockerfile, which also run without Docker, on Debian or Ubuntu:
#   sh container/steps.sh all      system, packages, build, demo
#   system    what apt provides: a C compiler, Node.js with npm, FFmpeg; only what is missing, which takes root
#   packages  what npm provides: Bun, Deno and the libraries (node_modules)
#   build     build/libctok.so; with CUDA kernels where nvcc is
#   demo      npm run demo: a photo and a clip to tokens and back, pictures in out/demo/
set -eu
cd "$(dirname "$0")/.."

missing() {
  command -v cc >/dev/null || echo gcc libc6-dev
  command -v npm >/dev/null || echo nodejs npm
  command -v ffmpeg >/dev/null || echo ffmpeg
}

system() {
  wanted=$(missing)
  [ -n "$wanted" ] || return 0
  echo "installing" $wanted
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends ca-certificates $wanted >/dev/null
  rm -rf /var/lib/apt/lists/*
}

packages() {
  [ node_modules/.package-lock.json -nt package-lock.json ] || npm install --no-audit --no-fund --loglevel=error
}

build() {
  npm run -s build
}

demo() {
  npm run -s demo
}

case "${1:-}" in
  all) system && packages && build && demo ;;
  system | packages | build | demo) "$1" ;;
  *) echo "steps.sh: expected system, packages, build, demo or all, found ${1:-none}" >&2 && exit 2 ;;
esac
