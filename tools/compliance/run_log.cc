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

namespace hm11 {
namespace {

constexpr size_t kLongestLine = 8192;  // what lies beyond is text of a program, not of a report
constexpr size_t kMostSettings = 2000;
constexpr size_t kMostLinesKept = 200;  // of one kind
constexpr uint64_t kHashStart = 14695981039346656037u;

// FNV-1a.
void HashBytes(absl::string_view bytes, uint64_t* hash) {
  for (char c : bytes) *hash = (*hash ^ static_cast<unsigned char>(c)) * 1099511628211u;
}

// Hashes lines without blanks at their ends; empty lines count only once another line follows.
class SourceHasher {
 public:
  void AddLine(absl::string_view line) {
    line = absl::StripTrailingAsciiWhitespace(line);
    if (line.empty()) {
      ++empty_lines_;
      return;
    }
    for (; empty_lines_ > 0; --empty_lines_) HashBytes("\n", &hash_);
    HashBytes(line, &hash_);
    HashBytes("\n", &hash_);
  }
  uint64_t hash() const { return hash_; }

 private:
  uint64_t hash_ = kHashStart;
  int64_t empty_lines_ = 0;
};

// A number at the beginning of the text, digits grouped by commas or not; how many decimals it has.
std::optional<double> LeadingNumber(absl::string_view text, int* decimals = nullptr) {
  text = absl::StripLeadingAsciiWhitespace(text);
  size_t end = 0;
  size_t point = absl::string_view::npos;
  for (; end < text.size(); ++end) {
    const char c = text[end];
    const bool sign = (c == '-' || c == '+') && (end == 0 || text[end - 1] == 'e');
    const bool comma = c == ',' && end > 0 && end + 3 < text.size() + 0 &&
                       absl::ascii_isdigit(text[end - 1]) && absl::ascii_isdigit(text[end + 1]) &&
                       absl::ascii_isdigit(text[end + 2]) && absl::ascii_isdigit(text[end + 3]);
    const bool exponent = c == 'e' && end > 0 && absl::ascii_isdigit(text[end - 1]);
    if (c == '.' && point == absl::string_view::npos) {
      point = end;
    } else if (!absl::ascii_isdigit(c) && !sign && !comma && !exponent) {
      break;
    }
  }
  double value = 0;
  const std::string digits = absl::StrReplaceAll(text.substr(0, end), {{",", ""}});
  if (!absl::SimpleAtod(digits, &value)) {
    if (!absl::SimpleAtod(absl::string_view(digits).substr(0, digits.find_first_of("e-+")), &value))
      return std::nullopt;
  }
  if (decimals != nullptr) {
    *decimals = point == absl::string_view::npos ? 0 : static_cast<int>(end - point - 1);
  }
  return value;
}

bool IsNameCharacter(char c) { return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '_'; }

// What follows "key:" or "key=" (blanks allowed), where the key is a whole word.
std::optional<absl::string_view> After(absl::string_view line, absl::string_view key) {
  for (size_t at = line.find(key); at != absl::string_view::npos; at = line.find(key, at + 1)) {
    if (at > 0 && IsNameCharacter(line[at - 1])) continue;
    const absl::string_view rest = absl::StripLeadingAsciiWhitespace(line.substr(at + key.size()));
    if (!rest.empty() && (rest[0] == ':' || rest[0] == '='))
      return absl::StripLeadingAsciiWhitespace(rest.substr(1));
  }
  return std::nullopt;
}

std::optional<double> NumberAfter(absl::string_view line, absl::string_view key, int* decimals = nullptr) {
  const std::optional<absl::string_view> rest = After(line, key);
  return rest ? LeadingNumber(*rest, decimals) : std::nullopt;
}

std::optional<int64_t> WholeAfter(absl::string_view line, absl::string_view key) {
  const std::optional<double> value = NumberAfter(line, key);
  if (!value || *value < 0 || *value > 9e15) return std::nullopt;
  return static_cast<int64_t>(*value);
}

// "596137ms", "591.4s", "0.9m", "591.4 seconds"; a number without unit is in `bare` seconds.
std::optional<double> Seconds(absl::string_view text, double bare) {
  const std::optional<double> value = LeadingNumber(text);
  if (!value) return std::nullopt;
  text = absl::StripLeadingAsciiWhitespace(text);
  const absl::string_view unit = absl::StripLeadingAsciiWhitespace(
      text.substr(std::min(text.size(), text.find_first_not_of("0123456789.,+-e"))));
  if (absl::StartsWith(unit, "ms")) return *value * 1e-3;
  if (absl::StartsWith(unit, "s")) return *value;
  if (absl::StartsWith(unit, "m")) return *value * 60;
  return *value * bare;
}

std::optional<double> SecondsAfter(absl::string_view line, absl::string_view key, double bare) {
  const std::optional<absl::string_view> rest = After(line, key);
  return rest ? Seconds(*rest, bare) : std::nullopt;
}

bool ContainsAny(absl::string_view text, std::initializer_list<absl::string_view> parts) {
  return std::any_of(parts.begin(), parts.end(),
                     [&](absl::string_view part) { return absl::StrContains(text, part); });
}

bool IsRuleLine(absl::string_view line) {
  return line.size() >= 60 && line.find_first_not_of('=') == absl::string_view::npos;
}

// Steps of "step:100/20000 ...", "100/20000 ..." or "stopping_early: ... step: 100/20000".
std::optional<int64_t> StepOf(absl::string_view line) {
  absl::string_view rest = line;
  if (absl::StartsWith(line, "stopping_early")) {
    const auto after = After(line, "step");
    if (!after) return std::nullopt;
    rest = *after;
  } else if (absl::ConsumePrefix(&rest, "step")) {
    absl::ConsumePrefix(&rest, ":");
    rest = absl::StripLeadingAsciiWhitespace(rest);
  }
  const size_t slash = rest.substr(0, 10).find('/');
  int64_t step = 0;
  if (slash == absl::string_view::npos || slash == 0 || slash + 1 >= rest.size()) return std::nullopt;
  if (!absl::ascii_isdigit(rest[slash + 1]) || !absl::SimpleAtoi(rest.substr(0, slash), &step))
    return std::nullopt;
  return step;
}

// Reads the lines of one file.
class LogReader {
 public:
  explicit LogReader(std::string name) : name_(std::move(name)) { run_.path = name_; }

  void AddLine(absl::string_view line) {
    if (IsRuleLine(line)) {
      CloseSection();
      return;
    }
    section_hasher_.AddLine(line);
    section_bytes_ += static_cast<int64_t>(line.size()) + 1;
    ++section_lines_;
    if (absl::StartsWith(line, "import ") ||
        (absl::StartsWith(line, "from ") && absl::StrContains(line, " import "))) {
      section_is_source_ = true;
    }
    // A packed program is one long line that executes what it decodes.
    if (absl::StrContains(line.substr(0, 400), "exec(") && line.size() > 1000) section_is_source_ = true;
    if (!section_is_source_) ReadLine(absl::StripAsciiWhitespace(line.substr(0, kLongestLine)), line);
  }

  std::vector<LoggedRun> Finish() {
    // Only a rule behind it tells a program from the report.
    FinishRun();
    return std::move(runs_);
  }

 private:
  void CloseSection() {
    if (section_is_source_ && section_lines_ > 0) {
      run_ = before_section_;
      if (run_.source_hash == 0) {
        run_.source_hash = section_hasher_.hash();
        run_.source_bytes = section_bytes_;
      }
    }
    before_section_ = run_;
    section_hasher_ = SourceHasher();
    section_bytes_ = section_lines_ = 0;
    section_is_source_ = in_settings_ = false;
  }

  void FinishRun() {
    const bool is_run = run_.train_seconds || !run_.finals.empty() || run_.steps || !run_.totals.empty();
    if (is_run) runs_.push_back(run_);
  }

  void ReadLine(absl::string_view line, absl::string_view whole) {
    if (line.empty()) return;
    // Nearly all lines of a log are steps, which say no more than this.
    if (const auto step = StepOf(line); step && !absl::StrContains(line, "stopping_early")) {
      run_.steps = std::max(*step, run_.steps.value_or(0));
      TakeTrainTime(line);
      return;
    }
    ReadSetting(line, whole);
    const std::string lower = absl::AsciiStrToLower(line);
    ReadIdentity(line, lower);
    ReadTimes(line, lower);
    ReadScore(line, lower);
    ReadBytes(line, "Total submission size", &run_.totals);
    ReadBytes(line, "Serialized model", &run_.models);
    ReadBytes(line, "Code size", &run_.codes);
    if (absl::StartsWith(line, "Traceback (most recent call last)")) run_.failed = true;
  }

  // "Hyperparameters:" and below it indented "key: value"; or, before the first step, lines of nothing but
  // "key:value key:value".
  void ReadSetting(absl::string_view line, absl::string_view whole) {
    if (absl::StartsWith(line, "Hyperparameters:")) {
      in_settings_ = true;
      return;
    }
    const size_t colon = line.find(": ");
    in_settings_ = in_settings_ && absl::StartsWith(whole, " ") && colon != absl::string_view::npos;
    if (in_settings_) {
      AddSetting(line.substr(0, colon), line.substr(colon + 2));
      return;
    }
    if (run_.steps || line.size() > 1000 || ContainsAny(line, {"_loss", "train_time"})) return;
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
    if (run_.settings.size() < kMostSettings) run_.settings[std::string(key)] = std::string(value);
  }

  void ReadIdentity(absl::string_view line, const std::string& lower) {
    if (absl::StartsWith(lower, "seed:") || absl::StartsWith(lower, "seed=") ||
        absl::StartsWith(lower, "seed :")) {
      if (const auto seed = WholeAfter(lower, "seed")) {
        if (!run_.finals.empty() && run_.seed && *run_.seed != *seed) StartNextRun();
        run_.seed = *seed;
      }
    }
    const auto take = [&](absl::string_view key, std::optional<int64_t>* value) {
      if (const auto found = WholeAfter(line, key)) *value = found;
    };
    take("train_shards", &run_.train_shards);
    take("val_tokens", &run_.val_tokens);
    take("model_params", &run_.parameters);
    take("world_size", &run_.world_size);
    if (absl::StartsWith(line, "val_loader:")) take("tokens", &run_.val_tokens);
    if (absl::StartsWith(line, "train_loader:dataset:")) {
      run_.dataset = std::string(line.substr(21, line.find_first_of(" \t", 21) - 21));
    }
    if (const auto path = After(line, "tokenizer_path")) {
      run_.tokenizer = std::string(path->substr(0, path->find_first_of(" ,\t")));
    }
    if (const size_t at = line.find("NVIDIA "); at != absl::string_view::npos && run_.gpu.empty()) {
      const absl::string_view name = line.substr(at, line.find_first_of("|,;", at) - at);
      if (!absl::StrContains(name, "NVIDIA-SMI")) run_.gpu = std::string(name.substr(0, name.find("  ")));
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
    next.source_bytes = run_.source_bytes;
    run_ = std::move(next);
  }

  void TakeTrainTime(absl::string_view line) {
    const auto seconds = SecondsAfter(line, "train_time", /*bare=*/1e-3);
    if (!seconds) return;
    run_.train_seconds = std::max(*seconds, run_.train_seconds.value_or(0));
    if (!absl::StrContains(line, "stopping_early")) return;
    run_.stopped_by_clock = true;
    run_.train_seconds = seconds;  // milliseconds, where other lines may have minutes
    if (const auto step = StepOf(line)) run_.steps = std::max(*step, run_.steps.value_or(0));
  }

  void ReadTimes(absl::string_view line, const std::string& lower) {
    TakeTrainTime(line);
    if (const auto seconds = SecondsAfter(line, "total_eval_time", /*bare=*/1))
      run_.total_eval_seconds = seconds;
    if (absl::StrContains(lower, "hessian")) {
      run_.uses_hessians = true;
      const size_t in = lower.find(" in ", lower.find("hessian"));
      if (in != std::string::npos && ContainsAny(lower, {"collect", "hessians"})) {
        if (const auto seconds = Seconds(absl::string_view(lower).substr(in + 4), /*bare=*/1)) {
          run_.hessian_seconds = run_.hessian_seconds.value_or(0) + *seconds;
        }
      }
    }
    if (ContainsAny(lower, {"gptq"})) run_.uses_hessians = true;
    if (ContainsAny(lower,
                    {"self-gen", "self_gen", "selfgen", "ar self", "autoregressive calib", "ar calib"})) {
      run_.calibrates_on_own_text = true;
    }
    if (ContainsAny(lower,
                    {"prequant_ttt", "pre_quant_ttt", "prequant-ttt", "pre-quant ttt", "prequant ttt"}) &&
        ContainsAny(lower, {"epoch", "step", "loss"}) &&
        !ContainsAny(lower, {"enabled:false", "enabled: false"})) {
      run_.trains_before_quantizing = true;
    }
  }

  void ReadScore(absl::string_view line, const std::string& lower) {
    LoggedScore score;
    const auto bpb = NumberAfter(line, "val_bpb", &score.bpb_decimals);
    if (!bpb || *bpb <= 0) return;
    const auto loss = NumberAfter(line, "val_loss", &score.loss_decimals);
    score.val_bpb = *bpb;
    score.val_loss = loss.value_or(0);
    score.eval_seconds = SecondsAfter(line, "eval_time", /*bare=*/1e-3);
    score.label = std::string(
        absl::StripAsciiWhitespace(line.substr(0, std::min(line.find("val_loss"), line.find("val_bpb")))));
    score.label = score.label.substr(0, 100);
    const bool unquantized =
        ContainsAny(lower, {"pre-quant", "prequant", "pre_quant", "post-ema", "post_ema"});
    if (absl::StrContains(lower, "train_time")) return;  // on the way
    if (unquantized) {
      run_.unquantized = score;
    } else if (!ContainsAny(lower, {"diagnostic", "best_", "baseline", "target", "delta"})) {
      // The trainer prints a score rounded and then exactly; without a loss it is a summary's.
      if (loss && run_.finals.size() < kMostLinesKept) run_.finals.push_back(score);
    }
  }

  static void ReadBytes(absl::string_view line, absl::string_view what, std::vector<LoggedBytes>* lines) {
    const size_t at = line.find(what);
    if (at == absl::string_view::npos || lines->size() >= kMostLinesKept) return;
    const absl::string_view rest = line.substr(at + what.size());
    const size_t colon = rest.find(':');
    if (colon == absl::string_view::npos) return;
    const std::optional<double> bytes = LeadingNumber(rest.substr(colon + 1));
    if (!bytes || *bytes < 0) return;
    lines->push_back({.qualifier = std::string(absl::StripAsciiWhitespace(rest.substr(0, colon))),
                      .bytes = static_cast<int64_t>(*bytes)});
  }

  std::string name_;
  LoggedRun run_;
  LoggedRun before_section_ = {.path = name_};
  std::vector<LoggedRun> runs_;
  SourceHasher section_hasher_;
  int64_t section_bytes_ = 0;
  int64_t section_lines_ = 0;
  bool section_is_source_ = false;
  bool in_settings_ = false;
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

}  // namespace

std::optional<int64_t> LoggedRun::total_bytes() const { return BytesOf(LastQualified(totals)); }

std::optional<int64_t> LoggedRun::model_bytes() const { return BytesOf(LastQualified(models)); }

std::optional<int64_t> LoggedRun::code_bytes() const {
  // "Code size (uncompressed)" and "(compressed)" stand side by side; the second is what was counted.
  return codes.empty() ? std::nullopt : std::optional<int64_t>(codes.back().bytes);
}

absl::StatusOr<std::vector<LoggedRun>> ReadRunLogs(const std::string& path, const std::string& name) {
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), "rb"), std::fclose);
  if (file == nullptr)
    return absl::NotFoundError(absl::StrCat("cannot read ", path, ": ", std::strerror(errno)));
  LogReader reader(name);
  std::string line;  // its first part, when it is longer than a program's longest
  std::string buffer(1 << 20, '\0');
  constexpr size_t kLongestKept = size_t{4} << 20;
  size_t count = 0;
  while ((count = std::fread(buffer.data(), 1, buffer.size(), file.get())) > 0) {
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

uint64_t SourceHash(absl::string_view text) {
  SourceHasher hasher;
  while (!text.empty()) {
    const size_t end = text.find('\n');
    hasher.AddLine(text.substr(0, end));
    text.remove_prefix(end == absl::string_view::npos ? text.size() : end + 1);
  }
  return hasher.hash();
}

}  // namespace hm11
