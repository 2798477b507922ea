#!/usr/bin/env bash
# Builds bin/ of src/, what is stale of it, by the commands that lie beside (commands.ts made them), on a machine with nvcc and cc:
#     ./build.sh
# or a variant, bin/variants/NAME/, of the same sources with patches, or with switches for csrc/backends/cuda, to be timed beside:
#     ./build.sh NAME [-DSWITCH=1 ...] [FILE.patch ...]
# SOURCES=CHECKOUT ./build.sh first takes what is mended there. Called by pack.sh, by run.sh and by hand.
set -euo pipefail
name='' switches=() patches=()
for argument in "$@"; do
  case $argument in
    *.patch) patches+=("$(realpath "$argument")") ;;
    -D*) switches+=("$argument") ;;
    *) name=$argument ;;
  esac
done
sources=${SOURCES:+$(realpath "$SOURCES")}
cd "$(dirname "$0")"
top=$PWD

export CC=${CC:-cc} NVCC=${NVCC:-$(command -v nvcc || echo /usr/local/cuda/bin/nvcc)} SWITCHES="${switches[*]-}" TOOLKIT RUNTIME=''
TOOLKIT=$("$NVCC" --dryrun -c -x cu /dev/null 2>&1 | sed -n 's/^#\$ TOP=//p')
for folder in lib64 lib "targets/$(uname -m)-linux/lib"; do
  if [ -e "$TOOLKIT/$folder/libcudart_static.a" ]; then RUNTIME=$TOOLKIT/$folder/libcudart_static.a; fi
done
if [ -z "$RUNTIME" ]; then echo "build.sh: expected libcudart_static.a beside $NVCC, found none" >&2; exit 1; fi

# What differs alone, so that the rest stays older than its objects.
if [ -n "$sources" ]; then
  (cd "$sources" && find csrc tests/native bench/gpu_check -type f) | while IFS= read -r file; do
    cmp -s "$sources/$file" "src/$file" && continue
    mkdir -p "$(dirname "src/$file")"
    cp "$sources/$file" "src/$file"
    echo "build.sh: taken from $sources: $file"
  done
fi

export OBJECTS=$top/objects BIN=$top/bin
tree=$top/src
if [ -n "$name" ]; then
  export OBJECTS=$top/variants/$name/objects BIN=$top/bin/variants/$name
  tree=$top/variants/$name/src
  rm -rf "$top/variants/$name"
  mkdir -p "$top/variants/$name"
  cp -a src objects "$top/variants/$name/"
  for patch in ${patches[@]+"${patches[@]}"}; do patch -s -d "$tree" -p1 < "$patch"; done
  if [ -n "$SWITCHES" ]; then rm -f "$OBJECTS"/csrc-backends-cuda-*; fi
fi
mkdir -p "$OBJECTS" "$BIN"
cd "$tree"

of_kind() { sed -n "s/^$1 //p" "$top/commands"; }
in_parallel() { xargs -r -d '\n' -P "$(nproc)" -n 1 bash -c; }

# Of commands, those whose output is gone or older than something that it read.
if_stale() {
  while IFS= read -r command; do
    output=$(eval "echo ${command##* -o }") rule=$(eval "echo $(sed 's/.* -MF \([^ ]*\) .*/\1/' <<< "$command")")
    is_stale=$([ -e "$output" ] && [ -e "$rule" ] || echo 1)
    if [ -z "$is_stale" ]; then
      for file in $(sed 's/^[^:]*://; s/\\$//' "$rule"); do
        if [ "$file" -nt "$output" ]; then is_stale=1; fi
      done
    fi
    if [ -n "$is_stale" ]; then printf '%s\n' "$command"; fi
  done
}

of_kind compile | if_stale | in_parallel
if [ -n "$name" ]; then
  of_kind link | grep -E '/gpu_(run|ops)$' | in_parallel
else
  of_kind program | if_stale | in_parallel
  of_kind link | in_parallel
fi
