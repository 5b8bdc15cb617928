// Comparing validation and training documents.
#include "tools/compliance/shard_overlap.h"

#include <algorithm>
#include <array>
#include <bit>
#include <span>
#include <unordered_map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/status.h"
#include "data/shard.h"

namespace hm11 {
namespace {

constexpr int64_t kShortestDocument = 32;
constexpr int64_t kPassage = 64;
constexpr size_t kMostExamples = 5;

// Order matters in both; a token contributes through a random-looking 64-bit value.
uint64_t Mixed(uint64_t value) {
  value = (value + 0x9e3779b97f4a7c15u) * 0xbf58476d1ce4e5b9u;
  value = (value ^ value >> 27) * 0x94d049bb133111ebu;
  return value ^ value >> 31;
}

uint64_t Extended(uint64_t hash, uint16_t token) { return Mixed(hash ^ token); }

// The hash of the last 64 tokens, moved on by a token in constant time: a cyclic polynomial, so that the
// token that leaves is taken out by its value rotated as often as it was since it came.
class Window {
 public:
  void Clear() { length_ = 0, hash_ = 0; }
  // True when there are 64 tokens.
  bool Add(uint16_t token) {
    const size_t place = static_cast<size_t>(length_ % kPassage);
    hash_ = std::rotl(hash_, 1) ^ Value(token);
    if (length_ >= kPassage) hash_ ^= std::rotl(Value(tokens_[place]), kPassage % 64);
    tokens_[place] = token;
    return ++length_ >= kPassage;
  }
  uint64_t hash() const { return hash_; }

 private:
  static uint64_t Value(uint16_t token) {
    static const std::vector<uint64_t>* const values = [] {
      auto* table = new std::vector<uint64_t>(65536);
      for (size_t i = 0; i < table->size(); ++i) (*table)[i] = Mixed(i + 1);
      return table;
    }();
    return (*values)[token];
  }
  std::array<uint16_t, kPassage> tokens_ = {};
  int64_t length_ = 0;
  uint64_t hash_ = 0;
};

// A set of hashes that says no for nearly all others by one look at a table of bits.
class HashIndex {
 public:
  HashIndex() : bits_(size_t{1} << (kBits - 6)) {}
  void Add(uint64_t hash, int64_t document) {
    places_.emplace(hash, document);
    bits_[Word(hash)] |= uint64_t{1} << (hash & 63);
  }
  // The document that has the hash; -1 when none has.
  int64_t Find(uint64_t hash) const {
    if ((bits_[Word(hash)] >> (hash & 63) & 1) == 0) return -1;
    const auto found = places_.find(hash);
    return found == places_.end() ? -1 : found->second;
  }
  bool Has(uint64_t hash) const { return Find(hash) >= 0; }

 private:
  static constexpr int kBits = 24;
  static size_t Word(uint64_t hash) {
    return static_cast<size_t>(hash >> 6 & ((uint64_t{1} << (kBits - 6)) - 1));
  }
  std::vector<uint64_t> bits_;
  std::unordered_map<uint64_t, int64_t> places_;
};

// Reads the shards one after the other; calls at_token(token) for each token of a document but its BOS, and
// at_end(shard, number in it, hash, tokens) at each document's end. Returns the number of documents and of
// tokens.
template <typename AtToken, typename AtEnd>
absl::StatusOr<std::pair<int64_t, int64_t>> ForEachDocument(const std::vector<std::string>& paths,
                                                            AtToken&& at_token, AtEnd&& at_end) {
  int64_t documents = 0, tokens = 0;
  uint64_t hash = 0;
  int64_t length = 0, number = 0;
  std::string begun_in;
  const auto finish = [&] {
    if (!begun_in.empty()) at_end(begun_in, number, hash, length);
  };
  for (const std::string& path : paths) {
    HM_ASSIGN_OR_RETURN(const Shard shard, Shard::Open(path));
    int64_t in_shard = 0;
    tokens += static_cast<int64_t>(shard.tokens().size());
    for (const uint16_t token : shard.tokens()) {
      if (token == kBosToken) {
        finish();
        begun_in = path;
        number = in_shard++;
        ++documents;
        hash = 0;
        length = 0;
      } else {
        hash = Extended(hash, token);
        ++length;
      }
      at_token(token);
    }
  }
  finish();
  if (documents == 0 && !paths.empty()) {
    return absl::FailedPreconditionError(
        absl::StrCat("no BOS (token 1) in ", tokens, " tokens from ", paths.front(),
                     " on: no documents to compare; shards of another vocabulary?"));
  }
  return std::pair(documents, tokens);
}

}  // namespace

absl::StatusOr<ShardOverlap> FindShardOverlap(const std::vector<std::string>& train_shards,
                                              const std::vector<std::string>& val_shards) {
  ShardOverlap overlap;
  HashIndex documents, passages;
  std::vector<uint8_t> document_found, passage_found;
  Window window;
  uint64_t last_passage = 0;
  // Of each document the last whole passage among its first 512 tokens stands for it.
  int64_t place = 0;
  int largest_val = 0, largest_train = 0;
  const auto of_val = [&](uint16_t token) {
    largest_val = std::max<int>(largest_val, token);
    if (token == kBosToken) {
      window.Clear();
      last_passage = 0;
      place = 0;
      return;
    }
    if (window.Add(token) && ++place <= 512 - kPassage) last_passage = window.hash();
  };
  // Called at the next BOS before of_val sees it, so last_passage is still this document's.
  const auto end_of_val = [&](const std::string&, int64_t, uint64_t hash, int64_t length) {
    if (length < kShortestDocument || documents.Has(hash)) return;
    const auto document = static_cast<int64_t>(document_found.size());
    documents.Add(hash, document);
    if (last_passage != 0) passages.Add(last_passage, document);
    document_found.push_back(0);
    passage_found.push_back(0);
  };
  HM_ASSIGN_OR_RETURN(const auto val_counts, ForEachDocument(val_shards, of_val, end_of_val));
  overlap.val_tokens = val_counts.second;
  overlap.val_documents = static_cast<int64_t>(document_found.size());

  Window train_window;
  const auto of_train = [&](uint16_t token) {
    largest_train = std::max<int>(largest_train, token);
    if (token == kBosToken) {
      train_window.Clear();
    } else if (train_window.Add(token)) {
      if (const int64_t document = passages.Find(train_window.hash()); document >= 0) {
        passage_found[static_cast<size_t>(document)] = 1;
      }
    }
  };
  const auto end_of_train = [&](const std::string& path, int64_t number, uint64_t hash, int64_t length) {
    if (length < kShortestDocument) return;
    const int64_t document = documents.Find(hash);
    if (document < 0) return;
    document_found[static_cast<size_t>(document)] = 1;
    if (overlap.examples.size() < kMostExamples)
      overlap.examples.push_back(absl::StrCat(path, ", document ", number));
  };
  HM_ASSIGN_OR_RETURN(const auto train_counts, ForEachDocument(train_shards, of_train, end_of_train));
  overlap.train_documents = train_counts.first;
  overlap.train_tokens = train_counts.second;
  for (uint8_t found : document_found) overlap.shared_documents += found;
  for (uint8_t found : passage_found) overlap.shared_passages += found;
  // Tokenizers put single characters last, so that nearly any text reaches up to nearly the end of its
  // vocabulary.
  const auto [less, more] = std::minmax(largest_val, largest_train);
  if (overlap.shared() == 0 && 2 * more > 3 * less) {
    return absl::FailedPreconditionError(absl::StrCat("training tokens go up to ", largest_train,
                                                      ", validation tokens up to ", largest_val,
                                                      ": shards of another vocabulary, nothing to compare"));
  }
  return overlap;
}

}  // namespace hm11
