#!/usr/bin/env bash
# Collects what a bare machine with an NVIDIA driver and PyTorch needs to check and time the CUDA backend into build/gpu/
# (ignored by git, under 60 MB): the library and native programs built here, goldens, the Python reference, run.sh and check.py.
# Run after build.ts, on a machine with nvcc:  bench/gpu_check/pack.sh   Then, there:  cd gpu && ./run.sh
# The answers of all models lie beside the checkout in ../shared; without it, what is carried.
set -euo pipefail
cd "$(dirname "$0")/../.."
out=build/gpu shared=../shared
[ -d "$shared/fixtures" ] || shared=${CTOK_SHARED:-$shared}
if build/tests/gpu_test | grep -q 'without CUDA'; then echo "pack.sh: expected a build with CUDA: nvcc, then build.ts" >&2; exit 1; fi

rm -rf "$out"
mkdir -p "$out"/{bin,goldens/full,layouts,reference}
cp build/libctok.so build/tests/{gpu_test,make_weights} build/bench/{gpu_run,gpu_ops,sm80_layouts,sm90_layouts} "$out/bin/"
strip "$out"/bin/{gpu_test,make_weights,gpu_run,gpu_ops,sm80_layouts,sm90_layouts}
cp tests/native/ptx_layouts/*.txt "$out/layouts/"
cp bench/gpu_check/{run.sh,check.py} "$out/"
cp tests/fixtures/pytorch_errors.json tests/fixtures/*-{small,full}.safetensors "$out/goldens/"
cp -r tests/fixtures/Cosmos-Tokenizer-CI8x8 "$out/goldens/CI8x8"
if [ -d "$shared/fixtures/full" ]; then
  cp "$shared"/fixtures/full/*.safetensors "$out/goldens/full/"
else
  echo "pack.sh: no $shared/fixtures: two full-size models instead of all"
fi
cp reference/{cosmos_reference,synthetic_weights}.py "$out/reference/"
git describe --always --dirty > "$out/commit" 2>/dev/null || echo unknown > "$out/commit"
du -sh "$out"
