#!/usr/bin/env bash
# Checks and times ctok on this machine's GPU: ./run.sh [--budget SECONDS] [--out FILE.md]. Needs an NVIDIA driver; PyTorch for
# the comparison; compute-sanitizer, where it is there, for the small cases. See check.py for what it does and its order.
# To try it where there is no GPU: ./run.sh --device cpu --tiny
set -uo pipefail
cd "$(dirname "$0")"
python=${PYTHON:-python3}
command -v nvidia-smi >/dev/null && nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm --format=csv,noheader
exec "$python" check.py "$@"
