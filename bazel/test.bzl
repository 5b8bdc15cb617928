"""The two shapes of target that only tests and benchmarks have."""

def property_test(name, deps = [], size = "small", **kwargs):
    """A test of the source `name`.cc with GoogleTest's main and RapidCheck.

    .bazelrc sets the number of cases for each property. `RC_PARAMS="seed=7 max_success=500" tools/bazel test ...`
    sets another, and repeats a failure by its seed.
    """
    native.cc_test(
        name = name,
        size = size,
        srcs = [name + ".cc"],
        deps = deps + [dep for dep in [
            "//third_party:gtest",
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
