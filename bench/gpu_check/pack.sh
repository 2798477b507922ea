#!/usr/bin/env bash
# Packs what a bare machine with an NVIDIA driver and PyTorch needs to check and time the CUDA backend: build/gpu/run.sh and
# build/gpu/gpu_check.tar.xz, to be carried as they are (build/ is ignored by git). In the archive: programs, stripped; the variants
# of variants/; answers of the networks; the Python reference; check.py; the sources with their objects and build.sh, so that a
# mend is built there in the time of one file. What it builds it builds by that build.sh, in build/gpu_stage, stale files alone.
# Run on a machine with nvcc and npm's packages:  bench/gpu_check/pack.sh
# The answers of all models lie beside the checkout in ../shared; without it, what is carried.
set -euo pipefail
cd "$(dirname "$0")/../.."
here=bench/gpu_check stage=build/gpu_stage out=build/gpu shared=../shared
[ -d "$shared/fixtures" ] || shared=${CTOK_SHARED:-$shared}

mkdir -p "$stage" "$out"
rm -rf "$stage"/{src,bin/variants,goldens,layouts,reference,gpucheck}
mkdir -p "$stage"/{src/bench,src/tests,goldens/full,layouts,reference}
cp -a csrc "$stage/src/"
cp -a tests/native "$stage/src/tests/"
cp -a "$here" "$stage/src/bench/"
find "$stage/src" -name __pycache__ -prune -exec rm -rf {} +
node_modules/.bin/bun "$here/commands.ts" > "$stage/commands"
cp "$here/build.sh" "$stage/"
"$stage/build.sh"

# A variant: NAME.patch of the sources, NAME.switches with -D switches for csrc/backends/cuda, or NAME.revert with a commit whose
# change of csrc/ is taken back. One that the sources have outgrown is told and left out.
for variant in "$here"/variants/*; do
  name=$(basename "${variant%.*}")
  case $variant in
    *.patch) arguments=("$variant") ;;
    *.switches) read -r -a arguments < "$variant" ;;
    *.revert)
      commit=$(cat "$variant") arguments=("$stage/$name.patch")
      git diff "$commit" "$commit^" -- csrc > "$stage/$name.patch" || { echo "pack.sh: variant $name: left out"; continue; } ;;
    *) continue ;;
  esac
  "$stage/build.sh" "$name" "${arguments[@]}" || { rm -rf "$stage/bin/variants/$name"; echo "pack.sh: variant $name: left out"; }
done

cp -a "$here"/{check.py,torch_peer.py,gpucheck} "$stage/"
find "$stage" -name __pycache__ -prune -exec rm -rf {} +
cp tests/native/ptx_layouts/*.txt "$stage/layouts/"
cp tests/fixtures/pytorch_errors.json tests/fixtures/*-{small,full}.safetensors "$stage/goldens/"
cp -r tests/fixtures/Cosmos-Tokenizer-CI8x8 "$stage/goldens/CI8x8"
if [ -d "$shared/fixtures/full" ]; then
  cp "$shared"/fixtures/full/*.safetensors "$stage/goldens/full/"
  chmod u+w "$stage"/goldens/full/*
else
  echo "pack.sh: no $shared/fixtures: three full-size models instead of all"
fi
cp reference/{cosmos_reference,synthetic_weights}.py "$stage/reference/"
predicted=bench/results/gpu-model
if [ -e "$predicted.md" ]; then cp "$predicted.md" "$stage/"; fi
git describe --always --dirty > "$stage/commit" 2>/dev/null || echo unknown > "$stage/commit"

# A large dictionary: the programs hold the same kernels, and each is packed once.
parts=(check.py torch_peer.py gpucheck build.sh commands src objects bin goldens layouts reference commit)
if [ -e "$stage/gpu-model.md" ]; then parts+=(gpu-model.md); fi
tar -C "$stage" -cf - "${parts[@]}" | xz -9 > "$out/gpu_check.tar.xz.part"
mv "$out/gpu_check.tar.xz.part" "$out/gpu_check.tar.xz"
cp "$here/run.sh" "$out/"
du -sb "$out" | awk '{ printf "%s: %.1f MB\n", $2, $1 / 1e6 }'
