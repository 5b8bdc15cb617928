// Shards: files of tokens in the challenge's format, mapped to read, renamed into place when written.
//
// Layout (little-endian): 256 int32 header words - [0] magic 20240520, [1] version 1, [2] number of tokens,
// the rest zero (ignored when read) - then that many uint16 tokens and nothing after them. Token 1 (BOS)
// stands before each document; there is no mark behind one.
//
// Properties:
//   1. What is written reads back the same.
//   2. A wrong magic, version, count or length is refused with the file's name and both values.
//   3. A failed write leaves neither a new file nor a changed old one.
#ifndef HM11_DATA_SHARD_H_
#define HM11_DATA_SHARD_H_

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/file.h"

namespace hm11 {

inline constexpr int32_t kShardMagic = 20240520;
inline constexpr int32_t kShardVersion = 1;
inline constexpr int64_t kShardHeaderBytes = 1024;
inline constexpr int64_t kTokensPerShard = 100'000'000;  // as the challenge cuts its data

// The ids of the four special pieces, the same in every tokenizer of the challenge.
inline constexpr uint16_t kPadToken = 0;
inline constexpr uint16_t kBosToken = 1;
inline constexpr uint16_t kEosToken = 2;
inline constexpr uint16_t kUnknownToken = 3;

class Shard {
 public:
  static absl::StatusOr<Shard> Open(const std::string& path);

  const std::string& path() const { return path_; }
  std::span<const uint16_t> tokens() const { return tokens_; }  // lives as long as the shard

 private:
  Shard(std::string path, MappedFile file);

  std::string path_;
  MappedFile file_;
  std::span<const uint16_t> tokens_;
};

absl::Status WriteShard(const std::string& path, std::span<const uint16_t> tokens);

// A written shard as a manifest lists it.
struct ShardInfo {
  std::string path;
  int64_t tokens = 0;
  uint64_t crc64 = 0;  // of the whole file
};

// Writes a long stream as PREFIX_000000.bin, PREFIX_000001.bin, ... None of them appears before Commit; one
// file is open at a time.
class ShardWriter {
 public:
  explicit ShardWriter(std::string prefix, int64_t tokens_per_shard = kTokensPerShard);

  absl::Status Append(std::span<const uint16_t> tokens);
  // Renames all shards into place and lists them. A stream without tokens has none.
  absl::StatusOr<std::vector<ShardInfo>> Commit();

 private:
  struct Part {
    ShardInfo info;
    AtomicFileWriter writer;
  };
  absl::Status StartShard();
  absl::Status FinishShard();  // the last one, once

  std::string prefix_;
  int64_t tokens_per_shard_;
  std::vector<Part> shards_;
};

}  // namespace hm11

#endif  // HM11_DATA_SHARD_H_
