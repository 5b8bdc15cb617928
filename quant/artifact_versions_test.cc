// Artifacts that were written by earlier programs: each format that was ever given out is read to the same
// numbers as ever. To a version that is new comes a file of it: an artifact of a run of //train:hm11.
#include <gtest/gtest.h>

#include <string>

#include "absl/strings/str_format.h"
#include "core/crc64.h"
#include "quant/packed_model.h"
#include "testing/golden.h"
#include "testing/matchers.h"

namespace hm11 {
namespace {

// Of names, shapes and the bits of all numbers.
std::string Checksum(const UnpackedModel& model) {
  uint64_t crc = 0;
  for (const NamedTensor& tensor : model.tensors) {
    crc = Crc64(tensor.name, crc);
    for (const int64_t extent : tensor.shape) crc = Crc64(absl::StrFormat(" %d", extent), crc);
    crc = Crc64(absl::string_view(reinterpret_cast<const char*>(tensor.values.data()),
                                  tensor.values.size() * sizeof(float)),
                crc);
  }
  return absl::StrFormat("%016x", crc);
}

TEST(ArtifactVersionsTest, VersionTwoReadsAsEver) {
  const absl::StatusOr<UnpackedModel> model = ReadModel(GoldenPath("artifact_version_2.hm11"));
  ASSERT_THAT(model, IsOk());
  EXPECT_EQ(model->config.model.layers, "MA");
  EXPECT_EQ(model->config.model.dim, 16);
  EXPECT_EQ(model->config.sequence, 32);
  EXPECT_EQ(Checksum(*model), "3c7bbddf5a70725c");
}

}  // namespace
}  // namespace hm11
