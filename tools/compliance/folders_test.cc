// Miniature submission folders, one for each rule's pass, fail and cannot-tell and for each way of being
// fooled.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "core/file.h"
#include "core/lzma.h"
#include "core/random.h"
#include "tools/compliance/made_up_submission.h"
#include "tools/compliance/report.h"
#include "tools/compliance/rules.h"

namespace hm11 {
namespace {

constexpr Verdict kPass = Verdict::kPass, kFail = Verdict::kFail, kCannotTell = Verdict::kCannotTell,
                  kImplausible = Verdict::kImplausible, kDoesNotApply = Verdict::kDoesNotApply;

struct Miniature {
  const char* name;
  int condition;
  Verdict strict, practised;
  const char* fact;   // a part of one of its facts; "" for any
  const char* place;  // where that fact was read: "train_seed41.log:12", a part of it; "" for any
  void (*change)(Submission& s);
};

void ForEachRun(Submission& s, void (*change)(MadeUpRun& run)) {
  for (MadeUpRun& run : s.runs) change(run);
}

// A submission whose three seeds score about `bpb`.
void Score(Submission& s, double bpb) {
  for (size_t i = 0; i < s.runs.size(); ++i) s.runs[i].bpb = bpb + 0.0001 * static_cast<double>(i);
  s.claims["val_bpb"] = bpb + 0.0001;
}

void MakeStudy(Submission& s) { s.claims["track"] = "non_record_16mb"; }

// Ids as of a text: few of a thousand are frequent, 16 bits each.
std::string TokenIds(uint64_t count) {
  std::string bytes;
  for (uint64_t i = 0; i < count; ++i) {
    const int64_t id = RandomIndex(3, 1, i, 2) == 0 ? RandomIndex(3, 2, i, 60) : RandomIndex(3, 3, i, 1000);
    bytes += static_cast<char>(id & 255);
    bytes += static_cast<char>(id >> 8);
  }
  return bytes;
}

// The log of a run with some of its text replaced, in place of the run itself.
void ReplaceInLogs(Submission& s, const std::string& from, const std::string& to) {
  for (const MadeUpRun& run : s.runs) {
    s.files[absl::StrCat("train_seed", run.seed, ".log")] = absl::StrReplaceAll(LogOf(run), {{from, to}});
  }
  s.runs.clear();
}

constexpr char kCacheProgram[] =
    "import torch\n"
    "def look(ctx_hash, target, primes, mask):\n"
    "    full_key = (ctx_hash ^ (target * primes[3])) & mask\n"
    "    return counts[full_key]\n";

const Miniature kMiniatures[] = {
    // Sizes.
    {"SizeInTheJson", 1, kPass, kPass, "claimed: 15,950,000", "submission.json", [](Submission&) {}},
    {"SizeOverTheCap", 1, kFail, kFail, "16,000,001", "submission.json",
     [](Submission& s) { s.claims["bytes_total"] = 16000001; }},
    {"LargestSizeOfASeed", 1, kFail, kFail, "16,000,002", "submission.json:12",
     [](Submission& s) {
       s.claims["seed_results"] = {{"40", {{"artifact_bytes", 15900000}}}, {"41", {{"artifact_bytes", 16000002}}}};
     }},
    {"SizeUnknown", 1, kCannotTell, kCannotTell, "no log of the claim gives its bytes", "",
     [](Submission& s) { s.runs.clear(), s.claims.erase("bytes_total"); }},
    {"SizeOverTheCapOnlyAsShipped", 1, kFail, kPass, "counts as code", "helper.py",
     [](Submission& s) { s.files["helper.py"] = std::string(110000, '#'); }},
    {"ImportBehindACondition", 1, kFail, kPass, "counts as code", "ngram_tilt.py",
     [](Submission& s) {
       s.SetProgram("import torch\nif x:from ngram_tilt import Tilt;y=1\n");
       s.files["ngram_tilt.py"] = std::string(120000, '#');
     }},
    {"SourceThatIsCompiledByACommand", 1, kFail, kPass, "counts as code", "fused.cpp",
     [](Submission& s) {
       s.SetProgram("import os\nos.system('g++ -O3 -shared fused.cpp -o fused.so')\n");
       s.files["fused.cpp"] = std::string(120000, '/');
     }},
    {"ModuleLoadedByItsName", 1, kFail, kPass, "counts as code", "tilt.py",
     [](Submission& s) {
       s.SetProgram("import importlib\nm = importlib.import_module('tilt')\n");
       s.files["tilt.py"] = std::string(120000, '#');
     }},
    {"TableThatTheProgramOpens", 1, kCannotTell, kPass, "counts as data", "table.dat",
     [](Submission& s) {
       s.SetProgram("import numpy as np\nt = np.fromfile('table.dat')\n");
       s.files["table.dat"] = std::string(120000, 'x');
     }},
    {"FileInAComment", 1, kPass, kPass, "", "",
     [](Submission& s) {
       s.SetProgram("import torch\n# import plot, see 'plot.py'\n");
       s.files["plot.py"] = std::string(120000, '#');
     }},
    {"EarlyStudyUnder16MiB", 1, kFail, kPass, "under 16 MiB", "",
     [](Submission& s) {
       MakeStudy(s);
       s.claims["date"] = "2026-03-23";
       s.claims["bytes_total"] = 16638468;
     }},
    // The network.
    {"NoNetwork", 2, kCannotTell, kPass, "name no way", "", [](Submission&) {}},
    {"Download", 2, kCannotTell, kCannotTell, "hf_hub_download", "train_gpt.py:2",
     [](Submission& s) { s.SetProgram("import torch\np = hf_hub_download('a', 'b')\n"); }},
    {"InstallCommand", 2, kCannotTell, kCannotTell, "pip install", "train_gpt.py:2",
     [](Submission& s) { s.SetProgram("import subprocess\nsubprocess.run(['pip', 'install', 'zstandard'])\n"); }},
    {"InstallInAMessage", 2, kCannotTell, kPass, "name no way", "",
     [](Submission& s) { s.SetProgram("import torch\nraise ImportError('pip install mamba_ssm')\n"); }},
    {"CurlInProse", 2, kCannotTell, kPass, "name no way", "",
     [](Submission& s) { s.SetProgram("import torch\ntext = 'fingers might curl around it'\n"); }},
    {"ProgramThatCannotBeRead", 2, kCannotTell, kCannotTell, "could not be read", "",
     [](Submission& s) { s.SetProgram("exec(load('" + std::string(1000, 'A') + "'))\n"); }},
    {"SystemProgram", 2, kCannotTell, kPass, "must be installed", "train_gpt.py:2",
     [](Submission& s) { s.SetProgram("import subprocess\nsubprocess.run(['lrzip', '-z', f])\n"); }},
    // Times.
    {"TrainedInTime", 3, kPass, kPass, "590.0 s + Hessians 4.0 s", "train_seed40.log", [](Submission&) {}},
    {"TrainedTooLong", 3, kFail, kFail, "601.0 s", "train_seed41.log",
     [](Submission& s) { s.runs[1].train_ms = 601000; }},
    {"TrainedAMomentTooLong", 3, kFail, kPass, "600.008 s", "train_seed40.log",
     [](Submission& s) { s.runs[0].train_ms = 600008, s.runs[0].hessians = ""; }},
    {"CalibratedWhenTheTimeWasUsedUp", 3, kFail, kFail, "calibrated when the time was used up", "train_seed40.log",
     [](Submission& s) { s.runs[0].train_ms = 600024, s.runs[0].hessians = "gptq:calibrating with training data...\n"; }},
    {"CalibratedWhenTheTimeWasUsedUpLate", 3, kFail, kPass, "600.024 s + Hessians 4.0 s", "train_seed40.log",
     [](Submission& s) { s.runs[0].train_ms = 600024, s.claims["date"] = "2026-04-27"; }},
    {"CalibratedForLong", 3, kFail, kFail, "590.0 s + Hessians 50.0 s", "train_seed40.log",
     [](Submission& s) { s.runs[0].hessians = "GPTQ:collected 67 Hessians in 50.0s\n"; }},
    {"CalibratedOnItsOwnText", 3, kPass, kPass, "trained 599.9", "train_seed40.log",
     [](Submission& s) {
       s.runs[0].train_ms = 599900;
       s.runs[0].hessians = "gptq:collecting hessians from autoregressive data (AR self-gen)\n";
     }},
    {"TrainedWithoutLog", 3, kCannotTell, kCannotTell, "no log", "", [](Submission& s) { s.runs.clear(); }},
    {"StudyOfAnyLength", 3, kDoesNotApply, kDoesNotApply, "", "", MakeStudy},
    {"EvaluatedInTime", 5, kPass, kPass, "300.0 s", "train_seed40.log", [](Submission&) {}},
    {"EvaluationUnderAnotherName", 5, kFail, kFail, "895.3 s", "train_seed40.log",
     [](Submission& s) {
       s.runs[0].after = "final_ngram val_loss:2.7897 val_bpb:1.0800 ngram_eval_time:895349ms\n";
     }},
    {"EvaluationByItsOwnAccount", 5, kFail, kFail, "688.0 s", "README.md:2",
     [](Submission& s) { s.files["README.md"] = "# It\nEval ops total: ~688s (525 + 163). Slightly over.\n"; }},
    {"SumWithTraining", 5, kPass, kPass, "", "",
     [](Submission& s) { s.files["README.md"] = "- training 600s, eval ~304s, total ~904s\n"; }},
    {"TailPrintedTwice", 5, kPass, kPass, "", "",
     [](Submission& s) {
       for (MadeUpRun& run : s.runs) {
         run.eval_ms = 400000;
         const std::string log = LogOf(run);
         run.after = log.substr(log.find("quantized_exact"));
       }
     }},
    {"ClaimOfAQuickerEvaluationUnderAnotherName", 5, kCannotTell, kPass, "evaluated in 200.0 s", "train_seed40.log",
     [](Submission& s) {
       ForEachRun(s, [](MadeUpRun& run) {
         run.eval_ms = 610000, run.after = "ppm_mixer val_bpb:0.99528899 eval_time:200000ms order=4\n";
       });
       s.claims["val_bpb"] = 0.9953;
     }},
    {"SeveralEvaluations", 5, kCannotTell, kPass, "700.0 s", "train_seed40.log",
     [](Submission& s) { s.runs[0].more = "quantized_a val_loss:2.8 val_bpb:1.081 eval_time:400000ms\n"; }},
    {"EvaluationWithoutLog", 5, kCannotTell, kCannotTell, "no log", "", [](Submission& s) { s.runs.clear(); }},
    // Validation text before sealing.
    {"SettingsOfSwitchedOffTraining", 6, kCannotTell, kCannotTell, "is off", "train_seed40.log",
     [](Submission& s) {
       ForEachRun(s, [](MadeUpRun& run) {
         run.settings += "  prequant_ttt_enabled: False\n  prequant_ttt_epochs: 21\n";
         run.more = "PREQUANT_TTT_ENABLED=0 epochs=0 lr=0.00045\n";
       });
     }},
    {"EpochsBeforeTheSize", 6, kFail, kFail, "before the artifact is made", "train_seed40.log",
     [](Submission& s) { s.runs[0].more = "ttt_adamw:epoch 1/6 loss:1.9556 time:30.0s\n"; }},
    {"EpochsAfterTheSize", 6, kCannotTell, kCannotTell, "", "",
     [](Submission& s) { s.runs[0].after = "ttt: epoch 1/3 loss:2.3\n"; }},
    {"BurstOverTrainingBatches", 6, kCannotTell, kCannotTell, "", "",
     [](Submission& s) { s.runs[0].more = "ttt_burst:epoch:1/2 avg_loss:1.9125\n"; }},
    {"CalibratedOnValidationText", 6, kFail, kFail, "calibrated on validation data", "train_seed41.log",
     [](Submission& s) { s.runs[1].hessians = "gptq:calibrating with 64 batches (using val data)...\n"; }},
    {"PaidPrefixInTheLog", 6, kFail, kFail, "6,200,000 tokens of the text come from a file", "train_seed40.log",
     [](Submission& s) {
       s.runs[0].more = "paid_prefix:loaded 6,200,000 tokens from prefix_6m2.xz (4,240,472 bytes)\n";
     }},
    {"PaidPrefixSwitchedOff", 6, kCannotTell, kCannotTell, "", "",
     [](Submission& s) { s.runs[0].more = "paid_prefix_file: paid_prefix_tokens:0\n"; }},
    {"BlobThatIsTheText", 6, kFail, kFail, "30,000 token ids", "prefix.xz",
     [](Submission& s) {
       s.files["prefix.xz"] = *XzCompress(TokenIds(30000));
       s.SetProgram("import lzma\npaid_prefix_tokens = load('prefix.xz')\n");
     }},
    {"BlobOfTokensThatNothingReads", 6, kCannotTell, kCannotTell, "worth a look: the file is 30,000 token ids",
     "samples.bin", [](Submission& s) { s.files["samples.bin"] = TokenIds(30000); }},
    {"BlobOfWeights", 6, kCannotTell, kCannotTell, "", "",
     [](Submission& s) {
       std::string weights;
       for (uint64_t i = 0; i < 60000; ++i) weights += static_cast<char>(RandomIndex(1, 2, i, 256));
       s.files["prefix.bin"] = weights;
       s.SetProgram("paid_prefix_tokens = load('prefix.bin')\n");
     }},
    {"SettingSwitchedOn", 6, kFail, kFail, "prequant_ttt_enabled is on", "train_seed41.log",
     [](Submission& s) { s.runs[1].settings += "  prequant_ttt_enabled: True\n"; }},
    {"OwnName", 6, kFail, kFail, "its own name", "",
     [](Submission& s) { s.claims["name"] = "SP8192 + Pre-Quant TTT", s.runs.clear(); }},
    {"OwnNameDenies", 6, kCannotTell, kCannotTell, "", "",
     [](Submission& s) { s.claims["name"] = "SP8192 with no pre-quant TTT"; }},
    {"PaidPrefix", 6, kFail, kFail, "its own name", "",
     [](Submission& s) { s.claims["name"] = "8L paid prefix"; }},
    // Training data.
    {"PublishedShards", 7, kCannotTell, kPass, "80 training shards", "train_seed40.log", [](Submission&) {}},
    {"ValidationShardsForTraining", 7, kFail, kFail, "names validation shards", "README.md:2",
     [](Submission& s) {
       s.files["README.md"] = "# It\nTRAIN_FILES=./data/fineweb_val_*.bin torchrun train_gpt.py\n";
     }},
    {"OwnPreparationOfCaseOps", 7, kCannotTell, kFail, "1499 training shards", "train_seed40.log",
     [](Submission& s) {
       ForEachRun(s, [](MadeUpRun& run) { run.train_shards = 1499, run.val_tokens = 47851520; });
     }},
    {"OwnVocabularyAndPreparation", 7, kCannotTell, kCannotTell, "1499 training shards", "",
     [](Submission& s) {
       ForEachRun(s, [](MadeUpRun& run) { run.train_shards = 1499, run.val_tokens = 43767808; });
     }},
    // Coverage and bytes.
    {"WholeText", 8, kCannotTell, kPass, "the whole text with SP8192", "train_seed40.log", [](Submission&) {}},
    {"PartOfTheText", 8, kFail, kFail, "a part of the text", "train_seed40.log",
     [](Submission& s) { ForEachRun(s, [](MadeUpRun& run) { run.val_tokens = 9662464; }); }},
    {"WholeTextOfAnyVocabulary", 8, kCannotTell, kPass, "all of it", "train_seed40.log",
     [](Submission& s) {
       ForEachRun(s, [](MadeUpRun& run) { run.val_tokens = 43767808, run.tokens_a_byte = 0.2896978; });
     }},
    {"RightBytesOfAnyVocabulary", 16, kPass, kPass, "bytes of text where it has", "train_seed40.log",
     [](Submission& s) {
       ForEachRun(s, [](MadeUpRun& run) { run.val_tokens = 43767808, run.tokens_a_byte = 0.2896978; });
     }},
    {"SpaceCountedTwice", 16, kFail, kFail, "no setup known here", "train_seed40.log",
     [](Submission& s) { ForEachRun(s, [](MadeUpRun& run) { run.tokens_a_byte = kTokensAByte / 1.1671; }); }},
    {"SpaceCountedTwiceInTheTable", 15, kFail, kFail, "", "",
     [](Submission& s) { ForEachRun(s, [](MadeUpRun& run) { run.tokens_a_byte = kTokensAByte / 1.1671; }); }},
    {"VocabularyNearAKnownOne", 16, kCannotTell, kCannotTell, "another vocabulary explains it", "",
     [](Submission& s) {
       ForEachRun(s, [](MadeUpRun& run) { run.tokens_a_byte = 0.297, run.val_tokens = -1; });
     }},
    {"EvaluationOfAPartBesideTheWhole", 16, kCannotTell, kCannotTell, "another evaluation of the same run", "",
     [](Submission& s) {
       ForEachRun(s, [](MadeUpRun& run) {
         run.more = "diagnostic val_loss:2.8035 val_bpb:1.08533\n", run.tokens_a_byte = kTokensAByte * 1.1;
       });
     }},
    {"AFewTokensShort", 16, kCannotTell, kCannotTell, "left out", "",
     [](Submission& s) {
       ForEachRun(s, [](MadeUpRun& run) { run.tokens_a_byte = 0.337688, run.val_tokens = 50905088; });
     }},
    {"NoPairOfScores", 16, kCannotTell, kCannotTell, "nowhere given together", "",
     [](Submission& s) { s.runs.clear(); }},
    {"WrongPairInTheJsonOnly", 16, kPass, kPass, "", "",
     [](Submission& s) { s.claims["val_loss"] = 2.9; }},
    {"WrongPairInTheJsonIsAnInconsistency", 25, kFail, kPass, "not of one evaluation", "submission.json",
     [](Submission& s) { s.claims["val_loss"] = 2.9; }},
    {"MixtureOverBytesBesideTheModelsLoss", 16, kCannotTell, kCannotTell, "a loss of the model alone", "",
     [](Submission& s) {
       s.SetProgram("import torch\nmix = ppm_mixture(nll)\n");
       ForEachRun(s, [](MadeUpRun& run) { run.tokens_a_byte = kTokensAByte / 1.1671; });
     }},
    // Score before update, one pass.
    {"TrainsOnTheTextThenScores", 11, kFail, kFail, "what is scored behind it was trained on", "train_seed40.log",
     [](Submission& s) {
       s.runs[0].after = "ttt:start lr=0.002 epochs=2\nttt_epoch:1/2 loss:1.9409 time:155.6s\n"
                         "final_sliding val_loss:2.7870 val_bpb:1.0790\n";
       s.claims["seed_results"] = {{"40", {{"val_bpb", 1.0790}}}};
     }},
    {"ScoresThenTrainsOnTheText", 11, kCannotTell, kCannotTell, "", "",
     [](Submission& s) {
       s.runs[0].after = "ttt_epoch:1/2 loss:1.9409 time:155.6s\nfinal_sliding val_loss:2.7870 val_bpb:1.0790\n";
       s.claims["seed_results"] = {{"40", {{"val_bpb", 1.08}}}};
     }},
    {"TestTimeTrainingWithScoresOfItsOwn", 11, kCannotTell, kCannotTell, "", "",
     [](Submission& s) {
       s.runs[0].after = "ttt_epoch:1/1 loss:1.9\nttt_chunk [1/474] bpb=1.204317 time=0.8s\n"
                         "final_ttt val_loss:2.7870 val_bpb:1.0790\n";
     }},
    {"SecondPass", 12, kFail, kFail, "a second pass scores", "train_seed41.log",
     [](Submission& s) {
       s.runs[1].after = "ngram_two_pass: Pass 1 done val_bpb=1.121747\nngram_two_pass: Pass 2 done val_bpb=1.0700\n"
                         "final_ngram val_loss:2.7637 val_bpb:1.0700\n";
       s.claims["seed_results"] = {{"41", {{"val_bpb", 1.07}}}};
     }},
    {"ScoredAgainBehindTestTimeTraining", 12, kFail, kFail, "with what was trained on the same text",
     "train_seed41.log",
     [](Submission& s) {
       s.runs[1].after = "final_ttt_T1.0 val_loss:2.7637 val_bpb:1.0700 eval_time:296140ms\n"
                         "final_ttt_T0.98 val_loss:2.7508 val_bpb:1.0650 eval_time:82117ms\n";
       s.claims["seed_results"] = {{"41", {{"val_bpb", 1.065}}}};
     }},
    {"TwoWaysOfTestTimeTraining", 12, kCannotTell, kCannotTell, "", "",
     [](Submission& s) {
       s.runs[1].after = "final_ttt_a val_loss:2.7637 val_bpb:1.0700 eval_time:296140ms\n"
                         "final_ttt_b val_loss:2.7508 val_bpb:1.0650 eval_time:290000ms\n";
       s.claims["seed_results"] = {{"41", {{"val_bpb", 1.065}}}};
     }},
    {"SecondPassThatDoesNotCount", 12, kCannotTell, kCannotTell, "", "",
     [](Submission& s) {
       s.runs[1].after = "ngram_two_pass: Pass 2 done val_bpb=1.0700\n";
       s.claims["seed_results"] = {{"41", {{"val_bpb", 1.0801}}}};
     }},
    {"MixtureWithPpm", 10, kCannotTell, kFail, "no score of a mixture with PPM", "train_seed40.log",
     [](Submission& s) {
       s.SetProgram("import torch\nmix = ppm_mixture(nll)\n");
       s.runs[0].after = "ppm_mix bytes=27048621 mix_bpb=0.903306 ppm_only=2.07 nn_only=0.97\n";
       s.claims["val_bpb"] = 0.9033, s.claims["date"] = "2026-04-27";
     }},
    {"MixtureWithPpmThatIsNotClaimed", 10, kCannotTell, kCannotTell, "", "",
     [](Submission& s) {
       s.SetProgram("import torch\nmix = ppm_mixture(nll)\n");
       s.runs[0].after = "ppm_mix bytes=27048621 mix_bpb=0.903306 ppm_only=2.07 nn_only=0.97\n";
       s.claims["date"] = "2026-04-27";
     }},
    // Seeds.
    {"ThreeSeeds", 21, kPass, kPass, "40 41 42", "", [](Submission&) {}},
    {"OneSeedLate", 21, kFail, kFail, "40;", "",
     [](Submission& s) { s.runs.resize(1), s.claims["seeds"] = {40}; }},
    {"OneSeedOfTheFirstDays", 21, kFail, kPass, "40;", "",
     [](Submission& s) {
       s.runs.resize(1), s.claims["seeds"] = {40};
       s.claims["date"] = "2026-03-19";
     }},
    {"SeedsWithoutLogs", 21, kCannotTell, kCannotTell, "none", "", [](Submission& s) { s.runs.clear(); }},
    {"ReferenceLogIsNoSeed", 21, kFail, kFail, "40 41;", "",
     [](Submission& s) {
       s.claims["seeds"] = {40, 41};
       s.claims["reference_logs"] = {{{"log", "train_seed42.log"}, {"note", "not in the mean"}}};
     }},
    {"LogOfAnotherSeedIsNoneOfTheClaim", 21, kPass, kPass, "40 41 42;", "",
     [](Submission& s) {
       MadeUpRun more = s.runs[0];
       more.seed = 99, more.settings = "  matrix_lr: 0.03\n";
       s.files["train_seed99.log"] = LogOf(more);
       s.claims["seed_results"] = {{"40", {{"val_bpb", 1.08}}}, {"41", {{"val_bpb", 1.0801}}}, {"42", {{"val_bpb", 1.0802}}}};
     }},
    {"RunOfAnotherConfigurationBesideThree", 21, kPass, kPass, "1 more of other configurations", "",
     [](Submission& s) {
       MadeUpRun longer = s.runs[0];
       longer.seed = 99, longer.settings = "  iterations: 200000\n  matrix_lr: 0.03\n";
       s.files["train_seed99_4h.log"] = LogOf(longer);
       s.claims.erase("seeds"), s.claims["val_bpb"] = 1.0803;
     }},
    {"LogsWithoutAClaim", 21, kCannotTell, kCannotTell, "is not said", "",
     [](Submission& s) { s.claims = nullptr, s.runs[2].settings = "  matrix_lr: 0.03\n"; }},
    {"AddressesAndSentencesAreNoSettings", 21, kPass, kPass, "", "",
     [](Submission& s) {
       s.runs[1].settings += "  seq: <property object at 0x7a7a57a7c7c0>\n  hypothesis: the seed is what changes here\n";
       s.runs[2].settings += "  seq: <property object at 0x7b1ad20846d0>\n  hypothesis: and now the third of them all\n";
     }},
    {"CodeSizesThatDiffer", 21, kFail, kPass, "16000 bytes in one log, 17000", "train_seed40.log",
     [](Submission& s) {
       ForEachRun(s, [](MadeUpRun& run) { run.program = ""; });
       s.runs[0].more = "Code size: 16000 bytes\n", s.runs[1].more = "Code size: 17000 bytes\n";
     }},
    {"SettingsThatDiffer", 21, kFail, kFail, "matrix_lr is 0.026 and 0.03", "train_seed42.log",
     [](Submission& s) { s.runs[2].settings = "  matrix_lr: 0.03\n"; }},
    {"TestTimeSettingsOfAnUnusedTest", 21, kPass, kPass, "", "",
     [](Submission& s) { s.runs[2].settings += "  ttt_enabled: True\n", s.runs[1].settings += "  ttt_enabled: False\n"; }},
    // Claims and logs.
    {"ClaimInAnEarlierLine", 25, kPass, kPass, "", "",
     [](Submission& s) {
       // What follows the claimed evaluation is a failed attempt to better it.
       ForEachRun(s, [](MadeUpRun& run) { run.after = "final_ttt val_loss:3.0742 val_bpb:1.3360\n"; });
       s.claims["seed_results"] = {{"40", {{"val_bpb", 1.08}}}, {"41", {{"val_bpb", 1.0801}}}, {"42", {{"val_bpb", 1.0802}}}};
     }},
    {"ClaimInALogOfItsName", 25, kPass, kPass, "", "",
     [](Submission& s) {
       MadeUpRun sweep = s.runs[0];
       sweep.bpb = 1.2;
       s.files["z_seed40.log"] = LogOf(sweep);
       s.claims["seed_results"] = {{"40", {{"val_bpb", 1.08}, {"log_file", "train_seed40.log"}}}};
     }},
    {"ClaimInNoLog", 25, kFail, kFail, "claims 1.05000", "train_seed40.log",
     [](Submission& s) { s.claims["val_bpb"] = 1.05; }},
    {"ClaimBeforeQuantizing", 25, kFail, kFail, "printed as \"pre-quantization post-ema\"", "train_seed40.log",
     [](Submission& s) {
       s.runs[0].more = "pre-quantization post-ema val_loss:2.70 val_bpb:1.0500\n";
       s.claims["val_bpb"] = 1.05;
     }},
    {"ClaimUnderAnotherName", 25, kCannotTell, kPass, "printed as \"mix_bpb\"", "train_seed40.log",
     [](Submission& s) {
       s.runs[0].after = "ppm_mix bytes=10982035 mix_bpb=1.070000\n";
       s.claims["val_bpb"] = 1.07;
     }},
    {"ClaimInALogOfItsEvaluationAlone", 25, kCannotTell, kPass, "printed as \"best_agree_bpb\"", "ngram_seed40.log",
     [](Submission& s) {
       s.files["ngram_seed40.log"] = "online_best_agree:done llm_bpb=1.0798 best_agree_bpb=1.0650 gain_bpb=0.0148\n";
       s.claims["seed_results"] = {{"40", {{"val_bpb", 1.065}}}};
     }},
    {"ClaimWithoutLoss", 25, kPass, kPass, "", "",
     [](Submission& s) {
       s.runs.resize(1), s.claims["seeds"] = {40};
       s.runs[0].after = "final_ttt val_bpb:1.0750\n";
       s.claims["val_bpb"] = 1.075;
     }},
    {"ClaimOfTheFirstDays", 25, kFail, kPass, "claims 1.09000", "",
     [](Submission& s) { s.claims["val_bpb"] = 1.09, s.claims["date"] = "2026-03-19"; }},
    {"ScoreToBeDone", 25, kFail, kFail, "val_bpb is \"TBD\"", "submission.json",
     [](Submission& s) { s.claims["val_bpb"] = "TBD"; }},
    {"ScoresInTheOrderOfTheSeeds", 25, kPass, kPass, "", "",
     [](Submission& s) {
       s.runs[1].bpb = 1.082, s.runs[2].bpb = 1.085;
       s.runs[2].after = "quantized_exact val_loss:2.7639 val_bpb:1.0700\n";
       s.claims["val_bpb"] = 1.082333, s.claims["seed_results"] = {1.08, 1.082, 1.085};
     }},
    {"SeedsAsFieldsOfTheirOwn", 25, kPass, kPass, "", "",
     [](Submission& s) {
       s.runs[1].bpb = 1.082, s.runs[2].bpb = 1.085;
       s.runs[2].after = "quantized_exact val_loss:2.7639 val_bpb:1.0700\n";
       s.claims.erase("seeds"), s.claims["val_bpb"] = 1.082333;
       s.claims["seed_40"] = {{"val_bpb", 1.08}}, s.claims["seed_41"] = {{"val_bpb", 1.082}};
       s.claims["seed_42"] = {{"val_bpb", 1.085}};
     }},
    {"ScoresOfSeedsBesideTheMeanOfOthers", 25, kFail, kPass, "seed 40: claims 1.10000", "train_seed40.log",
     [](Submission& s) {
       s.claims["seed_results"] = {{"40", {{"val_bpb", 1.1}}}};
     }},
    {"MeanOfTheLogsThatNameASeed", 25, kPass, kPass, "", "",
     [](Submission& s) {
       MadeUpRun sweep = s.runs[0];
       sweep.seed = 7, sweep.bpb = 1.2;
       s.files["script.txt"] = LogOf(sweep);
       s.runs[1].bpb = 1.082, s.runs[2].bpb = 1.085;
       s.claims["val_bpb"] = 1.082333, s.claims.erase("seeds");
     }},
    {"RerunOfASeedUnderANameOfItsOwn", 1, kPass, kPass, "", "",
     [](Submission& s) {
       MadeUpRun over = s.runs[0];
       over.bpb = 1.079, over.total_bytes = 16200000;
       s.files["train_seed40_3pct.log"] = LogOf(over);
       s.claims["seeds"] = {{"40_3pct", {{"val_bpb", 1.079}}}, {"40_5pct", {{"val_bpb", 1.08}}},
                            {"41", {{"val_bpb", 1.0801}}}, {"42", {{"val_bpb", 1.0802}}}};
     }},
    {"NoLog", 25, kFail, kCannotTell, "no log", "", [](Submission& s) { s.runs.clear(); }},
    {"JsonOfAlmostThatName", 25, kPass, kPass, "", "",
     [](Submission& s) {
       s.files["submission_ternary.json"] = s.claims.dump();
       s.claims = nullptr;
     }},
    {"AllSeedsDisclosed", 23, kCannotTell, kPass, "cannot be seen", "", [](Submission&) {}},
    {"SeedNotClaimed", 23, kFail, kCannotTell, "seed 42 has a log", "train_seed42.log",
     [](Submission& s) { s.claims["seeds"] = {40, 41}; }},
    {"SeedBesideThoseOfTheClaim", 23, kFail, kCannotTell, "seed 99 has a log", "train_seed99.log",
     [](Submission& s) {
       MadeUpRun more = s.runs[0];
       more.seed = 99;
       s.files["train_seed99.log"] = LogOf(more);
       s.claims["seed_results"] = {{"40", {{"val_bpb", 1.08}}}, {"41", {{"val_bpb", 1.0801}}}, {"42", {{"val_bpb", 1.0802}}}};
     }},
    {"NoSeedsNamed", 23, kCannotTell, kCannotTell, "names no seeds", "",
     [](Submission& s) { s.claims.erase("seeds"); }},
    // Plausibility.
    {"PlausibleScore", 28, kPass, kPass, "", "", [](Submission&) {}},
    {"ImpossibleScore", 28, kImplausible, kImplausible, "0.0281 bits a byte", "",
     [](Submission& s) { Score(s, 0.028); }},
    {"ImpossibleScoreByACache", 28, kImplausible, kImplausible, "may explain it: the key of a table", "train_gpt.py:3",
     [](Submission& s) { Score(s, 0.158), s.SetProgram(kCacheProgram); }},
    {"JumpInOneLog", 28, kImplausible, kImplausible, "from 1.1648 to 0.9920", "train_seed40.log",
     [](Submission& s) {
       Score(s, 0.992);
       ForEachRun(s, [](MadeUpRun& run) { run.more = "final_int6_roundtrip val_loss:3.0088 val_bpb:1.1648\n"; });
     }},
    {"TooGoodForItsDate", 28, kImplausible, kImplausible, "up to ten days after", "",
     [](Submission& s) { Score(s, 1.06), s.claims["date"] = "2026-03-23"; }},
    {"BelowAllAccepted", 28, kCannotTell, kCannotTell, "below every accepted score", "",
     [](Submission& s) { Score(s, 1.05), s.claims["date"] = "2026-05-01"; }},
    {"ScoreBelowZero", 28, kFail, kFail, "no score of anything", "submission.json",
     [](Submission& s) { s.runs.clear(), s.claims["val_bpb"] = -1; }},
    {"NoScore", 28, kCannotTell, kCannotTell, "there is no score", "",
     [](Submission& s) { s.runs.clear(), s.claims.erase("val_bpb"); }},
    {"CacheKeyedInAFunction", 10, kCannotTell, kCannotTell, "the key of a table", "train_gpt.py:5",
     [](Submission& s) {
       s.SetProgram("def keys(tokens, pos, order, primes):\n    h = 0\n    for k in range(order - 1):\n"
                    "        h ^= tokens[pos - (order - 1 - k)] * primes[k]\n"
                    "    full_idx = (h ^ (tokens[pos].astype(int) * primes[order])) & mask\n    return full_idx\n");
     }},
    {"TheSmallerOfTwoLosses", 10, kFail, kFail, "the smaller one is taken", "train_gpt.py:2",
     [](Submission& s) {
       s.SetProgram("def mix(nll, i, new_nll, old_nll):\n    if new_nll < old_nll:\n        nll[i] = new_nll\n");
     }},
    {"TheBestLossSoFar", 10, kCannotTell, kCannotTell, "", "",
     [](Submission& s) {
       s.SetProgram("def stop(nll, best_nll):\n    if nll < best_nll:\n        best_nll = nll\n");
     }},
    {"KeyOfTheContextAlone", 10, kCannotTell, kCannotTell, "", "",
     [](Submission& s) {
       s.SetProgram("def keys(tokens, pos, primes):\n    full = (tokens[pos - 1] ^ (tokens[pos - 2] * primes[1]))\n");
     }},
    {"CacheKeyedWithTheTarget", 10, kCannotTell, kCannotTell, "the key of a table", "train_gpt.py:3",
     [](Submission& s) { s.SetProgram(kCacheProgram); }},
    // Honest folders that were accused once.
    {"LinesThatEndInTwoCharacters", 21, kPass, kPass, "40 41 42", "",
     [](Submission& s) {
       for (MadeUpRun& run : s.runs) absl::StrAppend(&run.gpu, "   ", run.seed, "C");
       ReplaceInLogs(s, "\n", "\r\n");
     }},
    {"ConsoleOutputBeforeTheProgram", 21, kPass, kPass, "", "",
     [](Submission& s) {
       for (const MadeUpRun& run : s.runs) {
         const std::string log = LogOf(run);
         s.files[absl::StrCat("train_seed", run.seed, ".log")] =
             absl::StrCat(log.substr(log.find("train_shards")), log.substr(log.find("import torch")));
       }
       s.runs.clear();
     }},
    {"SeedsNamedWhereTheyStart", 21, kPass, kPass, "40 41 42", "",
     [](Submission& s) {
       std::string log;
       for (const MadeUpRun& run : s.runs) {
         absl::StrAppend(&log, "   SEED ", run.seed, "  - starting training run\n",
                         absl::StrReplaceAll(LogOf(run), {{absl::StrCat("\nseed:", run.seed), ""}, {absl::StrCat("  seed: ", run.seed, "\n"), ""}}));
       }
       s.runs.clear(), s.claims.erase("seeds"), s.files["train.log"] = log;
     }},
    {"SeedsBelowResultsBesideAnAblation", 21, kPass, kPass, "40 41 42; in submission.json: 3", "",
     [](Submission& s) {
       MadeUpRun ablation = s.runs[0];
       ablation.bpb = 1.12, ablation.more = "Code size: 17000 bytes\n";
       s.files["log_base.txt"] = absl::StrReplaceAll(LogOf(ablation), {{"\nseed:40", ""}, {"  seed: 40\n", ""}});
       ForEachRun(s, [](MadeUpRun& run) { run.more = "Code size: 16000 bytes\n"; });
       s.claims.erase("seeds"), s.claims.erase("val_bpb");
       s.claims["results"] = {{"mean_val_bpb", 1.0801},
                              {"seeds", {{"40", {{"val_bpb", 1.08}}}, {"41", {{"val_bpb", 1.0801}}}, {"42", {{"val_bpb", 1.0802}}}}}};
     }},
    {"OnlyADiagnosticOfTheQuantizedModel", 23, kCannotTell, kPass, "", "",
     [](Submission& s) { ReplaceInLogs(s, "quantized_exact", "diagnostic quantized"); }},
    {"SeedDisclosedBesideTheClaim", 23, kCannotTell, kPass, "seed 99 has a log and is disclosed", "train_seed99.log",
     [](Submission& s) {
       MadeUpRun more = s.runs[0];
       more.seed = 99;
       s.files["train_seed99.log"] = LogOf(more);
       s.claims["seed_results"] = {{"40", {{"val_bpb", 1.08}}}, {"41", {{"val_bpb", 1.0801}}}, {"42", {{"val_bpb", 1.0802}}}};
       s.claims["additional_seed_results"] = {{"99", {{"val_bpb", 1.08}}}};
     }},
    {"LogOfASeedInAFolderBelow", 25, kPass, kPass, "", "",
     [](Submission& s) { s.files["more/train_seed42.log"] = LogOf(s.runs[2]), s.runs.resize(2); }},
    {"TwoWaysOfOneSeed", 25, kPass, kPass, "", "",
     [](Submission& s) {
       MadeUpRun other = s.runs[0];
       other.bpb = 1.082, s.files["other_seed40.log"] = LogOf(other), s.runs.resize(1);
       s.claims.erase("seeds"), s.claims["val_bpb"] = 1.081;
       s.claims["seed_results"] = {{"40_careful", {{"val_bpb", 1.08}}}, {"40_eager", {{"val_bpb", 1.082}}}};
     }},
    {"BytesOfTheRunThatIsClaimed", 25, kPass, kPass, "", "",
     [](Submission& s) {
       s.runs[0].bpb = 1.08, s.runs[1].bpb = 1.08015, s.runs[2].bpb = 1.07995, s.runs[1].total_bytes = 15990000;
       s.claims.erase("seeds"), s.claims["val_bpb"] = 1.08;
     }},
    {"LargestArtifactBesideTheSumOfOne", 25, kPass, kPass, "", "",
     [](Submission& s) {
       s.claims["bytes_model"] = 15900000, s.claims["bytes_code"] = 50000;
       s.claims["seed_results"] = {{"41", {{"artifact_bytes", 15960000}}}};
     }},
    {"FieldsThatAreNull", 25, kFail, kPass, "no field gives val_bpb", "submission.json",
     [](Submission& s) { s.claims["val_bpb"] = nullptr; }},
    {"ProgramsOfWhichNoneTrains", 25, kFail, kPass, "none of the 2 programs is train_gpt.py", "",
     [](Submission& s) { MakeStudy(s), s.SetProgram(""), s.files["plot.py"] = "import math\n"; }},
    {"OneScoreIsNoMean", 25, kFail, kPass, "claims 1.07000 bits a byte, which no log prints", "train_seed40.log",
     [](Submission& s) { MakeStudy(s), s.runs.resize(1), s.claims["seeds"] = {40}, s.claims["val_bpb"] = 1.07; }},
    {"StudyThatClaimsNoArtifact", 1, kCannotTell, kCannotTell, "claims no artifact", "",
     [](Submission& s) {
       MakeStudy(s), s.runs[0].total_bytes = 17050348;
       for (const char* key : {"val_bpb", "bytes_total", "seeds"}) s.claims.erase(key);
     }},
    {"ProgramPackedAfterTheRun", 1, kCannotTell, kPass, "of which 74,000 are the program as it ran", "train_seed40.log",
     [](Submission& s) {
       std::string source = "import torch\n";
       while (source.size() < 73900) source += "x = 1\n";
       s.SetProgram(absl::StrCat("import lzma,base64\nexec(lzma.decompress(base64.b64decode('",
                                 absl::Base64Escape(*XzCompress(source)), "')))\n"));
       s.runs[0].model_bytes = 15930000, s.runs[0].total_bytes = 16004000, s.runs[0].more = "Code size: 74000 bytes\n";
     }},
    {"SizeOverTheCapInALog", 1, kFail, kFail, "a log says: 16,000,003", "train_seed40.log",
     [](Submission& s) {
       s.runs[0].model_bytes = 15999990, s.runs[0].total_bytes = 16000003, s.runs[0].more = "Code size: 13 bytes\n";
     }},
    {"LoopThatScoresOnceBesideOneThatDoesNot", 8, kCannotTell, kPass, "whether the score is of that loop", "train_gpt.py",
     [](Submission& s) {
       s.SetProgram("import torch\na = [ws for ws in range(0, total, stride) if ws + context < total]\n"
                    "b = [ws for ws in range(0, total, stride) if min(ws + n, total) - ws >= stride]\n");
       ForEachRun(s, [](MadeUpRun& run) {
         run.after = absl::StrCat("final_sliding_window val_loss:2.7897 val_bpb:", run.bpb, "\n");
       });
     }},
    {"ClaimThatCorrectsTheLogs", 28, kPass, kPass, "a log prints 0.9900, its bytes miscounted", "train_seed40.log",
     [](Submission& s) {
       for (MadeUpRun& run : s.runs) {
         s.claims["seed_results"][absl::StrCat(run.seed)] = {{"val_bpb", run.bpb}};
         run.bpb /= 1.0909, run.tokens_a_byte /= 1.0909;
       }
     }},
    {"LowerInTheLogsThanClaimed", 28, kCannotTell, kCannotTell, "a log prints 0.5500, which is not claimed", "train_seed40.log",
     [](Submission& s) { Score(s, 0.55), s.claims["val_bpb"] = 1.0801; }},
    {"PackedStubOfAnotherProgram", 1, kFail, kFail, "a log says: 16,004,000", "train_seed40.log",
     [](Submission& s) {
       s.runs[0].model_bytes = 15930000, s.runs[0].total_bytes = 16004000, s.runs[0].more = "Code size: 74000 bytes\n";
     }},
    {"TrialInTheLogOfASeed", 21, kPass, kPass, "40 41 42", "",
     [](Submission& s) {
       const std::string head = "train_loader:dataset:fineweb10B_sp8192 train_shards:80\nmatrix:1 seconds:";
       MadeUpRun trial = s.runs[2];
       trial.bpb = 2.8, trial.train_ms = 60000;
       for (const MadeUpRun& run : s.runs) {
         s.files[absl::StrCat("train_seed", run.seed, ".log")] =
             absl::StrCat(run.seed == 42 ? absl::StrCat(head, "60\n", LogOf(trial)) : "", head, "600\n", LogOf(run));
       }
       s.runs.clear(), s.claims.erase("seeds");
     }},
    {"KindOfARunIsNoSetting", 21, kPass, kPass, "", "",
     [](Submission& s) {
       s.runs[1].settings += "  run_kind: repeat\n", s.runs[2].settings += "  run_kind: repeat\n";
       s.runs[0].settings += "  run_kind: new\n";
     }},
    {"NearestOfTheScoresOnTheWay", 25, kCannotTell, kPass, "1.05000 is printed as \"diagnostic two\"", "",
     [](Submission& s) {
       s.runs[0].more = "diagnostic one val_loss:2.7 val_bpb:1.05004\ndiagnostic two val_loss:2.7 val_bpb:1.05\n";
       s.claims["val_bpb"] = 1.05;
     }},
    {"BytesByTheirSeeds", 25, kPass, kPass, "", "",
     [](Submission& s) {
       s.claims.erase("bytes_total");
       s.claims["artifact_bytes"] = {{"40", 15940000}, {"41", 15950000}};
     }},
    {"HessiansOfATailThatIsThereTwice", 3, kPass, kPass, "590.0 s + Hessians 7.5 s", "train_seed40.log",
     [](Submission& s) {
       s.runs[0].hessians = "GPTQ:collected 67 Hessians in 7.5s\n";
       const std::string log = LogOf(s.runs[0]);
       s.runs[0].after = log.substr(log.find("stopping_early"));
     }},
    {"PieceOfAProgramBehindTheReport", 6, kCannotTell, kCannotTell, "", "",
     [](Submission& s) {
       s.runs[0].after = "    gptq = int(os.environ.get('GPTQ', '8'))\n    if gptq:\n"
                         "        log0('Collecting GPTQ Hessians from validation data...')\n";
     }},
    {"NameAsMarkdownHasIt", 25, kPass, kPass, "", "",
     [](Submission& s) { s.files["README.md"] = "# It\n## Files\n- `train\\_gpt.py` runs it\n"; }},
    {"RunThatIsThereTwice", 23, kCannotTell, kPass, "", "",
     [](Submission& s) {
       for (const MadeUpRun& run : s.runs) {
         const std::string log = absl::StrCat(
             "train_loader:dataset:fineweb10B_sp8192 train_shards:80\n",
             absl::StrReplaceAll(LogOf(run), {{absl::StrCat("\nseed:", run.seed), ""}, {absl::StrCat("  seed: ", run.seed, "\n"), ""}}));
         s.files[absl::StrCat("train_seed", run.seed, ".log")] = log + log;
       }
       s.runs.clear();
     }},
    // The rest.
    {"CalibratedInTime", 19, kCannotTell, kPass, "", "", [](Submission&) {}},
    {"NotCalibrated", 19, kPass, kPass, "speaks of a calibration", "",
     [](Submission& s) { ForEachRun(s, [](MadeUpRun& run) { run.hessians = ""; }); }},
    {"CalibrationUnknown", 19, kCannotTell, kCannotTell, "no log", "", [](Submission& s) { s.runs.clear(); }},
    {"SlotByItsOwnAnswer", 13, kFail, kFail, "no_slot: false", "submission.json",
     [](Submission& s) { s.claims["compliance"] = {{"no_slot", false}}; }},
    {"EightH100", 27, kPass, kPass, "world size 8", "train_seed40.log", [](Submission&) {}},
    {"AnotherGpu", 27, kFail, kFail, "A100", "train_seed40.log",
     [](Submission& s) { ForEachRun(s, [](MadeUpRun& run) { run.gpu = "NVIDIA A100-SXM4-80GB"; }); }},
    {"AnotherGpuOfTheFirstDays", 27, kFail, kPass, "H200", "",
     [](Submission& s) {
       ForEachRun(s, [](MadeUpRun& run) { run.gpu = "NVIDIA H200"; });
       s.claims["date"] = "2026-03-19";
     }},
    {"GpuUnknown", 27, kCannotTell, kCannotTell, "no log", "", [](Submission& s) { s.runs.clear(); }},
    {"PlainCode", 26, kPass, kPass, "", "", [](Submission&) {}},
    {"OpaqueCode", 26, kFail, kCannotTell, "no source text", "train_gpt.py",
     [](Submission& s) { s.SetProgram("exec(load('" + std::string(1000, 'A') + "'))\n"); }},
    {"NoCode", 26, kCannotTell, kCannotTell, "no program", "",
     [](Submission& s) { s.files.erase("helper.py"), s.SetProgram(""); }},
};

bool Cites(const Fact& fact, const std::string& place) {
  return place.empty() || std::any_of(fact.places.begin(), fact.places.end(), [&](const Place& each) {
           return absl::StrContains(absl::StrCat(each.file, ":", each.line, ";"), place) ||
                  absl::StrContains(absl::StrCat(each.file, ":", each.line), place);
         });
}

class MiniatureTest : public ::testing::TestWithParam<Miniature> {};

TEST_P(MiniatureTest, IsJudgedWithItsFact) {
  const Miniature& wanted = GetParam();
  Submission submission;
  wanted.change(submission);
  const std::string path = NewFolder();
  Put(path, submission);
  const auto folder = ReadSubmissionFolder(path);
  ASSERT_TRUE(folder.ok()) << folder.status();
  const AuditInput input = {.folder = &*folder};
  const Audit audit = AuditSubmission(input);
  const Condition& condition = audit.conditions.at(static_cast<size_t>(wanted.condition - 1));
  ASSERT_EQ(condition.number, wanted.condition);
  EXPECT_STREQ(VerdictName(condition.strict), VerdictName(wanted.strict)) << AuditText(input, audit);
  EXPECT_STREQ(VerdictName(condition.practised), VerdictName(wanted.practised)) << AuditText(input, audit);
  const bool stated = std::any_of(condition.facts.begin(), condition.facts.end(), [&](const Fact& fact) {
    return absl::StrContains(fact.text, wanted.fact) && Cites(fact, wanted.place);
  });
  EXPECT_TRUE(stated || *wanted.fact == '\0') << AuditText(input, audit);
  // Whoever is judged can look every line up.
  for (const Condition& each : audit.conditions) {
    for (const Fact& fact : each.facts) {
      for (const Place& place : fact.places) EXPECT_FALSE(place.file.empty()) << fact.text;
    }
    EXPECT_TRUE(each.strict != kCannotTell || !each.settle.empty()) << each.number;
  }
}

INSTANTIATE_TEST_SUITE_P(Folders, MiniatureTest, ::testing::ValuesIn(kMiniatures),
                         [](const auto& info) { return std::string(info.param.name); });

TEST(MiniaturesTest, EveryRuleThatReadsFilesIsTried) {
  EXPECT_GE(std::size(kMiniatures), 60u);
  for (const Rule& rule : Rules()) {
    if (rule.by_running || rule.number == 22) continue;  // 22 needs a second folder
    const bool tried = std::any_of(std::begin(kMiniatures), std::end(kMiniatures),
                                   [&](const Miniature& each) { return each.condition == rule.number; });
    EXPECT_TRUE(tried) << rule.number;
  }
}

TEST(MiniaturesTest, TheReadmeExplainsEveryCondition) {
  const auto readme = ReadFile("tools/compliance/README.md");
  ASSERT_TRUE(readme.ok()) << readme.status();
  for (const Rule& rule : Rules()) {
    EXPECT_THAT(*readme, ::testing::HasSubstr(absl::StrCat("**", rule.number, " ", rule.title, ".**")));
  }
}

Audit AuditOf(const std::string& path) {
  const auto folder = ReadSubmissionFolder(path);
  EXPECT_TRUE(folder.ok()) << folder.status();
  return AuditSubmission({.folder = &*folder});
}

TEST(OverallVerdictTest, APassNeedsEvidence) {
  Submission submission;
  submission.runs.clear();
  submission.claims["bytes_code"] = 50000;
  const std::string path = NewFolder();
  Put(path, submission);
  const Audit audit = AuditOf(path);
  EXPECT_EQ(audit.practised, kCannotTell);
  EXPECT_THAT(audit.missing, ::testing::Contains("a log with a score after training"));
}

TEST(OverallVerdictTest, AnImplausibleScoreIsNoPass) {
  Submission submission;
  Score(submission, 0.158);
  const std::string path = NewFolder();
  Put(path, submission);
  EXPECT_EQ(AuditOf(path).practised, kImplausible);
}

}  // namespace
}  // namespace hm11
