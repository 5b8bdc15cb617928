// From finished runs to a submission's folder: complete, with numbers that are the runs' own, passed by both
// audits; and every broken run refused with one line.
#include "tools/submission/submission.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <functional>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "core/crc64.h"
#include "core/file.h"
#include "nlohmann/json.hpp"
#include "quant/artifact.h"
#include "testing/matchers.h"
#include "tools/child_program.h"
#include "tools/compliance/packed_code.h"
#include "tools/compliance/rules.h"
#include "train/run_test_data.h"

namespace hm11 {
namespace {

using testing::Contains;
using testing::HasSubstr;
using Json = nlohmann::json;
namespace fs = std::filesystem;

class SubmissionTest : public testing::Test {
 protected:
  // Three runs of seconds, two of them one submission.
  static void SetUpTestSuite() {
    folder_ = new std::string(NewSmallDataFolder("hm11_submission"));
    for (const int seed : {1, 2}) {
      RunOptions options = SmallRun(*folder_, absl::StrCat("run", seed));
      options.config.seed = seed;
      ASSERT_THAT(hm11::Run(options), IsOk());
    }
    RunOptions longer = SmallRun(*folder_, "longer");
    longer.config.seed = 3;
    longer.config.schedule.max_steps = 25;
    ASSERT_THAT(hm11::Run(longer), IsOk());
  }
  static void TearDownTestSuite() {
    fs::remove_all(*folder_);
    delete folder_;
  }
  void TearDown() override {
    fs::remove_all(Path("out"));
    fs::remove_all(Path("out.rejected"));
    fs::remove_all(Path("copy"));
  }

  static std::string Path(const std::string& name) { return absl::StrCat(*folder_, "/", name); }
  static std::string ReadText(const std::string& name) {
    const absl::StatusOr<std::string> text = ReadFile(Path(name));
    EXPECT_THAT(text, IsOk());
    return text.value_or("");
  }
  static SubmissionOptions Options(const std::vector<std::string>& runs) {
    SubmissionOptions options;
    for (const std::string& run : runs) options.runs.push_back(Path(run));
    options.identity = {.name = "A \"small\" one", .author = "Ann", .github_id = "ann", .date = "2026-01-31"};
    options.out = Path("out");
    options.audit_program = "eval/audit";
    return options;
  }
  static absl::Status Make(const SubmissionOptions& options) { return MakeSubmission(options).status(); }

  // One line, with the words in it, and nothing written.
  static void ExpectRefusal(const SubmissionOptions& options, const std::vector<std::string>& words) {
    const absl::Status status = Make(options);
    EXPECT_FALSE(status.ok());
    const std::string message(status.message());
    for (const std::string& word : words) EXPECT_THAT(message, HasSubstr(word));
    EXPECT_FALSE(absl::StrContains(message, "\n")) << message;
    EXPECT_FALSE(FileExists(Path("out"))) << message;
    EXPECT_FALSE(FileExists(Path("out.rejected"))) << message;
  }
  // The same for run1 with one of its files changed; "" removes it.
  static void ExpectBrokenRunRefused(const std::string& file,
                                     const std::function<std::string(std::string)>& change,
                                     const std::vector<std::string>& words) {
    fs::remove_all(Path("copy"));
    fs::copy(Path("run1"), Path("copy"));
    const std::string changed = change(ReadText("copy/" + file));
    if (changed.empty()) {
      fs::remove(Path("copy/" + file));
    } else {
      ASSERT_THAT(WriteFile(Path("copy/" + file), changed), IsOk());
    }
    std::vector<std::string> all = words;
    all.push_back(Path("copy"));
    SCOPED_TRACE(file);
    ExpectRefusal(Options({"copy"}), all);
  }

  static std::string* folder_;
};

std::string* SubmissionTest::folder_ = nullptr;

double LastNumber(const std::string& text, const std::string& key) {
  const size_t at = text.rfind(key);
  EXPECT_NE(at, std::string::npos) << key;
  return at == std::string::npos ? 0 : std::stod(text.substr(at + key.size()));
}

TEST_F(SubmissionTest, ARunThatWasResumedAsAnotherSaysSo) {
  fs::copy(Path("run1"), Path("copy"));
  const std::string log = ReadText("copy/train.log");
  const size_t begin = log.find("\nmuon_lr=") + 1, end = log.find('\n', begin);
  ASSERT_NE(begin, 0u);
  const std::string value = log.substr(begin + 8, end - begin - 8);
  const std::string began = log.substr(0, begin) + "muon_lr=0.5" + log.substr(end);
  ASSERT_THAT(WriteFile(Path("copy/train.log"), began), IsOk());
  ExpectRefusal(Options({"copy"}), {"trained with muon_lr=0.5 according to train.log"});

  const std::string change = absl::StrCat("muon_lr: 0.5 -> ", value);
  ASSERT_THAT(WriteFile(Path("copy/train.log"), absl::StrCat(began, "resumed_anyway: ", change, "\n")),
              IsOk());
  ASSERT_THAT(Make(Options({"copy"})), IsOk());
  EXPECT_THAT(ReadText("out/README.md"),
              HasSubstr("The run of seed 1 was resumed as another than it was begun as: " + change));
  EXPECT_EQ(Json::parse(ReadText("out/submission.json"))["seed_results"]["1"]["resumed_anyway"],
            Json::array({change}));
}

TEST_F(SubmissionTest, TheFolderIsCompleteAndPassesBothAudits) {
  ASSERT_THAT(Make(Options({"run1", "run2"})), IsOk());
  EXPECT_FALSE(FileExists(Path("out.rejected")));
  for (const char* file : {"train_gpt.py", "program.tar.xz", "artifact.hm11", "tokenizer.model"}) {
    EXPECT_EQ(ReadText(absl::StrCat("out/", file)), ReadText(absl::StrCat("run1/", file))) << file;
  }
  EXPECT_EQ(ReadText("out/train_seed1.log"), ReadText("run1/train.log"));
  EXPECT_EQ(ReadText("out/train_seed2.log"), ReadText("run2/train.log"));
  EXPECT_TRUE(Json::parse(ReadText("out/audit.json"))["legal"]);
  EXPECT_THAT(ReadText("out/README.md"), testing::Not(HasSubstr("was resumed as another")));

  const auto read = ReadSubmissionFolder(Path("out"));
  ASSERT_THAT(read, IsOk());
  EXPECT_EQ(read->entry, "train_gpt.py");
  ASSERT_TRUE(read->artifact.has_value());
  EXPECT_EQ(read->artifact->name, "artifact.hm11");
  const Audit audit = AuditSubmission({.folder = &*read});
  EXPECT_EQ(audit.strict, Verdict::kPass);
  std::set<int> passed;
  for (const Condition& condition : audit.conditions) {
    if (condition.strict == Verdict::kPass) passed.insert(condition.number);
  }
  for (const int number : {1, 25, 26}) EXPECT_THAT(passed, Contains(number));
  // What counts is launcher, packed program and artifact, and not the copy for readers.
  const int64_t shipped =
      static_cast<int64_t>(ReadText("out/train_gpt.py").size() + ReadText("out/program.tar.xz").size() +
                           ReadText("out/artifact.hm11").size());
  EXPECT_EQ(audit.numbers.shipped_bytes, shipped);
}

TEST_F(SubmissionTest, NumbersAreThoseOfTheLogs) {
  ASSERT_THAT(Make(Options({"run1", "run2"})), IsOk());
  const Json json = Json::parse(ReadText("out/submission.json"));
  const std::string log1 = ReadText("run1/train.log"), log2 = ReadText("run2/train.log");
  const std::string score = "final_int8_zlib_roundtrip_exact val_loss:";
  const double loss1 = LastNumber(log1, score), loss2 = LastNumber(log2, score);
  ASSERT_NE(loss1, loss2);
  EXPECT_DOUBLE_EQ(json["val_loss"].get<double>(), (loss1 + loss2) / 2);
  EXPECT_NEAR(json["val_loss_std"].get<double>(), std::abs(loss1 - loss2) / std::sqrt(2.0), 1e-12);
  EXPECT_DOUBLE_EQ(json["val_bpb"].get<double>(),
                   (LastNumber(log1, "val_bpb:") + LastNumber(log2, "val_bpb:")) / 2);
  EXPECT_EQ(json["seed_results"]["2"]["val_loss"], loss2);
  EXPECT_EQ(json["seeds"], Json({1, 2}));
  const double total1 = LastNumber(log1, "Total submission size: "),
               total2 = LastNumber(log2, "Total submission size: ");
  EXPECT_EQ(json["bytes_total"].get<double>(), std::max(total1, total2));
  EXPECT_EQ(json["bytes_total"].get<int64_t>(),
            json["bytes_code"].get<int64_t>() + json["bytes_model"].get<int64_t>());
  EXPECT_EQ(json["bytes_code"].get<double>(), LastNumber(log1, "Code size: "));
  EXPECT_EQ(json["artifact_seed"], 1);
  EXPECT_EQ(json["train_steps_mean"], 24.0);
  EXPECT_EQ(json["parameters"].get<double>(), LastNumber(log1, "model_params:"));
  EXPECT_THAT(json["technique_summary"].get<std::string>(), HasSubstr("1 Mamba and 1 attention layers (MA)"));
  for (const char* field :
       {"author", "github_id", "name", "blurb", "date", "track", "hardware", "step_avg_ms_mean",
        "cuda_version", "compliance", "val_bpb_std", "wallclock_seconds", "program_crc64"}) {
    EXPECT_TRUE(json.contains(field)) << field;
  }
  EXPECT_EQ(json["compliance"]["three_seeds"], false);
  const std::string readme = ReadText("out/README.md");
  EXPECT_THAT(readme, HasSubstr(absl::StrFormat("| 2 | %.8f |", loss2)));
  EXPECT_THAT(readme, HasSubstr("--preset=tiny"));
}

// Sources are packed without lines that are comments only.
std::string WithoutCommentLines(const std::string& source) {
  std::string code;
  for (const absl::string_view line : absl::StrSplit(source, '\n')) {
    if (!absl::StartsWith(absl::StripLeadingAsciiWhitespace(line), "//")) absl::StrAppend(&code, line, "\n");
  }
  return code;
}

TEST_F(SubmissionTest, TheProgramUnpackedIsTheSourcesBesideIt) {
  ASSERT_THAT(Make(Options({"run1"})), IsOk());
  std::string how;
  const auto tar = Decompress(ReadText("out/program.tar.xz"), int64_t{64} << 20, &how);
  ASSERT_TRUE(tar.has_value());
  const auto files = FilesOfTar(*tar);
  ASSERT_TRUE(files.has_value());
  EXPECT_GT(files->size(), 150u);
  int64_t compared = 0;
  for (const auto& [name, contents] : *files) {
    EXPECT_EQ(ReadText("out/source/" + name), contents) << name;
    // The tree this is built from, as far as this test has it beside it.
    if (!FileExists(name)) continue;
    EXPECT_EQ(WithoutCommentLines(*ReadFile(name)), WithoutCommentLines(contents)) << name;
    ++compared;
  }
  EXPECT_EQ(compared, static_cast<int64_t>(files->size()))
      << "every file of the program is a source of this tree";
  int64_t beside = 0;
  for (const auto& entry : fs::recursive_directory_iterator(Path("out/source")))
    beside += entry.is_regular_file();
  EXPECT_EQ(beside, static_cast<int64_t>(files->size()));
}

TEST_F(SubmissionTest, RunsThatAreNotOneSubmissionAreRefused) {
  ExpectRefusal(Options({"run1", "run1"}), {"run1", "both have seed 1"});
  ExpectRefusal(Options({"run1", "longer"}), {"run1", "longer", "max_steps=24 and max_steps=25"});
  ExpectRefusal(Options({}), {"--run"});
  ExpectRefusal(Options({"nothing"}), {"nothing", "no such folder"});
}

TEST_F(SubmissionTest, UnfinishedRunsAreRefused) {
  const auto gone = [](const std::string&) { return std::string(); };
  for (const char* file : {"artifact.hm11", "train.log", "metrics.jsonl", "config.txt", "tokenizer.model",
                           "program.tar.xz", "train_gpt.py"}) {
    ExpectBrokenRunRefused(file, gone, {"not a finished run", file});
  }
  ExpectBrokenRunRefused(
      "train.log", [](const std::string& log) { return log.substr(0, log.find("final_int6_roundtrip ")); },
      {"train.log ends before the score"});
  ExpectBrokenRunRefused("metrics.jsonl",
                         [](const std::string& lines) { return lines.substr(0, lines.find("{\"final\"")); },
                         {"metrics.jsonl has no final line"});
}

TEST_F(SubmissionTest, NumbersAndFilesAtOddsAreRefused) {
  const auto replacing = [](const std::string& from, const std::string& to) {
    return [=](const std::string& text) {
      EXPECT_THAT(text, HasSubstr(from));
      return absl::StrReplaceAll(text, {{from, to}});
    };
  };
  ExpectBrokenRunRefused("config.txt", replacing("dim=32", "dim=34"), {"dim=32", "config.txt"});
  ExpectBrokenRunRefused("config.txt", replacing("seed=1\n", "seed=7\n"), {"seed 7"});
  ExpectBrokenRunRefused("config.txt", replacing("dim=32", "dim=x"), {"config.txt", "'dim'"});
  ExpectBrokenRunRefused("train_gpt.py", replacing("TRAINING = [", "TRAINING=  ["), {"trained by program"});
  ExpectBrokenRunRefused("metrics.jsonl",
                         replacing("\"final\": true, \"val_loss\": ", "\"final\": true, \"val_loss\": 1"),
                         {"metrics.jsonl has val_loss"});
  ExpectBrokenRunRefused("artifact.hm11",
                         [](const std::string& bytes) {
                           return absl::StrCat(bytes.substr(0, bytes.size() - 1),
                                               bytes.back() == 'x' ? "y" : "x");
                         },
                         {"not the one that train.log has the score of"});
  // An artifact, but another one.
  ExpectBrokenRunRefused("artifact.hm11",
                         [](const std::string& bytes) {
                           std::string other = bytes.substr(0, bytes.size() - 8);
                           other.back() = other.back() == 'x' ? 'y' : 'x';
                           const uint64_t crc = Crc64(other);
                           other.append(reinterpret_cast<const char*>(&crc), 8);
                           EXPECT_NE(ArtifactChecksum(other), std::nullopt);
                           return other;
                         },
                         {"not the one that train.log has the score of"});
  ExpectBrokenRunRefused("artifact.hm11", [](const std::string& bytes) { return bytes + "x"; },
                         {"artifact_bytes"});
}

TEST_F(SubmissionTest, AProgramOfAnotherVersionIsRefused) {
  fs::copy(Path("run2"), Path("copy"));
  const Program before = {.packed = ReadText("run2/program.tar.xz"),
                          .launcher = ReadText("run2/train_gpt.py")};
  Program after = before;
  after.launcher = absl::StrReplaceAll(before.launcher, {{"built.returncode:", "built.returncode :"}});
  after.launcher = absl::StrReplaceAll(after.launcher, {{"# Trains a", "# Trains"}});
  after.launcher.resize(before.launcher.size(), '\n');
  ASSERT_NE(before.crc64(), after.crc64());
  ASSERT_THAT(WriteFile(Path("copy/train_gpt.py"), after.launcher), IsOk());
  ASSERT_THAT(
      WriteFile(Path("copy/train.log"),
                absl::StrReplaceAll(ReadText("run2/train.log"), {{absl::StrFormat("%016x", before.crc64()),
                                                                  absl::StrFormat("%016x", after.crc64())}})),
      IsOk());
  ExpectRefusal(Options({"run1", "copy"}), {"run1", "copy", "different programs"});
}

TEST_F(SubmissionTest, BadFlagsAreRefusedByName) {
  const auto with = [](auto change) {
    SubmissionOptions options = Options({"run1"});
    change(options);
    return options;
  };
  ExpectRefusal(with([](auto& o) { o.identity.name = " "; }), {"--name"});
  ExpectRefusal(with([](auto& o) { o.identity.author = ""; }), {"--author"});
  ExpectRefusal(with([](auto& o) { o.identity.github_id = ""; }), {"--github_id"});
  ExpectRefusal(with([](auto& o) { o.identity.track = "fast"; }), {"--track=fast", "10min_16mb"});
  ExpectRefusal(with([](auto& o) { o.identity.date = "2026-02-31"; }), {"--date=2026-02-31"});
}

TEST_F(SubmissionTest, AFolderThatExistsIsLeftAlone) {
  ASSERT_THAT(MakeFolders(Path("out")), IsOk());
  ASSERT_THAT(WriteFile(Path("out/mine"), "mine"), IsOk());
  EXPECT_THAT(Make(Options({"run1"})), StatusIs(absl::StatusCode::kAlreadyExists, Path("out")));
  EXPECT_EQ(ReadText("out/mine"), "mine");
  fs::remove_all(Path("out"));
  ASSERT_THAT(MakeFolders(Path("out.rejected")), IsOk());
  EXPECT_THAT(Make(Options({"run1"})), StatusIs(absl::StatusCode::kAlreadyExists, "out.rejected"));
}

TEST_F(SubmissionTest, WhatAnAuditRefusesIsNoSubmission) {
  const auto rejected = [](const SubmissionOptions& options, const std::vector<std::string>& words) {
    const std::string message(Make(options).message());
    for (const std::string& word : words) EXPECT_THAT(message, HasSubstr(word));
    EXPECT_THAT(message, HasSubstr("not a submission: "));
    EXPECT_FALSE(absl::StrContains(message, "\n")) << message;
    EXPECT_FALSE(FileExists(Path("out")));
    EXPECT_TRUE(FileExists(Path("out.rejected/submission.json")));
    fs::remove_all(Path("out.rejected"));
  };
  // As a record it needs three seeds and eight H100.
  SubmissionOptions record = Options({"run1", "run2"});
  record.identity.track = "10min_16mb";
  rejected(record, {"condition 21"});
  SubmissionOptions elsewhere = Options({"run1"});
  elsewhere.val_pattern = Path("nowhere_*.bin");
  rejected(elsewhere, {"could not be audited", "nowhere_*.bin"});
  // A scorer that the audit condemns, in the words of its report.
  SubmissionOptions illegal = Options({"run1"});
  illegal.audit_program = Path("condemning");
  ASSERT_THAT(
      WriteFile(
          illegal.audit_program,
          "#!/bin/bash\nfor a in \"$@\"; do [[ $a == --json=* ]] && out=\"${a#--json=}\"; done\n"
          "echo '{\"legal\": false, \"checks\": [{\"check\": \"order\", \"verdict\": \"holds\"},"
          "{\"check\": \"own token\", \"verdict\": \"violated\", \"detail\": \"target 5\"}]}' >\"$out\"\n"
          "exit 1\n"),
      IsOk());
  fs::permissions(illegal.audit_program, fs::perms::owner_all);
  rejected(illegal, {"violates own token (target 5)"});
}

TEST_F(SubmissionTest, TheMainSaysWhyNotInOneLine) {
  const auto ended = RunToItsEnd({"tools/submission/submission", "--run=" + Path("nothing"), "--name=a",
                                  "--author=b", "--github_id=c", "--out=" + Path("out")});
  ASSERT_THAT(ended, IsOk());
  EXPECT_EQ(ended->exit_code, 1);
  EXPECT_EQ(ended->output, absl::StrCat("error: ", Path("nothing"), ": no such folder\n"));
  const auto made = RunToItsEnd({"tools/submission/submission", "--run=" + Path("run1") + "," + Path("run2"),
                                 "--name=a", "--author=b", "--github_id=c", "--out=" + Path("out")});
  ASSERT_THAT(made, IsOk());
  EXPECT_EQ(made->exit_code, 0) << made->output;
  EXPECT_THAT(made->output, HasSubstr("submission: " + Path("out")));
}

}  // namespace
}  // namespace hm11
