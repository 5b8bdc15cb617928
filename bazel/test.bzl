"""The two shapes of target that only tests and benchmarks have."""

def property_test(name, deps = [], size = "small", env = {}, **kwargs):
    """A test of the source `name`.cc with GoogleTest's main and RapidCheck.

    Each property is tried on 50 generated cases, the same ones for the same binary only where RC_PARAMS in the
    caller's environment gives a seed: `RC_PARAMS="seed=7 max_success=500" tools/bazel test ...` wins over this.
    """
    native.cc_test(
        name = name,
        size = size,
        srcs = [name + ".cc"],
        env = env,
        deps = deps + [dep for dep in [
            "//third_party:gmock",
            "//third_party:gtest_main",
            "//third_party:rapidcheck",
        ] if dep not in deps],
        **kwargs
    )

def benchmark_binary(name, deps = [], **kwargs):
    """A Google Benchmark program of the source `name`.cc: `tools/bazel run //folder:name`."""
    native.cc_binary(
        name = name,
        srcs = [name + ".cc"],
        tags = ["benchmark"],
        testonly = True,
        deps = deps + ["//third_party:benchmark_main"],
        **kwargs
    )
