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

// The validation documents, and which of them training text has: whole, or a passage. Of each the last whole passage
// among its first 512 tokens stands for it.
class ValDocuments {
 public:
  void AddToken(uint16_t token) {
    if (token == kBosToken) {
      window_.Clear();
      last_passage_ = 0;
      place_ = 0;
    } else if (window_.Add(token) && ++place_ <= 512 - kPassage) {
      last_passage_ = window_.hash();
    }
  }
  // Comes before the next document's BOS.
  void EndDocument(uint64_t hash, int64_t length) {
    if (length < kShortestDocument || documents_.Has(hash)) return;
    documents_.Add(hash, count());
    if (last_passage_ != 0) passages_.Add(last_passage_, count());
    document_found_.push_back(0);
    passage_found_.push_back(0);
  }

  void ReadTrainingToken(uint16_t token) {
    if (token == kBosToken) {
      train_window_.Clear();
    } else if (train_window_.Add(token)) {
      const int64_t document = passages_.Find(train_window_.hash());
      if (document >= 0) passage_found_[static_cast<size_t>(document)] = 1;
    }
  }
  // Whether one of the validation documents is this one of the training text.
  bool MeetTrainingDocument(uint64_t hash, int64_t length) {
    const int64_t document = length < kShortestDocument ? -1 : documents_.Find(hash);
    if (document >= 0) document_found_[static_cast<size_t>(document)] = 1;
    return document >= 0;
  }

  int64_t count() const { return static_cast<int64_t>(document_found_.size()); }
  int64_t shared() const { return std::ranges::count(document_found_, 1); }
  int64_t shared_passages() const { return std::ranges::count(passage_found_, 1); }

 private:
  HashIndex documents_, passages_;
  std::vector<uint8_t> document_found_, passage_found_;
  Window window_, train_window_;
  uint64_t last_passage_ = 0;
  int64_t place_ = 0;
};

}  // namespace

absl::StatusOr<ShardOverlap> FindShardOverlap(const std::vector<std::string>& train_shards,
                                              const std::vector<std::string>& val_shards) {
  ShardOverlap overlap;
  ValDocuments documents;
  uint16_t largest_val = 0, largest_train = 0;
  const auto of_val = [&](uint16_t token) {
    largest_val = std::max(largest_val, token);
    documents.AddToken(token);
  };
  const auto end_of_val = [&](const std::string&, int64_t, uint64_t hash, int64_t length) {
    documents.EndDocument(hash, length);
  };
  HM_ASSIGN_OR_RETURN(const auto val_counts, ForEachDocument(val_shards, of_val, end_of_val));
  overlap.val_tokens = val_counts.second;
  overlap.val_documents = documents.count();

  const auto of_train = [&](uint16_t token) {
    largest_train = std::max(largest_train, token);
    documents.ReadTrainingToken(token);
  };
  const auto end_of_train = [&](const std::string& path, int64_t number, uint64_t hash, int64_t length) {
    if (documents.MeetTrainingDocument(hash, length) && overlap.examples.size() < kMostExamples) {
      overlap.examples.push_back(absl::StrCat(path, ", document ", number));
    }
  };
  HM_ASSIGN_OR_RETURN(const auto train_counts, ForEachDocument(train_shards, of_train, end_of_train));
  overlap.train_documents = train_counts.first;
  overlap.train_tokens = train_counts.second;
  overlap.shared_documents = documents.shared();
  overlap.shared_passages = documents.shared_passages();
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
