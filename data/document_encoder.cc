// DocumentEncoder: batches of documents as futures, given out in order.
#include "data/document_encoder.h"

#include <algorithm>
#include <utility>

#include "core/status.h"
#include "data/shard.h"

namespace hm11 {
namespace {

constexpr size_t kBatchBytes = 1 << 20;

}  // namespace

DocumentEncoder::DocumentEncoder(const Tokenizer& tokenizer, int threads, Sink sink)
    : tokenizer_(tokenizer),
      most_in_flight_(static_cast<size_t>(std::max(1, threads))),
      sink_(std::move(sink)) {}

DocumentEncoder::~DocumentEncoder() = default;  // A future of std::async waits for its thread.

DocumentEncoder::Encoded DocumentEncoder::Encode(const std::vector<std::string>& documents) {
  std::unique_ptr<WordEncoder> encoder;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (!idle_.empty()) {
      encoder = std::move(idle_.back());
      idle_.pop_back();
    }
  }
  if (encoder == nullptr) encoder = std::make_unique<WordEncoder>(tokenizer_);
  Encoded encoded;
  for (const std::string& document : documents) {
    const size_t begin = encoded.tokens.size();
    encoded.tokens.push_back(kBosToken);
    encoder->Encode(document, &encoded.tokens);
    encoded.text_bytes += static_cast<int64_t>(document.size());
    encoded.token_bytes += tokenizer_.byte_table().Count(std::span(encoded.tokens).subspan(begin));
  }
  encoded.documents = static_cast<int64_t>(documents.size());
  std::lock_guard<std::mutex> lock(mutex_);
  idle_.push_back(std::move(encoder));
  return encoded;
}

void DocumentEncoder::StartBatch() {
  in_flight_.push_back(
      std::async(std::launch::async, [this, documents = std::move(batch_)] { return Encode(documents); }));
  batch_.clear();
  batch_bytes_ = 0;
}

absl::Status DocumentEncoder::PassOnOldest() {
  const Encoded encoded = in_flight_.front().get();
  in_flight_.pop_front();
  for (uint16_t token : encoded.tokens) counts_.checksum += static_cast<uint32_t>(++counts_.tokens) * token;
  counts_.documents += encoded.documents;
  counts_.text_bytes += encoded.text_bytes;
  counts_.token_bytes += encoded.token_bytes;
  return sink_(encoded.tokens);
}

absl::Status DocumentEncoder::Add(std::string document) {
  batch_bytes_ += document.size();
  batch_.push_back(std::move(document));
  if (batch_bytes_ < kBatchBytes) return absl::OkStatus();
  if (in_flight_.size() == most_in_flight_) HM_RETURN_IF_ERROR(PassOnOldest());
  StartBatch();
  return absl::OkStatus();
}

absl::Status DocumentEncoder::Finish() {
  if (!batch_.empty()) StartBatch();
  while (!in_flight_.empty()) HM_RETURN_IF_ERROR(PassOnOldest());
  return absl::OkStatus();
}

}  // namespace hm11
