"""The shape of target that an op has: a contract, the CPU's code and the checks, a kernel."""

load("//bazel:cuda.bzl", "cuda_library")

def op_library(name, srcs = [], hdrs = [], deps = [], **kwargs):
    """`name`.h, `name`.cc and `name`.cu, on core and on what the ops share.

    Args:
      name: the op.
      srcs: more than its .cc and .cu.
      hdrs: more than its .h.
      deps: more than what every op stands on.
      **kwargs: passed on to cuda_library.
    """
    cuda_library(
        name = name,
        srcs = [name + ".cc", name + ".cu"] + srcs,
        hdrs = [name + ".h"] + hdrs,
        deps = [
            ":packs",
            ":sums",
            "//core:arena",
            "//core:check",
            "//core:device",
            "//core:dispatch",
            "//core:dtype",
            "//core:launch",
            "//core:parallel",
            "//core:tensor",
        ] + deps,
        **kwargs
    )
