// Reading what a run does with the validation text.
#include "tools/compliance/text_use_marks.h"

#include <cstring>
#include <optional>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/string_view.h"
#include "tools/compliance/log_numbers.h"

namespace hm11 {
namespace {

// "ngram_two_pass: Pass 2 done val_bpb=0.09", "ngram_pass2 chunk:9 pass1:0.57 pass2:0.11",
// "pass 2 [100/237] scored=... avg_nll=1.8057".
void ReadPasses(const std::string& lower, int64_t line, LoggedRun* run) {
  if (run->scores_again_line > 0 || !run->train_seconds) return;
  for (const char* word : {"pass2", "pass 2", "pass_2"}) {
    const size_t at = lower.find(word);
    if (at == std::string::npos || (at > 0 && absl::ascii_isalpha(static_cast<unsigned char>(lower[at - 1]))))
      continue;
    const size_t end = at + std::strlen(word);
    if (end < lower.size() && absl::ascii_isdigit(static_cast<unsigned char>(lower[end]))) continue;
    if (ContainsAny(lower, {"bpb", "nll", "pass1:", "p1:"})) run->scores_again_line = line;
  }
}

// "paid_prefix:loaded 6,200,000 tokens from prefix_6m2.xz", "paid_prefix_file:p.xz
// paid_prefix_tokens:12924343"
void ReadPaidPrefix(const std::string& lower, int64_t line, LoggedRun* run) {
  if (!absl::StartsWith(lower, "paid_prefix") || run->paid_tokens > 0) return;
  std::optional<double> tokens = NumberAfter(lower, "paid_prefix_tokens");
  if (const size_t at = lower.find("loaded "); at != std::string::npos && absl::StrContains(lower, "tokens"))
    tokens = LeadingNumber(absl::string_view(lower).substr(at + 7));
  if (!tokens || *tokens < 1 || *tokens > 9e15) return;
  run->paid_tokens = static_cast<int64_t>(*tokens);
  run->lines["paid_prefix"] = line;
}

bool StartsLikeScoreAfterAdaptation(const std::string& lower) {
  return absl::StrContains(lower, "val_bpb") &&
         ContainsAny(lower.substr(0, 60), {"post-prequant-ttt", "post_prequant_ttt", "post-prequant_ttt"});
}

}  // namespace

void TextUseMarks::Read(const std::string& lower, int64_t line, LoggedRun* run) {
  ReadAdaptation(lower, line, run);
  ReadPasses(lower, line, run);
  ReadPaidPrefix(lower, line, run);
}

void TextUseMarks::Seal(LoggedRun* run) {
  if (adapts_line_ > 0 && run->adapts_before_sealing_line == 0 && run->train_seconds) {
    run->adapts_before_sealing_line = adapts_line_;
    run->trains_on_text_line = 0;
  }
  sealed_ = sealed_ || run->train_seconds.has_value();
}

// Epochs over the whole text, as ReadAdaptation tells them from settings; those of a chunk or a document
// are numbered with it, and test-time training that scores first prints its scores.
void TextUseMarks::ReadTrainingOnText(const std::string& lower, int64_t line, LoggedRun* run) {
  if (!absl::StartsWith(lower, "ttt")) return;
  if (absl::StrContains(lower, "bpb")) trains_and_scores_ = true;
  if (run->trains_on_text_line > 0 || ContainsAny(lower, {"chunk", "[", "doc", "batch", "phase", "seq"}))
    return;
  const size_t at = lower.find("epoch");
  if (at == std::string::npos || at > 20) return;
  const size_t digit = lower.find_first_not_of(" :=_", at + 5);
  if (digit == std::string::npos) return;
  const size_t end = lower.find_first_not_of("0123456789", digit);
  if (end != digit && end != std::string::npos && lower[end] == '/') run->trains_on_text_line = line;
}

// "ttt_adamw:epoch 3/6 loss:1.92": settings ("ttt_epochs: 3") and plans ("epochs=6") are no progress.
void TextUseMarks::ReadAdaptation(const std::string& lower, int64_t line, LoggedRun* run) {
  // Bursts go over training batches that were kept.
  if (!absl::StrContains(lower, "ttt") || absl::StrContains(lower, "burst")) return;
  if (sealed_ || perhaps_sealed_) ReadTrainingOnText(lower, line, run);
  if (sealed_) return;
  if (adapts_line_ > 0) return;
  const bool scored_after = StartsLikeScoreAfterAdaptation(lower);
  for (size_t at = lower.find("epoch"); at != std::string::npos || scored_after;
       at = lower.find("epoch", at + 1)) {
    if (scored_after) {
      adapts_line_ = line;
      return;
    }
    const size_t digit = lower.find_first_not_of(" :=_", at + 5);
    if (digit == std::string::npos || !absl::ascii_isdigit(static_cast<unsigned char>(lower[digit])))
      continue;
    const size_t end = lower.find_first_not_of("0123456789", digit);
    if (end != std::string::npos && (lower[end] == '/' || absl::StrContains(lower, "loss"))) {
      adapts_line_ = line;
      return;
    }
  }
}

}  // namespace hm11
