"""What of a folder is in the program that artifacts are counted with (//program)."""

def program_sources(exclude = []):
    """All sources but those of tests and benchmarks, and but `exclude`."""
    native.filegroup(
        name = "program_sources",
        srcs = native.glob(
            ["BUILD", "*.bzl", "*.cc", "*.cu", "*.cuh", "*.h"],
            exclude = ["*_test*", "*_benchmark*"] + exclude,
        ),
        visibility = ["//program:__pkg__"],
    )
