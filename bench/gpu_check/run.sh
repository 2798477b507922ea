#!/usr/bin/env bash
# Checks and times ctok on this machine's GPU: ./run.sh [--budget SECONDS] [--only PARTS] [--out FOLDER]. Needs an NVIDIA driver and
# Python 3.9 or later; PyTorch for the comparison, ncu and compute-sanitizer for what they tell, where they are. check.py says
# more. The report is results.md in $OUT, or beside this script. To try it where there is no GPU: ./run.sh --device cpu --tiny
# Unpacks gpu_check.tar.xz, which lies beside it. SOURCES=CHECKOUT ./run.sh builds first what is mended there.
set -euo pipefail
SOURCES=${SOURCES:+$(realpath "$SOURCES")}
cd "$(dirname "$0")"
python=${PYTHON:-python3} unpacked=${TMPDIR:-/tmp}/ctok-gpu-check
export OUT=${OUT:-$PWD} PYTHONUNBUFFERED=1
if [ -e gpu_check.tar.xz ]; then
  rm -rf "$unpacked"
  mkdir -p "$unpacked"
  "$python" -m tarfile -e gpu_check.tar.xz "$unpacked" # Python's own xz: a bare machine may have none
  cd "$unpacked"
fi
if [ -n "$SOURCES" ]; then SOURCES=$SOURCES ./build.sh; fi
exec "$python" check.py "$@"
