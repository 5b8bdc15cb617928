#!/usr/bin/env python3
# Writes compile_commands.json at the root of the tree, for editors and clang-tidy: how Bazel compiles each .cc.
#   tools/bazel run //tools:compile_commands [-- --config=cpu]
import json
import os
import subprocess
import sys


def main(flags):
    root = os.environ.get("BUILD_WORKSPACE_DIRECTORY", os.getcwd())
    query = ["tools/bazel", "aquery", *flags, "--output=jsonproto", "--include_artifacts=false",
             "--ui_event_filters=-info", "--noshow_progress", 'mnemonic("CppCompile", //...)']
    answer = subprocess.run(query, cwd=root, stdout=subprocess.PIPE, check=True).stdout
    outside = os.path.join("bazel-" + os.path.basename(root), "external/")  # as seen from the root
    commands = {}
    for action in json.loads(answer)["actions"]:
        arguments = [outside + a[len("external/"):] if a.startswith("external/") else a for a in action["arguments"]]
        source = arguments[arguments.index("-c") + 1]
        commands[source] = {"directory": root, "file": source, "arguments": arguments}
    with open(os.path.join(root, "compile_commands.json"), "w") as file:
        json.dump(list(commands.values()), file, indent=1)
    print("compile_commands.json: %d files" % len(commands))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except subprocess.CalledProcessError as error:
        sys.exit("error: %s" % error)
