// Sums of losses over positions, documents and kinds of token.
#include "train/report/score_facts.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/strip.h"
#include "data/documents.h"
#include "data/shard.h"

namespace hm11 {
namespace {

constexpr absl::string_view kSpace = "\xe2\x96\x81";  // U+2581, how pieces write a space
constexpr double kBinWidth = 0.1;                     // bits per byte
constexpr double kMostBpb = 10;                       // documents beyond count as this

struct Sum {
  double nats = 0;
  int64_t bytes = 0;
  int64_t tokens = 0;

  void Add(double more_nats, int64_t more_bytes) {
    nats += more_nats;
    bytes += more_bytes;
    ++tokens;
  }
  double bpb() const { return bytes > 0 ? nats / std::log(2.0) / static_cast<double>(bytes) : 0; }
};

int64_t BytesOf(const Tokenizer& tokenizer, std::span<const uint16_t> tokens, size_t target) {
  return tokenizer.byte_table().Bytes(tokens[target], tokens[target - 1]);
}

const char* KindOf(const Tokenizer& tokenizer, uint16_t token) {
  if (tokenizer.kind(token) == PieceKind::kByte) return "single bytes";
  if (tokenizer.kind(token) != PieceKind::kNormal) return "document ends";
  absl::string_view piece = tokenizer.piece(token);
  const bool begins = absl::ConsumePrefix(&piece, kSpace);
  if (piece.empty()) return "space alone";
  const auto is_letter = [](char c) { return absl::ascii_isalpha(c) || (c & 0x80) != 0; };
  if (is_letter(piece[0]) && !absl::StartsWith(piece, kSpace))
    return begins ? "word, its begin" : "word, its rest";
  return absl::ascii_isdigit(piece[0]) ? "digits" : "punctuation";
}

struct Document {
  int64_t begin = 0;  // of its BOS
  int64_t end = 0;
  Sum sum;
};

// Those long enough, the best first.
std::vector<Document> DocumentsOf(std::span<const uint16_t> tokens, const TargetLosses& losses,
                                  const Tokenizer& tokenizer) {
  std::vector<Document> documents;
  Document open;
  const auto close = [&](size_t end) {
    open.end = static_cast<int64_t>(end);
    if (open.sum.bytes >= kLeastDocumentBytes) documents.push_back(open);
  };
  for (size_t t = 1; t < tokens.size(); ++t) {
    if (tokens[t] == kBosToken) {  // The border is no document's.
      close(t);
      open = {.begin = static_cast<int64_t>(t)};
    } else if (losses.nats[t] >= 0) {
      open.sum.Add(losses.nats[t], BytesOf(tokenizer, tokens, t));
    }
  }
  close(tokens.size());
  std::stable_sort(documents.begin(), documents.end(),
                   [](const Document& a, const Document& b) { return a.sum.bpb() < b.sum.bpb(); });
  return documents;
}

// Valid UTF-8 of at most so many bytes, on one line.
std::string Words(const std::string& text, size_t most) {
  std::string words = text.substr(0, most);
  words.resize(static_cast<size_t>(ValidUtf8Prefix(words)));
  if (words.size() < text.size()) absl::StrAppend(&words, "…");
  return words;
}

std::vector<PositionScore> PositionsOf(std::span<const uint16_t> tokens, const TargetLosses& losses,
                                       const Tokenizer& tokenizer) {
  std::map<int64_t, Sum> bins;  // by the greatest number of tokens before a target
  for (size_t t = 1; t < tokens.size(); ++t) {
    if (losses.nats[t] < 0) continue;
    const int64_t before = (static_cast<int64_t>(t) - 1) % losses.window + 1;
    int64_t last = 1;
    while (last < before) last *= 2;
    bins[std::min(last, losses.window)].Add(losses.nats[t], BytesOf(tokenizer, tokens, t));
  }
  std::vector<PositionScore> positions;
  for (const auto& [last, sum] : bins) {
    const int64_t first = positions.empty() ? 1 : positions.back().last + 1;
    positions.push_back({first, last, sum.bytes, sum.bpb()});
  }
  return positions;
}

std::vector<DocumentBin> BinsOf(const std::vector<Document>& documents) {
  std::vector<DocumentBin> bins;
  if (documents.empty()) return bins;
  const auto bin_of = [](double bpb) {
    return static_cast<int64_t>(std::floor(std::min(bpb, kMostBpb) / kBinWidth));
  };
  const int64_t first = bin_of(documents.front().sum.bpb()), last = bin_of(documents.back().sum.bpb());
  for (int64_t bin = first; bin <= last; ++bin) {
    bins.push_back({kBinWidth * static_cast<double>(bin), kBinWidth * static_cast<double>(bin + 1), 0});
  }
  for (const Document& document : documents)
    ++bins[static_cast<size_t>(bin_of(document.sum.bpb()) - first)].count;
  return bins;
}

}  // namespace

ScoreFacts ScoreFactsOf(std::span<const uint16_t> tokens, const TargetLosses& losses,
                        const Tokenizer& tokenizer) {
  ScoreFacts facts;
  Sum all;
  std::map<std::string, Sum> kinds;
  for (size_t t = 1; t < tokens.size(); ++t) {
    if (losses.nats[t] < 0) continue;
    const int64_t bytes = BytesOf(tokenizer, tokens, t);
    all.Add(losses.nats[t], bytes);
    kinds[KindOf(tokenizer, tokens[t])].Add(losses.nats[t], bytes);
  }
  facts.tokens = all.tokens;
  facts.bytes = all.bytes;
  facts.bpb = all.bpb();
  facts.positions = PositionsOf(tokens, losses, tokenizer);
  for (const auto& [kind, sum] : kinds) facts.kinds.push_back({kind, sum.tokens, sum.bytes, sum.nats});
  std::stable_sort(facts.kinds.begin(), facts.kinds.end(),
                   [](const KindScore& a, const KindScore& b) { return a.nats > b.nats; });
  const std::vector<Document> documents = DocumentsOf(tokens, losses, tokenizer);
  facts.documents = static_cast<int64_t>(documents.size());
  facts.least_document_bytes = kLeastDocumentBytes;
  facts.document_bins = BinsOf(documents);
  const auto score = [&](const Document& document) {
    const int64_t length = std::min<int64_t>(48, document.end - document.begin);
    const auto begin = tokens.subspan(static_cast<size_t>(document.begin), static_cast<size_t>(length));
    return DocumentScore{document.sum.bytes, document.sum.bpb(), Words(tokenizer.Decode(begin), 90)};
  };
  const size_t shown = std::min<size_t>(5, documents.size());
  for (size_t i = 0; i < shown; ++i) {
    facts.best.push_back(score(documents[i]));
    facts.worst.push_back(score(documents[documents.size() - 1 - i]));
  }
  return facts;
}

ScoredSample SampleOf(const std::string& title, std::span<const uint16_t> tokens,
                      std::span<const double> nats, const Tokenizer& tokenizer) {
  ScoredSample sample = {.title = title};
  std::string open;  // bytes of a character that is not whole yet
  double open_bits = 0;
  const auto add = [&](std::string piece, double bits) {
    if (piece.empty()) return;
    sample.pieces.push_back(std::move(piece));
    sample.bits.push_back(bits);
  };
  for (size_t i = 0; i < tokens.size(); ++i) {
    const double bits = nats[i] < 0 ? -1 : nats[i] / std::log(2.0);
    if (tokenizer.kind(tokens[i]) == PieceKind::kByte) {
      const absl::string_view name = tokenizer.piece(tokens[i]);  // "<0x0A>"
      int byte = '?';
      if (name.size() == 6 && !absl::SimpleHexAtoi(name.substr(3, 2), &byte)) byte = '?';
      open.push_back(static_cast<char>(byte));
      open_bits += std::max(bits, 0.0);
      if (ValidUtf8Prefix(open) < static_cast<int64_t>(open.size()) && open.size() < 4) continue;
    } else if (tokenizer.kind(tokens[i]) == PieceKind::kNormal && open.empty()) {
      std::string piece = absl::StrReplaceAll(tokenizer.piece(tokens[i]), {{kSpace, " "}});
      add(std::move(piece), bits);
      continue;
    }
    add(ValidUtf8Prefix(open) == static_cast<int64_t>(open.size()) ? open : "\xef\xbf\xbd",
        bits < 0 ? -1 : open_bits);
    open.clear();
    open_bits = 0;
  }
  return sample;
}

std::vector<DocumentPlace> PlacesToShow(std::span<const uint16_t> tokens, const TargetLosses& losses,
                                        const Tokenizer& tokenizer) {
  const std::vector<Document> documents = DocumentsOf(tokens, losses, tokenizer);
  if (documents.empty()) return {};
  std::vector<DocumentPlace> places;
  const std::pair<const char*, size_t> shown[] = {{"The document in the middle", documents.size() / 2},
                                                  {"The best document", 0},
                                                  {"The worst document", documents.size() - 1}};
  for (const auto& [title, index] : shown) {
    const Document& document = documents[index];
    places.push_back({absl::StrCat(title, ", its begin"), document.begin, document.end});
    if (documents.size() == 1) break;
  }
  return places;
}

}  // namespace hm11
