// //train:hm11, the main job: trains a model, compresses it, scores what the artifact holds.
//
// Started by torchrun, srun or mpirun it is one rank of many; started by hand with --gpus it starts a rank a
// GPU itself.
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <ctime>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "core/callers_folder.h"
#include "core/fields.h"
#include "core/file.h"
#include "core/launch_ranks.h"
#include "core/program_help.h"
#include "core/rank_group.h"
#include "core/status.h"
#include "core/version.h"
#include "data/default_corpus.h"
#include "data/prepare.h"
#include "data/prepared_data.h"
#include "data/tokenizer.h"
#include "eval/run_data.h"
#include "train/run.h"
#include "train/settings.h"

ABSL_FLAG(std::string, preset, "",
          "hm11, hm11_best, hm11_published or tiny; default: hm11 on a GPU, tiny on a CPU");
ABSL_FLAG(std::vector<std::string>, set, {}, "key=value,...: settings that differ from the preset's");
ABSL_FLAG(
    std::string, data, "",
    "folder of prepared data, or a pattern of training shards; default: a corpus made of the documentation "
    "that tools/packages.txt names");
ABSL_FLAG(std::string, val, "", "pattern of validation shards; default: --data's with _val_ for _train_");
ABSL_FLAG(std::string, tokenizer, "", "SentencePiece model; default: the only .model in --data's folder");
ABSL_FLAG(std::string, out, "", "folder of the run; default: runs/PRESET_DATE_TIME_PROCESS");
ABSL_FLAG(std::string, init, "",
          "weights to begin with, a model.safetensors of the same model; default: drawn by the seed");
ABSL_FLAG(int64_t, seed, -1, "seed of initial weights; default: the preset's");
ABSL_FLAG(std::string, device, "auto", "auto, cpu, cuda or cuda:N");
ABSL_FLAG(
    std::string, gpus, "all",
    "all, or how many GPUs of this host to train on; for a start by hand, without torchrun, srun or mpirun");
ABSL_FLAG(double, rank_timeout, 60,
          "seconds that ranks wait for each other to come, and bear with one that gives no sign of life");
ABSL_FLAG(bool, resume, false,
          "go on from the checkpoint in --out, with the configuration, text and tokenizer it was begun with");
ABSL_FLAG(
    bool, resume_anyway, false,
    "with --resume: go on although settings, text or kind of device make it another run; the log says what "
    "changed");
ABSL_FLAG(bool, list_settings, false,
          "print what --set can change, with defaults, presets and meanings, and end");
ABSL_FLAG(bool, quiet, false, "nothing on the terminal but errors; the log is written all the same");
ABSL_FLAG(bool, overwrite, false, "begin anew in an --out that holds a run, and remove that one");

namespace hm11 {
namespace {

// A file that need be on rank 0's host only.
absl::StatusOr<std::string> ReadOnRankZero(RankGroup& group, const std::string& path) {
  std::string text;
  if (group.rank() == 0) {
    HM_ASSIGN_OR_RETURN(text, ReadFile(path));
  }
  return group.size() == 1 ? text : group.Broadcast(text);
}

absl::StatusOr<RunConfig> ConfigFromFlags(RankGroup& group, const Device& device) {
  RunConfig config;
  const std::string preset = absl::GetFlag(FLAGS_preset);
  if (absl::GetFlag(FLAGS_resume)) {
    const std::string path = absl::GetFlag(FLAGS_out) + "/config.txt";
    if (group.rank() == 0 && !FileExists(path)) {
      return absl::NotFoundError(
          absl::StrCat("nothing to resume in ", absl::GetFlag(FLAGS_out), ": there is no ", path));
    }
    HM_ASSIGN_OR_RETURN(const std::string text, ReadOnRankZero(group, path));
    HM_RETURN_IF_ERROR(ParseFields(text, &config));
    if (!preset.empty() && preset != config.preset) {
      return absl::InvalidArgumentError(
          absl::StrCat("--preset=", preset, " with --resume: ", path, " is of preset ", config.preset));
    }
  } else {
    HM_ASSIGN_OR_RETURN(config, Preset(!preset.empty() ? preset : device.is_cuda() ? "hm11" : "tiny"));
  }
  HM_RETURN_IF_ERROR(ApplyOverrides(absl::StrJoin(absl::GetFlag(FLAGS_set), ","), &config));
  if (absl::GetFlag(FLAGS_seed) < -1) {
    return absl::InvalidArgumentError(absl::StrCat("--seed=", absl::GetFlag(FLAGS_seed), ": negative"));
  }
  if (absl::GetFlag(FLAGS_seed) >= 0) config.seed = absl::GetFlag(FLAGS_seed);
  HM_RETURN_IF_ERROR(config.Validate());
  return config;
}

// The default corpus, made once on each host.
absl::StatusOr<CorpusPaths> CorpusOfHost(RankGroup& group, int64_t vocab) {
  const bool makes = group.ranks().local_rank == 0;
  const auto tell = [](absl::string_view doing) {
    if (!absl::GetFlag(FLAGS_quiet)) {
      std::fprintf(stderr, "%.*s\n", static_cast<int>(doing.size()), doing.data());
    }
  };
  absl::StatusOr<CorpusPaths> corpus = absl::InternalError("");
  if (makes) corpus = DefaultCorpus(vocab, tell);
  if (makes && !corpus.ok()) return corpus;
  if (group.size() > 1) group.Barrier();
  return makes ? corpus : DefaultCorpus(vocab, [](absl::string_view) {});
}

// Where the run in the folder found its text and tokenizer; nothing where it does not say.
absl::Status FindDataOfRun(RankGroup& group, const std::string& folder, RunOptions* options) {
  const std::string path = absl::StrCat(folder, "/", kRunDataName);
  std::string known = FileExists(path) ? "yes" : "";
  if (group.size() > 1) known = group.Broadcast(known);
  if (known.empty()) return absl::OkStatus();
  HM_ASSIGN_OR_RETURN(const std::string text, ReadOnRankZero(group, path));
  RunData data;
  HM_RETURN_IF_ERROR(ParseFields(text, &data));
  options->train_pattern = data.train_pattern;
  options->val_pattern = data.val_pattern;
  options->tokenizer_path = folder + "/tokenizer.model";
  return absl::OkStatus();
}

absl::Status FindData(RankGroup& group, RunOptions* options) {
  const std::string data = absl::GetFlag(FLAGS_data);
  if (data.empty() && options->resumes()) {
    HM_RETURN_IF_ERROR(FindDataOfRun(group, absl::GetFlag(FLAGS_out), options));
  }
  if (!data.empty()) {
    HM_ASSIGN_OR_RETURN(options->train_pattern, ShardPattern(data, "train"));
  } else if (options->train_pattern.empty()) {
    HM_ASSIGN_OR_RETURN(const CorpusPaths corpus, CorpusOfHost(group, options->config.model.vocab));
    options->train_pattern = corpus.train_pattern;
    options->val_pattern = corpus.val_pattern;
    options->tokenizer_path = corpus.tokenizer_path;
  }
  if (!absl::GetFlag(FLAGS_val).empty()) {
    options->val_pattern = absl::GetFlag(FLAGS_val);
  } else if (options->val_pattern.empty()) {
    HM_ASSIGN_OR_RETURN(options->val_pattern, ValidationPattern(options->train_pattern));
  }
  if (!absl::GetFlag(FLAGS_tokenizer).empty()) {
    options->tokenizer_path = absl::GetFlag(FLAGS_tokenizer);
  } else if (options->tokenizer_path.empty()) {
    HM_ASSIGN_OR_RETURN(options->tokenizer_path, TokenizerBeside(options->train_pattern));
  }
  return absl::OkStatus();
}

bool IsSet(absl::string_view key) {
  for (const std::string& setting : absl::GetFlag(FLAGS_set)) {
    if (absl::StartsWith(absl::StripAsciiWhitespace(setting), absl::StrCat(key, "="))) return true;
  }
  return false;
}

// What the text decides where no setting does: the vocabulary is its tokenizer's, and sequences, halved,
// become short enough that each split of prepared data holds one.
absl::Status FitConfigToData(RunOptions* options) {
  RunConfig& config = options->config;
  HM_ASSIGN_OR_RETURN(const Tokenizer tokenizer, Tokenizer::Load(options->tokenizer_path));
  for (const std::string& pattern : {options->train_pattern, options->val_pattern}) {
    HM_RETURN_IF_ERROR(CheckTokenizerOfShards(pattern, tokenizer, options->tokenizer_path));
  }
  if (!IsSet("vocab")) config.model.vocab = tokenizer.vocab();
  const std::string folder = std::filesystem::path(options->train_pattern).parent_path().string();
  const absl::StatusOr<DataManifest> manifest = ReadManifest(folder.empty() ? "." : folder);
  if (absl::IsNotFound(manifest.status())) return config.Validate();
  HM_RETURN_IF_ERROR(manifest.status());
  const int64_t fewest = std::min(manifest->train_tokens, manifest->val_tokens);
  while (!IsSet("sequence") && !IsSet("sequence_stages") && config.sequence > 32 &&
         config.sequence % 2 == 0 && fewest <= config.sequence) {
    config.sequence /= 2;
    config.sequence_stages.clear();  // a text that short has no room for them
  }
  return config.Validate();
}

// With the process's number: runs that start in one second have folders of their own.
std::string DefaultFolder(const std::string& preset) {
  char stamp[32];
  const std::time_t now = std::time(nullptr);
  std::strftime(stamp, sizeof(stamp), "%Y%m%d_%H%M%S", std::localtime(&now));
  return absl::StrCat("runs/", preset, "_", stamp, "_", getpid());
}

absl::StatusOr<FolderUse> UseFromFlags() {
  const bool resume = absl::GetFlag(FLAGS_resume), overwrite = absl::GetFlag(FLAGS_overwrite);
  if (resume && !absl::GetFlag(FLAGS_init).empty()) {
    return absl::InvalidArgumentError("--resume excludes --init: the checkpoint has the weights");
  }
  if (absl::GetFlag(FLAGS_resume_anyway) && !resume)
    return absl::InvalidArgumentError("--resume_anyway goes with --resume");
  if (resume && overwrite) return absl::InvalidArgumentError("--resume excludes --overwrite");
  if ((resume || overwrite) && absl::GetFlag(FLAGS_out).empty()) {
    return absl::InvalidArgumentError(resume ? "--resume needs --out, the folder of the run to go on with"
                                             : "--overwrite needs --out, the folder of the run to replace");
  }
  return resume ? FolderUse::kResume : overwrite ? FolderUse::kOverwrite : FolderUse::kNewRun;
}

volatile std::sig_atomic_t interrupted = 0;  // the signal

int ExitCodeOf(int number) { return 128 + number; }  // as a shell gives it

// The first signal asks for an end with a checkpoint, a second one of either kind ends at once.
void AskForTheEnd(int number) {
  if (interrupted != 0) _exit(ExitCodeOf(number));
  interrupted = number;
}

absl::Status Main(const std::shared_ptr<RankGroup>& group) {
  for (const int number : {SIGINT, SIGTERM}) signal(number, AskForTheEnd);
  signal(SIGPIPE, SIG_IGN);  // `| head` ends the output, not the run.
  HM_RETURN_IF_ERROR(EnterCallersFolder());
  RunOptions options;
  HM_ASSIGN_OR_RETURN(options.use, UseFromFlags());
  options.resume_anyway = absl::GetFlag(FLAGS_resume_anyway);
  options.group = group;
  options.init = absl::GetFlag(FLAGS_init);
  options.quiet = absl::GetFlag(FLAGS_quiet);
  options.commit = BuiltFromCommit();
  options.interrupted = [group] { return group->BadCode() != 1; };
  HM_ASSIGN_OR_RETURN(options.device, DeviceOfRank(group->ranks(), absl::GetFlag(FLAGS_device)));
  HM_ASSIGN_OR_RETURN(options.config, ConfigFromFlags(*group, options.device));
  HM_RETURN_IF_ERROR(FindData(*group, &options));
  if (!options.resumes()) HM_RETURN_IF_ERROR(FitConfigToData(&options));
  options.folder =
      absl::GetFlag(FLAGS_out).empty() ? DefaultFolder(options.config.preset) : absl::GetFlag(FLAGS_out);
  return Run(options);
}

}  // namespace
}  // namespace hm11

int main(int argc, char** argv) {
  const std::vector<char*> arguments(argv, argv + argc + 1);  // as they are, for ranks
  const absl::Status flags = hm11::ParseFlags(
      argc, argv,
      {.summary = "Trains HybridMamba-11, compresses it, and scores what the artifact holds.",
       .examples = {"hm11                                       this machine's own text: preset hm11 on a "
                    "GPU, else tiny",
                    "hm11 --data=corpus --out=runs/book         text that //tools:prepare_data prepared",
                    "hm11 --data=corpus --preset=hm11 --set=time_limit_seconds=300,seed=7 --out=runs/book",
                    "hm11 --resume --out=runs/book              on from the run's checkpoint"},
       .groups = {{"What is trained", {"preset", "set", "list_settings", "seed", "init"}},
                  {"On which text", {"data", "val", "tokenizer"}},
                  {"The run's folder", {"out", "overwrite", "resume", "resume_anyway"}},
                  {"On what", {"device", "gpus", "rank_timeout"}},
                  {"The terminal", {"quiet"}}}});
  if (!flags.ok()) return hm11::ExitCode(flags);
  if (absl::GetFlag(FLAGS_list_settings)) {
    std::fputs(hm11::SettingsTable().c_str(), stdout);
    return 0;
  }
  return hm11::RunRanks(
      const_cast<char**>(arguments.data()),
      {.gpus = absl::GetFlag(FLAGS_gpus),
       .device = absl::GetFlag(FLAGS_device),
       .rank_timeout = absl::GetFlag(FLAGS_rank_timeout),
       .bad_code = [] { return hm11::interrupted == 0 ? 1 : hm11::ExitCodeOf(hm11::interrupted); }},
      hm11::Main);
}
