#!/bin/sh
# Makes build/pytorch, a Python environment with PyTorch for the CPU, and prints its python. bench/peer.ts finds it there; an
# environment that has PyTorch already serves as well: PYTHON=/path/to/python bun bench/end_to_end.ts --peer
# Run: sh bench/pytorch/setup.sh     (python3 with venv; Debian: apt-get install python3-venv)
set -eu
cd "$(dirname "$0")/../.."
python3 -m venv build/pytorch
build/pytorch/bin/pip install --quiet --disable-pip-version-check -r bench/pytorch/requirements.txt
build/pytorch/bin/python -c 'import numpy, torch; print("PyTorch", torch.__version__)' >&2
echo "$PWD/build/pytorch/bin/python"
