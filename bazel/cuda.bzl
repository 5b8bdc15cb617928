"""cuda_library: a cc_library whose .cu sources go through nvcc, and are left out where there is no toolkit."""

load("@local_cuda//:defs.bzl", "CUDA_VERSION", "HAVE_CUDA", "NVCC")

# H100 in machine code; PTX for any other GPU from A100 on, which its driver compiles once and keeps. Machine code
# for each would take most of a cold build's time.
_ARCHITECTURES = [
    "-gencode=arch=compute_80,code=compute_80",
    "-gencode=arch=compute_90a,code=sm_90a",
]

_NVCC_FLAGS = [
    "-ccbin=g++",
    "-std=c++20",
    "-O3",
    "--expt-relaxed-constexpr",
    "--extended-lambda",
    "--threads=2",
    "-Werror=all-warnings",
    "-Xcompiler=-fPIC,-Wall,-Werror,-fno-math-errno,-fno-trapping-math",
]

_PRIVATE_TO_NVCC = (".cu", ".cuh")

# Sandboxes share /tmp, and in each of them nvcc is process 2, which it names its files there after.
_WITH_ITS_OWN_TMPDIR = """TMPDIR="$(mktemp -d)" && export TMPDIR && trap 'rm -rf "$TMPDIR"' EXIT && "$@" """

def _cuda_objects_impl(ctx):
    deps = cc_common.merge_cc_infos(cc_infos = [dep[CcInfo] for dep in ctx.attr.deps]).compilation_context
    common = _NVCC_FLAGS + _ARCHITECTURES
    optimized = ctx.var["COMPILATION_MODE"] == "opt"
    common = common + (["-DNDEBUG"] if optimized else [])

    # Lines of code make kernels three times as large.
    common = common + (["-lineinfo"] if not optimized or "lineinfo" in ctx.var else [])
    objects = []
    for source in ctx.files.srcs:
        object = ctx.actions.declare_file("%s/%s.pic.o" % (ctx.label.name, source.basename[:-len(".cu")]))
        args = ctx.actions.args()
        args.add(NVCC)
        args.add_all(common)
        args.add_all(deps.defines, before_each = "-D")
        args.add_all(deps.quote_includes, before_each = "-I")
        args.add_all(deps.includes, before_each = "-I")
        args.add_all(deps.system_includes, before_each = "-isystem")
        args.add("-c", source)
        args.add("-o", object)
        ctx.actions.run_shell(
            command = _WITH_ITS_OWN_TMPDIR,
            arguments = [args],
            inputs = depset([source] + ctx.files.hdrs, transitive = [deps.headers]),
            outputs = [object],
            env = dict(ctx.configuration.default_shell_env, HM11_CUDA_VERSION = CUDA_VERSION),
            mnemonic = "CudaCompile",
            progress_message = "Compiling %s for the GPU" % source.short_path,
        )
        objects.append(object)
    return [DefaultInfo(files = depset(objects))]

_cuda_objects = rule(
    implementation = _cuda_objects_impl,
    attrs = {
        "srcs": attr.label_list(allow_files = [".cu"]),
        "hdrs": attr.label_list(allow_files = True),
        "deps": attr.label_list(providers = [CcInfo]),
    },
)

_Kernels = provider(fields = ["objects"])

def _kernels_below_impl(target, ctx):
    own = [target[DefaultInfo].files] if ctx.rule.kind == "_cuda_objects" else []
    below = [
        dep[_Kernels].objects
        for attribute in ["data", "deps", "srcs"]
        for dep in getattr(ctx.rule.attr, attribute, [])
        if _Kernels in dep
    ]
    return [_Kernels(objects = depset(transitive = own + below))]

_kernels_below = aspect(implementation = _kernels_below_impl, attr_aspects = ["data", "deps", "srcs"])

def _kernel_objects_impl(ctx):
    objects = depset(transitive = [target[_Kernels].objects for target in ctx.attr.of])
    return [DefaultInfo(files = objects, runfiles = ctx.runfiles(transitive_files = objects))]

# What nvcc made for all that some targets stand on.
kernel_objects = rule(
    implementation = _kernel_objects_impl,
    attrs = {"of": attr.label_list(aspects = [_kernels_below])},
)

def cuda_library(name, srcs = [], hdrs = [], deps = [], testonly = None, **kwargs):
    """A cc_library with kernels. All code sees HM11_HAVE_CUDA as 0 or 1.

    Args:
      name: the library.
      srcs: .cc for the host compiler, .cu for nvcc (dropped without a toolkit), private .h and .cuh.
      hdrs: public .h and .cuh.
      deps: libraries whose headers both compilers see; //third_party:cuda is added.
      testonly: as everywhere.
      **kwargs: passed on to cc_library.
    """
    kernels = [src for src in srcs if src.endswith(".cu")]
    deps = deps + [dep for dep in ["//third_party:cuda"] if dep not in deps]
    objects = []
    if HAVE_CUDA and kernels:
        objects = [":" + name + "_kernels"]
        _cuda_objects(
            name = name + "_kernels",
            srcs = kernels,
            hdrs = hdrs + [src for src in srcs if src.endswith((".h", ".cuh"))],
            deps = deps,
            testonly = testonly,
            visibility = ["//visibility:private"],
        )
    native.cc_library(
        name = name,
        srcs = [src for src in srcs if not src.endswith(_PRIVATE_TO_NVCC)] + objects,
        hdrs = [hdr for hdr in hdrs if not hdr.endswith(".cuh")],
        textual_hdrs = [file for file in hdrs + srcs if file.endswith(".cuh")],
        deps = deps,
        testonly = testonly,
        **kwargs
    )
