// Shards over memory maps and atomic files.
#include "data/shard.h"

#include <algorithm>
#include <array>
#include <bit>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "core/check.h"
#include "core/crc64.h"
#include "core/status.h"

namespace hm11 {
namespace {

static_assert(std::endian::native == std::endian::little, "shards are mapped as they lie on disk");

constexpr int64_t kTokenBytes = sizeof(uint16_t);

using Header = std::array<int32_t, kShardHeaderBytes / sizeof(int32_t)>;

absl::string_view BytesOf(std::span<const uint16_t> tokens) {
  return absl::string_view(reinterpret_cast<const char*>(tokens.data()), tokens.size_bytes());
}

std::string HeaderBytes(int64_t tokens) {
  Header header = {};
  header[0] = kShardMagic;
  header[1] = kShardVersion;
  header[2] = static_cast<int32_t>(tokens);
  return std::string(reinterpret_cast<const char*>(header.data()), sizeof(header));
}

// OK when the file is a shard, else what is wrong with it.
absl::Status Validate(const std::string& path, const MappedFile& file) {
  if (file.size_bytes() < kShardHeaderBytes) {
    return absl::DataLossError(absl::StrCat("shard ", path, ": ", file.size_bytes(),
                                            " bytes, shorter than its header of ", kShardHeaderBytes));
  }
  const int32_t* header = reinterpret_cast<const int32_t*>(file.data());
  if (header[0] != kShardMagic) {
    return absl::DataLossError(
        absl::StrCat("shard ", path, ": magic number ", header[0], ", expected ", kShardMagic));
  }
  if (header[1] != kShardVersion) {
    return absl::DataLossError(
        absl::StrCat("shard ", path, ": version ", header[1], ", expected ", kShardVersion));
  }
  if (header[2] < 0) {
    return absl::DataLossError(absl::StrCat("shard ", path, ": token count ", header[2], " is negative"));
  }
  const int64_t expected = kShardHeaderBytes + kTokenBytes * header[2];
  if (file.size_bytes() != expected) {
    return absl::DataLossError(absl::StrCat("shard ", path, ": ", file.size_bytes(), " bytes, expected ",
                                            expected, " for its ", header[2], " tokens"));
  }
  return absl::OkStatus();
}

}  // namespace

Shard::Shard(std::string path, MappedFile file)
    : path_(std::move(path)),
      file_(std::move(file)),
      tokens_(reinterpret_cast<const uint16_t*>(file_.data() + kShardHeaderBytes),
              static_cast<size_t>((file_.size_bytes() - kShardHeaderBytes) / kTokenBytes)) {}

absl::StatusOr<Shard> Shard::Open(const std::string& path) {
  HM_ASSIGN_OR_RETURN(MappedFile file, MappedFile::Open(path));
  HM_RETURN_IF_ERROR(Validate(path, file));
  return Shard(path, std::move(file));
}

absl::Status WriteShard(const std::string& path, std::span<const uint16_t> tokens) {
  HM_CHECK_LE(tokens.size(), size_t{INT32_MAX});
  HM_ASSIGN_OR_RETURN(AtomicFileWriter writer, AtomicFileWriter::Open(path));
  HM_RETURN_IF_ERROR(writer.Append(HeaderBytes(static_cast<int64_t>(tokens.size()))));
  HM_RETURN_IF_ERROR(writer.Append(BytesOf(tokens)));
  return writer.Commit();
}

ShardWriter::ShardWriter(std::string prefix, int64_t tokens_per_shard)
    : prefix_(std::move(prefix)), tokens_per_shard_(tokens_per_shard) {
  HM_CHECK(tokens_per_shard > 0 && tokens_per_shard <= INT32_MAX);
}

absl::Status ShardWriter::StartShard() {
  const std::string path = absl::StrFormat("%s_%06d.bin", prefix_, shards_.size());
  HM_ASSIGN_OR_RETURN(AtomicFileWriter writer, AtomicFileWriter::Open(path));
  shards_.push_back({.info = {.path = path}, .writer = std::move(writer)});
  return shards_.back().writer.Append(HeaderBytes(0));
}

absl::Status ShardWriter::FinishShard() {
  Part& part = shards_.back();
  HM_RETURN_IF_ERROR(part.writer.WriteAt(0, HeaderBytes(part.info.tokens)));
  return part.writer.Close();
}

absl::Status ShardWriter::Append(std::span<const uint16_t> tokens) {
  while (!tokens.empty()) {
    if (shards_.empty() || shards_.back().info.tokens == tokens_per_shard_) {
      if (!shards_.empty()) HM_RETURN_IF_ERROR(FinishShard());
      HM_RETURN_IF_ERROR(StartShard());
    }
    Part& part = shards_.back();
    const size_t room = static_cast<size_t>(tokens_per_shard_ - part.info.tokens);
    const std::span<const uint16_t> now = tokens.first(std::min(room, tokens.size()));
    HM_RETURN_IF_ERROR(part.writer.Append(BytesOf(now)));
    part.info.tokens += static_cast<int64_t>(now.size());
    tokens = tokens.subspan(now.size());
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<ShardInfo>> ShardWriter::Commit() {
  if (!shards_.empty()) HM_RETURN_IF_ERROR(FinishShard());
  std::vector<ShardInfo> infos;
  for (Part& part : shards_) {
    HM_RETURN_IF_ERROR(part.writer.Commit());
    HM_ASSIGN_OR_RETURN(const MappedFile written, MappedFile::Open(part.info.path));
    part.info.crc64 = Crc64(written.bytes());
    infos.push_back(part.info);
  }
  shards_.clear();
  return infos;
}

}  // namespace hm11
