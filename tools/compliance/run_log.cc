// Reading logs of training runs, a line at a time.
#include "tools/compliance/run_log.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>
#include <set>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "tools/compliance/calibration_marks.h"
#include "tools/compliance/log_numbers.h"
#include "tools/compliance/score_lines.h"
#include "tools/compliance/source_hash.h"
#include "tools/compliance/text_use_marks.h"

namespace hm11 {
namespace {

constexpr size_t kLongestLine = 8192;  // what lies beyond is text of a program, not of a report
constexpr size_t kMostSettings = 2000;
constexpr size_t kMostRuns = 64;        // in one file
constexpr size_t kMostLinesKept = 200;  // of one kind

bool IsRuleLine(absl::string_view line) {
  return line.size() >= 60 && line.find_first_not_of('=') == absl::string_view::npos;
}

// The first line of a report that follows a program: a header, or a step with its time.
bool BeginsReport(absl::string_view line) {
  if (StepOf(line)) return NumberAfter(line, "train_time").has_value();
  if (absl::StartsWith(line, "Python 3.") || absl::StartsWith(line, "val_bpb:enabled") ||
      absl::StartsWith(line, "Hyperparameters:") || absl::StartsWith(line, "train_loader:dataset:")) {
    return true;
  }
  return absl::StartsWith(line, "model_params:") && NumberAfter(line, "model_params").has_value();
}

// "SEED 1337 - starting training run", below which a file that holds several runs has the next.
bool AnnouncesSeed(absl::string_view lower) {
  return absl::StartsWith(lower, "seed ") && absl::StrContains(lower, "starting") &&
         absl::ascii_isdigit(static_cast<unsigned char>(lower[5]));
}

bool IsSameRun(const LoggedRun& a, const LoggedRun& b) {
  return !a.finals.empty() && !b.finals.empty() && a.train_seconds == b.train_seconds &&
         a.finals.back().val_bpb == b.finals.back().val_bpb;
}

// Reads the lines of one file.
class LogReader {
 public:
  explicit LogReader(std::string name) : name_(std::move(name)) { run_.path = name_; }

  void AddLine(absl::string_view line) {
    ++line_;
    absl::ConsumeSuffix(&line, "\r");
    if (runs_.size() >= kMostRuns) return;
    if (IsRuleLine(line)) {
      CloseSection(/*at_rule=*/true);
      return;
    }
    // Not every log has a rule behind its program; no program has such lines outside strings.
    if (section_is_source_ && BeginsReport(line)) {
      const bool at_once = !StepOf(line);
      const uint64_t known = run_.source_hash;
      CloseSection(/*at_rule=*/false);
      if (!at_once) run_.source_hash = known;
    }
    section_hasher_.AddLine(line);
    if (!section_is_source_ && StepOf(line) && NumberAfter(line, "train_time")) section_reports_ = true;
    if (BeginsProgram(line)) section_is_source_ = section_imports_ = true;
    if (absl::StartsWith(line, "def ") || absl::StrContains(line.substr(0, 200), "os.environ.get("))
      section_is_source_ = true;
    if (!section_is_source_) ReadLine(absl::StripAsciiWhitespace(line.substr(0, kLongestLine)), line);
  }

  std::vector<LoggedRun> Finish() {
    // Only a rule behind it tells a program from the report.
    FinishRun();
    return std::move(runs_);
  }

 private:
  void CloseSection(bool at_rule) {
    // A part of a program behind a report leaves that as it is. Before a whole program it is an earlier run's
    // or a console's.
    if (section_imports_) {
      run_ = before_section_;
      if (section_reports_) {
        marks_ = TextUseMarks();
        calibration_ = CalibrationMarks();
      }
      if (section_reports_ || run_.source_hash == 0) {
        run_.source_hash = section_hasher_.hash();
        run_.source_ends = at_rule;
      }
    }
    before_section_ = run_;
    section_hasher_ = SourceHasher();
    section_is_source_ = section_imports_ = section_reports_ = in_settings_ = false;
  }

  void FinishRun() {
    marks_.Finish(&run_);
    TakeDiagnosticAsFinal();
    const bool is_run = run_.train_seconds || !run_.finals.empty() || run_.steps || !run_.totals.empty() ||
                        !run_.others.empty();
    // The same run again: a console's output, and behind it the log that it went to, with the program.
    if (!runs_.empty() && IsSameRun(runs_.back(), run_)) {
      LoggedRun& first = runs_.back();
      if (!first.seed) first.seed = run_.seed;
      if (first.source_hash == 0) first.source_hash = run_.source_hash, first.source_ends = run_.source_ends;
      return;
    }
    if (is_run && runs_.size() < kMostRuns) runs_.push_back(run_);
  }

  // Where test-time training is switched off, the diagnostic of the quantized model is the score.
  void TakeDiagnosticAsFinal() {
    if (!run_.finals.empty()) return;
    for (const LoggedScore& score : run_.others) {
      if (absl::StartsWith(absl::AsciiStrToLower(score.label), "diagnostic quantized"))
        run_.finals.push_back(score);
    }
  }

  void ReadLine(absl::string_view line, absl::string_view whole) {
    if (line.empty()) return;
    // Nearly all lines of a log are steps, which say no more than this.
    const bool other = absl::ascii_isdigit(line[0]) && !absl::StrContains(line, "loss");  // "8/9 windows"
    if (const auto step = StepOf(line); step && !other && !absl::StrContains(line, "stopping_early")) {
      run_.steps = std::max(*step, run_.steps.value_or(0));
      TakeTrainTime(line);
      if (absl::StrContains(line, "val_bpb")) ReadScoreOnTheWay(line, line_, &run_);
      return;
    }
    ReadSetting(line, whole);
    const std::string lower = absl::AsciiStrToLower(line);
    ReadIdentity(line, lower);
    ReadTimes(line, lower);
    // A score after training, and none without quantizing: test-time training has its place.
    if (ReadScore(line, lower, line_, &run_)) marks_.SealByScore();
    marks_.Read(lower, line_, &run_);
    calibration_.Read(lower, line_, &run_);
    ReadBytes(line, "Total submission size", &run_.totals);
    ReadBytes(line, "Total mixed submission", &run_.totals);
    ReadBytes(line, "rtifact size", &run_.totals);
    ReadBytes(line, "Serialized model", &run_.models);
    ReadBytes(line, "Code size", &run_.codes);
    ReadTotalBesideParts(line);
    if (absl::StartsWith(line, "Traceback (most recent call last)")) run_.failed = true;
  }

  // "Hyperparameters:" and below it indented "key: value"; or, before the first step, lines of nothing but
  // "key:value key:value".
  void ReadSetting(absl::string_view line, absl::string_view whole) {
    if (absl::StartsWith(line, "Hyperparameters:")) {
      in_settings_ = run_.lists_settings = true;
      return;
    }
    const size_t colon = line.find(": ");
    in_settings_ = in_settings_ && absl::StartsWith(whole, " ") && colon != absl::string_view::npos;
    if (in_settings_) {
      AddSetting(line.substr(0, colon), line.substr(colon + 2));
      return;
    }
    if (run_.lists_settings || run_.steps || line.size() > 1000 || ContainsAny(line, {"_loss", "train_time"}))
      return;
    const std::vector<absl::string_view> words = absl::StrSplit(line, ' ', absl::SkipEmpty());
    const bool all_settings =
        words.size() >= 2 && std::all_of(words.begin(), words.end(), [](absl::string_view word) {
          const size_t at = word.find(':');
          return at != absl::string_view::npos && at > 0 && at + 1 < word.size() &&
                 word.find(':', at + 1) == absl::string_view::npos &&
                 std::all_of(word.begin(), word.begin() + static_cast<int64_t>(at), IsNameCharacter);
        });
    if (!all_settings) return;
    for (absl::string_view word : words)
      AddSetting(word.substr(0, word.find(':')), word.substr(word.find(':') + 1));
  }

  void AddSetting(absl::string_view key, absl::string_view value) {
    if (run_.settings.size() >= kMostSettings) return;
    run_.settings[Short(key)] = Short(value);
    run_.lines[absl::StrCat("setting ", Short(key))] = line_;
  }

  void ReadIdentity(absl::string_view line, const std::string& lower) {
    const bool announced = AnnouncesSeed(lower);
    if (announced || absl::StartsWith(lower, "seed:") || absl::StartsWith(lower, "seed=") ||
        absl::StartsWith(lower, "seed :")) {
      if (const auto seed = WholeAfter(announced ? absl::StrCat("seed:", lower.substr(5)) : lower, "seed")) {
        if (!run_.finals.empty() && run_.seed && *run_.seed != *seed) StartNextRun();
        run_.seed = *seed;
        run_.lines["seed"] = line_;
      }
    } else if (!run_.seed && !run_.steps) {
      run_.seed = SeedAmongSettings(lower);
      if (run_.seed) run_.lines["seed"] = line_;
    }
    const auto take = [&](absl::string_view key, std::optional<int64_t>* value) {
      if (const auto found = WholeAfter(line, key)) {
        *value = found;
        run_.lines[std::string(value == &run_.val_tokens ? "val_tokens" : key)] = line_;
      }
    };
    take("train_shards", &run_.train_shards);
    take("val_tokens", &run_.val_tokens);
    take("Validation tokens", &run_.val_tokens);
    take("model_params", &run_.parameters);
    take("world_size", &run_.world_size);
    if (absl::StartsWith(line, "val_loader:")) take("tokens", &run_.val_tokens);
    if (absl::StartsWith(line, "train_loader:dataset:")) {
      // A trial in the same log, of the same seed perhaps, is a run of its own.
      if (!run_.finals.empty() && run_.train_seconds) StartNextRun();
      run_.dataset = Short(line.substr(21, line.find_first_of(" \t", 21) - 21));
    }
    if (const auto path = After(line, "tokenizer_path")) {
      run_.tokenizer = Short(path->substr(0, path->find_first_of(" ,\t")));
    }
    if (const size_t at = line.find("NVIDIA "); at != absl::string_view::npos && run_.gpu.empty()) {
      const absl::string_view name = line.substr(at, line.find_first_of("|,;", at) - at);
      if (absl::StrContains(name, "NVIDIA-SMI")) return;
      run_.gpu = Short(name.substr(0, name.find("  ")));
      run_.lines["gpu"] = line_;
    }
  }

  void StartNextRun() {
    FinishRun();
    LoggedRun next = {.path = name_, .settings = run_.settings};
    next.train_shards = run_.train_shards;
    next.val_tokens = run_.val_tokens;
    next.world_size = run_.world_size;
    next.gpu = run_.gpu;
    next.tokenizer = run_.tokenizer;
    next.dataset = run_.dataset;
    next.source_hash = run_.source_hash;
    next.source_ends = run_.source_ends;
    next.lines = run_.lines;
    run_ = std::move(next);
    marks_ = TextUseMarks();
    calibration_ = CalibrationMarks();
  }

  void TakeTrainTime(absl::string_view line) {
    const auto seconds = SecondsAfter(line, "train_time", /*bare=*/1e-3);
    if (!seconds) return;
    if (*seconds >= run_.train_seconds.value_or(0)) {
      run_.train_seconds = seconds;
      run_.lines["train_time"] = line_;
    }
    if (!absl::StrContains(line, "stopping_early")) return;
    run_.lines["train_time"] = line_;
    run_.stopped_by_clock = true;
    run_.train_seconds = seconds;  // milliseconds, where other lines may have minutes
    if (const auto step = StepOf(line)) run_.steps = step;  // others may count the one that was not made
  }

  void ReadTimes(absl::string_view line, const std::string& lower) {
    TakeTrainTime(line);
    if (const auto seconds = SecondsAfter(line, "total_eval_time", /*bare=*/1)) {
      run_.total_eval_seconds = seconds;
      run_.lines["total_eval_time"] = line_;
    }
    if (ContainsAny(lower, {"hessian", "gptq:", "quantizing"})) marks_.Seal(&run_);
  }

  void ReadBytes(absl::string_view line, absl::string_view what, std::vector<LoggedBytes>* lines) {
    const size_t at = line.find(what);
    if (at == absl::string_view::npos || lines->size() >= kMostLinesKept) return;
    const absl::string_view rest = line.substr(at + what.size());
    const size_t colon = rest.find(':');
    if (colon == absl::string_view::npos) return;
    const std::optional<double> bytes = LeadingNumber(rest.substr(colon + 1));
    if (!bytes || *bytes < 0 || *bytes > 9e15) return;
    lines->push_back(
        {.qualifier = Short(rest.substr(0, colon)), .bytes = static_cast<int64_t>(*bytes), .line = line_});
    if (lines == &run_.codes) return;
    if (lines->back().qualifier.empty()) {
      marks_.SealPerhaps();
    } else {
      marks_.Seal(&run_);
    }
  }

  // "gptq_int6_brotli: 14,622,509 bytes | code: 92,132 | total: 14,714,641 (14.71MB)"
  void ReadTotalBesideParts(absl::string_view line) {
    const size_t colon = line.find(':');
    if (!absl::StrContains(line, " bytes") || !absl::StrContains(line, "code") || colon > 60) return;
    const std::optional<int64_t> total = WholeAfter(line, "total");
    if (!total || *total < 100000 || run_.totals.size() >= kMostLinesKept) return;
    absl::string_view what = line.substr(0, colon);
    absl::ConsumePrefix(&what, "Serialized model");
    run_.totals.push_back({.qualifier = Short(what), .bytes = *total, .line = line_});
  }

  std::string name_;
  LoggedRun run_;
  LoggedRun before_section_ = {.path = name_};
  std::vector<LoggedRun> runs_;
  SourceHasher section_hasher_;
  bool section_is_source_ = false;
  bool section_imports_ = false;  // it is a program from its beginning on
  bool section_reports_ = false;  // steps with their times stand before the program
  bool in_settings_ = false;
  int64_t line_ = 0;
  TextUseMarks marks_;
  CalibrationMarks calibration_;
};

const LoggedBytes* LastQualified(const std::vector<LoggedBytes>& lines) {
  for (auto line = lines.rbegin(); line != lines.rend(); ++line) {
    if (!line->qualifier.empty()) return &*line;
  }
  return lines.empty() ? nullptr : &lines.back();
}

std::optional<int64_t> BytesOf(const LoggedBytes* line) {
  return line == nullptr ? std::nullopt : std::optional<int64_t>(line->bytes);
}

// The counted total of a run. Published trainers print the model as it is in memory first, with a total
// without a qualifier; that is no artifact's.
const LoggedBytes* CountedTotal(const LoggedRun& run) {
  constexpr int64_t kSurelyRaw = 40000000;
  const LoggedBytes* total = LastQualified(run.totals);
  if (total == nullptr || !total->qualifier.empty()) return total;
  const bool two_bytes_a_weight = run.parameters && total->bytes > *run.parameters * 19 / 10;
  return two_bytes_a_weight || total->bytes > kSurelyRaw ? nullptr : total;
}

}  // namespace

std::optional<int64_t> LoggedRun::total_bytes() const { return BytesOf(CountedTotal(*this)); }

Place LoggedRun::total_place() const {
  const LoggedBytes* total = CountedTotal(*this);
  return {path, total == nullptr ? 0 : total->line};
}

std::optional<int64_t> LoggedRun::model_bytes() const { return BytesOf(LastQualified(models)); }

std::optional<int64_t> LoggedRun::code_bytes() const {
  // "Code size (uncompressed)" and "(compressed)" stand side by side; the second is what was counted.
  return codes.empty() ? std::nullopt : std::optional<int64_t>(codes.back().bytes);
}

absl::StatusOr<std::vector<LoggedRun>> ReadRunLogs(const std::string& path, const std::string& name,
                                                   int64_t most_bytes) {
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), "rb"), std::fclose);
  if (file == nullptr)
    return absl::NotFoundError(absl::StrCat("cannot read ", path, ": ", std::strerror(errno)));
  LogReader reader(name);
  std::string line;  // its first part, when it is longer than a program's longest
  std::string buffer(1 << 20, '\0');
  constexpr size_t kLongestKept = size_t{4} << 20;
  size_t count = 0;
  while (most_bytes > 0 && (count = std::fread(buffer.data(), 1, buffer.size(), file.get())) > 0) {
    most_bytes -= static_cast<int64_t>(count);
    absl::string_view rest(buffer.data(), count);
    for (size_t end = rest.find('\n'); end != absl::string_view::npos; end = rest.find('\n')) {
      line.append(rest.data(), std::min(end, kLongestKept - std::min(kLongestKept, line.size())));
      reader.AddLine(line);
      line.clear();
      rest.remove_prefix(end + 1);
    }
    line.append(rest.data(), std::min(rest.size(), kLongestKept - std::min(kLongestKept, line.size())));
  }
  if (std::ferror(file.get())) return absl::UnknownError(absl::StrCat("cannot read ", path));
  if (!line.empty()) reader.AddLine(line);
  return reader.Finish();
}

std::vector<LoggedRun> ParseRunLogs(absl::string_view text, const std::string& name) {
  LogReader reader(name);
  while (!text.empty()) {
    const size_t end = text.find('\n');
    reader.AddLine(text.substr(0, end));
    text.remove_prefix(end == absl::string_view::npos ? text.size() : end + 1);
  }
  return reader.Finish();
}

}  // namespace hm11
