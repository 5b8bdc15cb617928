#!/usr/bin/env python3
# Trains a model, or scores an artifact, with the program packed beside this file, which it unpacks and builds first.
#   python3 train_gpt.py [--data=FOLDER] [--seed=N] [other flags of //train:hm11]
#   python3 train_gpt.py --score --data='FOLDER/*_val_*.bin' --tokenizer=FILE [other flags of //eval:evaluate]
# DATA_PATH, TOKENIZER_PATH and SEED in the environment stand for --data, --tokenizer and --seed where those are not
# given; the artifact scored is the one beside this file unless --artifact names another. The program is unpacked in
# the user's cache, $XDG_CACHE_HOME or ~/.cache.
import hashlib
import lzma
import os
import subprocess
import sys
import tarfile

TRAINING = []  # the flags that make this configuration; flags of the command line come behind them and win


def unpack(here):
    path = os.path.join(here, "program.tar.xz")
    with open(path, "rb") as packed:
        name = "program_" + hashlib.sha256(packed.read()).hexdigest()[:16]
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    folder = os.path.join(cache, "hm11", name)
    os.makedirs(folder, exist_ok=True)
    try:
        with tarfile.open(path, "r:xz") as archive:
            archive.extractall(folder)
    except (EOFError, lzma.LZMAError, tarfile.TarError) as error:
        sys.exit("error: %s is damaged: %s" % (path, error))
    return folder


def default(flags, name, value):
    if value and not any(flag.split("=")[0] == name for flag in flags):
        flags.append(name + "=" + value)


def main(flags):
    here = os.path.dirname(os.path.abspath(__file__))
    score = "--score" in flags
    flags = [flag for flag in flags if flag != "--score"]
    data = os.environ.get("DATA_PATH")
    if score:
        data = data and os.path.join(data, "*_val_*.bin")
        default(flags, "--artifact", os.path.join(here, "artifact.hm11"))
    else:
        default(flags, "--seed", os.environ.get("SEED"))
        flags = TRAINING + flags
    default(flags, "--data", data)
    default(flags, "--tokenizer", os.environ.get("TOKENIZER_PATH"))

    folder = unpack(here)
    target = "eval/evaluate" if score else "train/hm11"
    built = subprocess.run(
        [os.path.join(folder, "tools", "bazel"), "--max_idle_secs=60", "build", "//" + target.replace("/", ":")],
        cwd=folder)
    if built.returncode:
        return built.returncode
    os.environ.pop("BUILD_WORKING_DIRECTORY", None)  # paths are meant from where the caller stands
    program = os.path.join(folder, "bazel-bin", target)
    sys.stdout.flush()
    os.execv(program, [program] + flags)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except OSError as error:
        sys.exit("error: %s" % error)
