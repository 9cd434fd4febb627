"""Messages as users met them, from the issue named beside each; shortened only where they repeat a call's template."""

from __future__ import annotations

import pytest

from msformer_deploy.backends.onnxruntime_failures import explain

GET = (
    "/onnxruntime_src/onnxruntime/core/session/provider_bridge_ort.cc:1778 onnxruntime::Provider&"
    " onnxruntime::ProviderLibrary::Get() [ONNXRuntimeError] : 1 : FAIL : Failed to load library"
)
CALL = (
    "/onnxruntime_src/onnxruntime/core/providers/cuda/cuda_call.cc:121 std::conditional_t<THRW, void,"
    " onnxruntime::common::Status> onnxruntime::CudaCall(ERRTYPE, const char*, const char*, ERRTYPE, const char*, const"
    " char*, int) [with ERRTYPE = cudaError; bool THRW = true]"
)
FILE = "cannot open shared object file: No such file or directory"


@pytest.mark.parametrize(
    ("text", "missing", "advice"),
    [
        pytest.param(
            f"{GET} libonnxruntime_providers_cuda.so with error: libcudnn.so.9: {FILE}",
            "cuDNN (libcudnn.so.9) is not found",
            "cuDNN for CUDA 13",
            id="microsoft/onnxruntime#25609",
        ),
        pytest.param(
            f"{GET} libonnxruntime_providers_cuda.so with error: libcudnn_adv.so.9: {FILE}",
            "cuDNN (libcudnn_adv.so.9) is not found",
            "onnxruntime-gpu[cuda,cudnn]",
            id="memoavatar/memo#13",
        ),
        pytest.param(
            f"{GET} libonnxruntime_providers_cuda.so with error: libcublasLt.so.11: {FILE}",
            "the CUDA library libcublasLt.so.11 is not found",
            "CUDA 13",
            id="microsoft/onnxruntime#17801",
        ),
        pytest.param(
            f"{GET} libonnxruntime_providers_cuda.so with error: libcurand.so.10: {FILE}",
            "the CUDA library libcurand.so.10 is not found",
            "LD_LIBRARY_PATH",
            id="cnstark/pytorch-docker#21",
        ),
        pytest.param(
            f"{GET} libonnxruntime_providers_tensorrt.so with error: libnvinfer.so.8: {FILE}",
            "TensorRT 8 (libnvinfer.so.8) is not found",
            "install TensorRT 8 for CUDA 13",
            id="microsoft/onnxruntime#18597",
        ),
        pytest.param(
            "Failed to load library libonnxruntime_providers_shared.so with error:"
            f" libonnxruntime_providers_shared.so: {FILE}",
            "the library libonnxruntime_providers_shared.so is not found",
            "LD_LIBRARY_PATH",
            id="freshtechyy/ONNX-Runtime-GPU-image-classifciation-example#1",
        ),
        pytest.param(
            'onnxruntime::ProviderLibrary::Get [ONNXRuntimeError] : 1 : FAIL : LoadLibrary failed with error 126 ""'
            ' when trying to load "C:\\Users\\sunny\\site-packages\\onnxruntime\\capi\\onnxruntime_providers_cuda.dll"',
            "a library that onnxruntime_providers_cuda.dll needs is not found",
            "on PATH",
            id="microsoft/onnxruntime#21769",
        ),
        pytest.param(
            f"{CALL} CUDA failure 35: CUDA driver version is insufficient for CUDA runtime version ; GPU=-1 ;"
            " hostname=c4327188c000000 ; line=336 ; expr=cudaSetDevice(info_.device_id);",
            "NVIDIA's driver is older than the CUDA 13 that this onnxruntime is built for, or absent",
            "update NVIDIA's driver",
            id="onnxruntime/mobius#316",
        ),
        pytest.param(
            f"{CALL} CUDA failure 100: no CUDA-capable device is detected ; GPU=32712 ; hostname=HOME-PC ; line=245 ;"
            " expr=cudaSetDevice(info_.device_id);",
            "CUDA finds no GPU",
            "nvidia-smi",
            id="deepinsight/insightface#2524",
        ),
        pytest.param(
            f"{CALL} CUDA failure 804: forward compatibility was attempted on non supported HW ; GPU=0 ;",
            "the CUDA compatibility libraries and NVIDIA's driver do not fit each other",
            "cuda-compat",
            id="microsoft/onnxruntime#17864",
        ),
        pytest.param(
            "[ONNXRuntimeError] : 1 : FAIL : Non-zero status code returned while running Slice node. Name:'Slice_12'"
            " Status Message: CUDA error cudaErrorNoKernelImageForDevice:no kernel image is available for execution on"
            " the device",
            "this onnxruntime has no code for this GPU's compute capability",
            "CUDA version supports the GPU",
            id="RVC-Boss/GPT-SoVITS#2625",
        ),
        pytest.param(
            f"{CALL} CUDNN failure 1001: CUDNN_STATUS_NOT_INITIALIZED ; GPU=0 ; expr=cudnnCreate(&cudnn_handle_);",
            "cuDNN does not start: it does not fit the driver, CUDA 13 or the GPU, or memory ran out",
            "install cuDNN 9 for CUDA 13",
            id="microsoft/onnxruntime#26322",
        ),
        pytest.param(
            "EP_FAIL : Non-zero status code returned while running Conv node. Name:'/features/features.0/Conv'"
            " Status Message: Failed to initialize CUDNN Frontend",
            "cuDNN does not start: it does not fit the driver, CUDA 13 or the GPU, or memory ran out",
            "nvidia-smi",
            id="microsoft/onnxruntime#23301",
        ),
        pytest.param(
            "Non-zero status code returned while running ReduceSum node. onnxruntime::BFCArena::AllocateRawInternal"
            " Failed to allocate memory for requested buffer of size 939524096",
            "memory ran out (a buffer of 939524096 bytes)",
            "--batch",
            id="microsoft/onnxruntime#16307",
        ),
        pytest.param(
            "[ErrorCode:ShapeInferenceNotRegistered] Non-zero status code returned while running"
            " TRTKernel_graph_torch_jit_4528351051880633562_0 node. Status Message: TensorRT EP failed to create engine"
            " from network.",
            "TensorRT cannot build an engine of the graph on this GPU",
            "--backend onnxruntime",
            id="microsoft/onnxruntime#21415",
        ),
        pytest.param(
            "[ONNXRuntimeError] : 9 : NOT_IMPLEMENTED : Could not find an implementation for MatMul(13) node with name"
            " '/blocks.0/slstm_layer/slstm_cell/MatMul'",
            "this onnxruntime has no MatMul (opset 13) for the graph's types there",
            "--precision",
            id="microsoft/onnxruntime#26311",
        ),
        pytest.param(
            "[ONNXRuntimeError] : 1 : FAIL : This session contains graph nodes that are assigned to the default CPU EP,"
            " but fallback to CPU EP has been explicitly disabled by the user.",
            "the provider has no kernel for some nodes of the graph, or did not load",
            "doctor",
            id="microsoft/onnxruntime#16016",
        ),
        pytest.param(
            "/onnxruntime_src/onnxruntime/python/onnxruntime_pybind_state.cc:729 void onnxruntime::python::"
            "RegisterTensorRTPluginsAsCustomOps(PySessionOptions&, const onnxruntime::ProviderOptions&) Please install"
            " TensorRT libraries as mentioned in the GPU requirements page, make sure they're in the PATH or"
            " LD_LIBRARY_PATH, and that your GPU is supported.\n",
            "TensorRT's libraries are not found",
            "for CUDA 13",
            id="onnxruntime-gpu 1.31.1 on a machine without CUDA",
        ),
        pytest.param(
            f"libcuda.so.1: {FILE}",
            "NVIDIA's driver (libcuda.so.1) is not found",
            "install the driver",
            id="the dynamic loader",
        ),
        pytest.param(
            "/lib/x86_64-linux-gnu/libstdc++.so.6: version `GLIBCXX_3.4.29' not found (required by libonnxruntime.so)",
            "the system's C or C++ library is too old (GLIBCXX_3.4.29 is not in it)",
            "newer system",
            id="the dynamic loader, symbol version",
        ),
    ],
)
def test_failures_say_what_is_missing_and_what_to_do(text: str, missing: str, advice: str) -> None:
    got = explain(text, cuda="13.0")
    assert got.missing == missing
    assert advice in got.advice
    assert str(got) == f"{got.missing}; {got.advice}"
    assert len(str(got).splitlines()) == 1


def test_a_wheel_that_does_not_say_its_cuda() -> None:
    assert "cuDNN for CUDA with" in explain(f"libcudnn.so.9: {FILE}").advice


def test_what_is_unknown_is_shortened_and_kept() -> None:
    got = explain("/onnxruntime_src/onnxruntime/core/a.cc:12 void onnxruntime::f(int) Something\n new " + "x" * 400)
    assert got.missing.startswith("Something new xxx")
    assert got.missing.endswith("...")
    assert len(got.missing) == 300
    assert "doctor" in got.advice
