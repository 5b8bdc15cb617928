"""Finds a CUDA toolkit on this machine and describes it as the repository @local_cuda. Downloads nothing.

Looked for in order: $CUDA_HOME, /usr/local/cuda, the folder above an nvcc on PATH. A toolkit counts when it has
nvcc 12 or newer (the first with C++20), the static runtime and cuBLASLt; NCCL and cuDNN are found one by one.
HM11_CUDA=0 (--config=cpu) says there is none. @local_cuda//:defs.bzl then holds the answer as constants, and
its BUILD the libraries, which //third_party gives their names.
"""

_OLDEST_NVCC = 12

_DEFS = """# What was found of a CUDA toolkit, written by cuda_autodetect.
HAVE_CUDA = {have_cuda}
HAVE_NCCL = {have_nccl}
HAVE_CUDNN = {have_cudnn}
NVCC = "{nvcc}"
CUDA_VERSION = "{version}"
"""

_BUILD = """# Libraries of the CUDA toolkit, written by cuda_autodetect. Used through //third_party only.
package(default_visibility = ["//visibility:public"])

cc_library(
    name = "headers",
    hdrs = glob(["include/*.h", "include/*.hpp", "include/crt/**", "include/nccl_device/**", "nccl/nccl.h"], allow_empty = True),
    includes = {includes},
)

cc_library(name = "cudart", linkopts = {cudart})

cc_library(name = "cublas_lt", linkopts = {cublas_lt})

cc_library(name = "cublas", linkopts = {cublas})

cc_library(name = "cudnn", linkopts = {cudnn})
"""

def _exists(ctx, path):
    return ctx.path(path).exists

def _nvcc_version(ctx, nvcc):
    """Returns the release of the compiler as text such as "13.0", or "" when it does not run."""
    result = ctx.execute([nvcc, "--version"])
    for line in result.stdout.split("\n") if result.return_code == 0 else []:
        if "release " in line:
            return line.split("release ")[1].split(",")[0]
    return ""

def _find_toolkit(ctx):
    """Returns (root, library folder, version) of the first usable toolkit, or None."""
    roots = []
    if ctx.os.environ.get("HM11_CUDA") == "0":
        return None
    if ctx.os.environ.get("CUDA_HOME"):
        roots.append(ctx.os.environ["CUDA_HOME"])
    roots.append("/usr/local/cuda")
    on_path = ctx.which("nvcc")
    if on_path:
        roots.append(str(on_path.realpath.dirname.dirname))
    for root in roots:
        nvcc = root + "/bin/nvcc"
        if not _exists(ctx, nvcc):
            continue
        version = _nvcc_version(ctx, nvcc)
        if not version or int(version.split(".")[0]) < _OLDEST_NVCC:
            print("CUDA toolkit %s passed over: nvcc %s, wanted %d or newer" % (root, version, _OLDEST_NVCC))
            continue
        for lib in [root + "/lib64", root + "/targets/x86_64-linux/lib", root + "/lib"]:
            if _exists(ctx, lib + "/libcudart_static.a") and _exists(ctx, lib + "/libcublasLt.so"):
                return struct(root = root, lib = lib, version = version)
        print("CUDA toolkit %s passed over: no libcudart_static.a with libcublasLt.so" % root)
    return None

def _find_library(ctx, toolkit, soname):
    """Returns the folder that holds the shared library, the toolkit's own first, or None."""
    for lib in [toolkit.lib, "/usr/lib/x86_64-linux-gnu"]:
        if _exists(ctx, lib + "/" + soname):
            return lib
    return None

def _shared(lib, name):
    return ["-L" + lib, "-Wl,-rpath," + lib, "-l" + name]

def _cuda_autodetect(ctx):
    toolkit = _find_toolkit(ctx)
    if not toolkit:
        ctx.file("defs.bzl", _DEFS.format(have_cuda = False, have_nccl = False, have_cudnn = False, nvcc = "", version = ""))
        ctx.file("BUILD", _BUILD.format(includes = [], cudart = [], cublas_lt = [], cublas = [], cudnn = []))
        return

    nccl = _exists(ctx, toolkit.root + "/include/nccl.h") or _exists(ctx, "/usr/include/nccl.h")
    cudnn = _find_library(ctx, toolkit, "libcudnn.so")
    ctx.symlink(toolkit.root + "/include", "include")
    if nccl and not _exists(ctx, toolkit.root + "/include/nccl.h") and _exists(ctx, "/usr/include/nccl.h"):
        ctx.symlink("/usr/include/nccl.h", "nccl/nccl.h")
    ctx.file("defs.bzl", _DEFS.format(
        have_cuda = True,
        have_nccl = nccl,
        have_cudnn = bool(cudnn),
        nvcc = toolkit.root + "/bin/nvcc",
        version = toolkit.version,
    ))
    ctx.file("BUILD", _BUILD.format(
        includes = ["include", "nccl"],
        cudart = [toolkit.lib + "/libcudart_static.a", "-lpthread", "-ldl", "-lrt"],
        cublas_lt = _shared(toolkit.lib, "cublasLt"),
        cublas = _shared(toolkit.lib, "cublas") + ["-lcublasLt"],
        cudnn = _shared(cudnn, "cudnn") if cudnn else [],
    ))

cuda_autodetect = repository_rule(
    implementation = _cuda_autodetect,
    configure = True,
    environ = ["CUDA_HOME", "HM11_CUDA", "PATH"],
    local = True,
)
