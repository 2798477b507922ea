# ctok with its demo. The steps are in container/steps.sh, which also runs without Docker.
#   docker build -t ctok .
#   docker run --rm -v "$PWD/out:/ctok/out" ctok                 the demo; pictures in out/demo/
#   docker run --rm -v "$PWD:/work" -w /work ctok ctok encode photo.jpg --out photo.safetensors
# For an NVIDIA GPU, with the NVIDIA container toolkit on the host: a base that has nvcc, and --gpus all. The toolkit brings the
# driver's libcuda at run time; the library is built without it and finds no GPU where there is none.
#   docker build -t ctok-cuda --build-arg BASE=nvidia/cuda:12.8.1-devel-ubuntu24.04 .
#   docker run --rm --gpus all -v "$PWD/out:/ctok/out" ctok-cuda
ARG BASE=node:20-bookworm-slim
FROM ${BASE}
WORKDIR /ctok
COPY container/steps.sh container/steps.sh
RUN sh container/steps.sh system
COPY package.json package-lock.json ./
RUN sh container/steps.sh packages
COPY . .
RUN sh container/steps.sh build
RUN printf '#!/bin/sh\nexec /ctok/node_modules/.bin/bun /ctok/cli/main.ts "$@"\n' >/usr/local/bin/ctok && chmod +x /usr/local/bin/ctok
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
CMD ["sh", "container/steps.sh", "demo"]
