// DocumentEncoder: tokenizes documents on several threads and passes the tokens on in the order the documents
// came.
//
// A document becomes BOS and its tokens. What is passed on does not depend on the number of threads.
#ifndef HM11_DATA_DOCUMENT_ENCODER_H_
#define HM11_DATA_DOCUMENT_ENCODER_H_

#include <cstdint>
#include <deque>
#include <functional>
#include <future>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "data/tokenizer.h"
#include "data/word_encoder.h"

namespace hm11 {

struct EncodedCounts {
  int64_t documents = 0;
  int64_t tokens = 0;       // with a BOS for each document
  int64_t text_bytes = 0;   // of the documents as they came
  int64_t token_bytes = 0;  // by the tokenizer's byte table: what bits per byte divides by
  uint32_t checksum = 0;    // sum of (position + 1) * token over the stream, modulo 2^32
};

class DocumentEncoder {
 public:
  using Sink = std::function<absl::Status(std::span<const uint16_t>)>;

  // `tokenizer` outlives the encoder. `sink` is called from the thread that calls Add and Finish, many
  // documents at a time; the first error it returns is returned by them.
  DocumentEncoder(const Tokenizer& tokenizer, int threads, Sink sink);
  ~DocumentEncoder();

  absl::Status Add(std::string document);
  // Passes on what is left.
  absl::Status Finish();
  // Of what was passed on so far.
  const EncodedCounts& counts() const { return counts_; }

 private:
  struct Encoded {
    std::vector<uint16_t> tokens;
    int64_t documents = 0;
    int64_t text_bytes = 0;
    int64_t token_bytes = 0;
  };
  Encoded Encode(const std::vector<std::string>& documents);
  void StartBatch();
  absl::Status PassOnOldest();

  const Tokenizer& tokenizer_;
  size_t most_in_flight_;
  Sink sink_;
  std::vector<std::string> batch_;
  size_t batch_bytes_ = 0;
  EncodedCounts counts_;
  std::mutex mutex_;
  std::vector<std::unique_ptr<WordEncoder>> idle_;  // each used by one batch at a time; guarded by mutex_
  std::deque<std::future<Encoded>> in_flight_;      // last, so that threads end before what they use
};

}  // namespace hm11

#endif  // HM11_DATA_DOCUMENT_ENCODER_H_
