// What a training log says of its run: times, sizes, scores, seed, settings, the program it embeds.
//
// The challenge's logs have no schema. Read are the lines of its published trainer and what later programs
// made of them: `step:100/20000 ... train_time:61000ms`, `100/20000 val_loss: 2.3 val_bpb: 1.1`,
// `stopping_early: wallclock_cap train_time: 596137ms`, `final_int8_zlib_roundtrip_exact val_loss:2.07
// val_bpb:1.22`, `quantized_ttt_phased val_loss:... eval_time:515283ms`, `Total submission size
// quantized+brotli: 15991932 bytes`, `GPTQ:collected 67 Hessians in 4.7s`, `train_shards: 80`, `val_tokens:
// 40540160`, `  key: value` settings.
#ifndef HM11_TOOLS_COMPLIANCE_RUN_LOG_H_
#define HM11_TOOLS_COMPLIANCE_RUN_LOG_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "tools/compliance/fact.h"

namespace hm11 {

// A line that gives a score.
struct LoggedScore {
  std::string label = {};  // what stands before the numbers: "final_int8_zlib_roundtrip_exact"
  double val_loss = 0;     // nats a token
  double val_bpb = 0;
  int loss_decimals = 0;  // digits after the point, as printed
  int bpb_decimals = 0;
  std::optional<double> eval_seconds = {};
  int64_t line = 0;
};

// The label of a score that is printed with a step of training.
inline constexpr char kOnTheWay[] = "on the way";

// A line that gives the time of an evaluation after training: "eval_time:515283ms",
// "ngram_eval_time:895349ms".
struct LoggedTime {
  std::string label = {};  // of the score beside it, or the time's own name
  double seconds = 0;
  int64_t line = 0;
};

// A line "<what> <qualifier>: N bytes".
struct LoggedBytes {
  std::string qualifier = {};  // "int8+zlib", "quantized+brotli", "" for none
  int64_t bytes = 0;
  int64_t line = 0;
};

struct LoggedRun {
  std::string path = {};  // relative to the submission
  std::optional<int64_t> seed = {};
  std::optional<double> train_seconds = {};  // at the last step
  bool stopped_by_clock = false;             // a line stopping_early was there
  std::optional<int64_t> steps = {};
  std::optional<double> hessian_seconds = {};  // collecting them from data, all together
  bool uses_hessians = false;                  // GPTQ calibrates or quantizes
  bool calibrates_on_own_text = false;         // self-generated calibration: reads no training data
  // Epochs of test-time training that are printed before the model is quantized: it trained on the validation
  // text and sealed that into the artifact. 0 when there are none.
  int64_t adapts_before_sealing_line = 0;
  // Test-time training after that, in epochs over the whole text, without a score of its own: what is scored
  // behind it was trained on. 0 when there is none.
  int64_t trains_on_text_line = 0;
  int64_t scores_again_line = 0;  // a second pass that scores what a first one did
  // GPTQ or its like reads text that calibrates it, behind the last step; from the validation text.
  int64_t calibrates_line = 0;
  int64_t calibrates_on_validation_line = 0;
  // A file of the text's own tokens, which count as known; how many.
  int64_t paid_tokens = 0;
  std::optional<double> total_eval_seconds = {};
  std::vector<LoggedTime> evaluations = {};  // each once, though a log may print its tail twice
  std::vector<LoggedScore> finals = {};      // scores after training, diagnostics left out
  std::vector<LoggedScore> others = {};      // scores on the way, diagnostics, summaries
  std::optional<LoggedScore> unquantized = {};
  std::vector<LoggedBytes> totals = {};  // "Total submission size"
  std::vector<LoggedBytes> models = {};  // "Serialized model"
  std::vector<LoggedBytes> codes = {};   // "Code size"
  std::optional<int64_t> train_shards = {};
  std::optional<int64_t> val_tokens = {};
  std::optional<int64_t> parameters = {};
  std::optional<int64_t> world_size = {};
  std::string gpu = {};        // as nvidia-smi names it
  std::string tokenizer = {};  // path
  std::string dataset = {};    // name
  std::map<std::string, std::string> settings = {};
  bool lists_settings = false;                // below a line "Hyperparameters:", all of them
  uint64_t source_hash = 0;                   // of the program's text in the log; 0 when it holds none
  bool source_ends = false;                   // at a rule: nothing else can be behind it
  bool failed = false;                        // a Python traceback
  std::map<std::string, int64_t> lines = {};  // of "seed", "train_time", "hessians", "total_eval_time", ...

  // Where a fact of that name was read.
  Place At(const std::string& name) const {
    const auto found = lines.find(name);
    return {path, found == lines.end() ? 0 : found->second};
  }
  // The score that counts: the last one; null when the log ends before it.
  const LoggedScore* final_score() const { return finals.empty() ? nullptr : &finals.back(); }
  // The counted size: the last total with a qualifier, else the last.
  std::optional<int64_t> total_bytes() const;
  Place total_place() const;
  std::optional<int64_t> model_bytes() const;
  std::optional<int64_t> code_bytes() const;
};

// Reads a log a line at a time; memory doesn't depend on its size. One file may hold several runs, each
// beginning with its seed. Nothing is returned for a text that holds no run. What lies beyond `most_bytes` is
// not read.
absl::StatusOr<std::vector<LoggedRun>> ReadRunLogs(const std::string& path, const std::string& name,
                                                   int64_t most_bytes = int64_t{256} << 20);
std::vector<LoggedRun> ParseRunLogs(absl::string_view text, const std::string& name);

}  // namespace hm11

#endif  // HM11_TOOLS_COMPLIANCE_RUN_LOG_H_
