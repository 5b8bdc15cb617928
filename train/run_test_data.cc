// The grammar and the settings.
#include "train/run_test_data.h"

#include <iterator>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "core/check.h"
#include "core/file.h"
#include "core/random.h"
#include "core/status.h"
#include "data/shard.h"
#include "data/tokenizer.h"
#include "testing/test_folder.h"

namespace hm11 {
namespace {

std::string Sentence(uint64_t index) {
  const char* const subjects[] = {"the cat", "a dog", "my friend", "the old man"};
  const char* const verbs[] = {"sees", "likes", "follows"};
  const auto pick = [&](const auto& words, uint64_t stream) {
    return words[RandomIndex(7, stream, index, static_cast<int64_t>(std::size(words)))];
  };
  return absl::StrCat(pick(subjects, 1), " ", pick(verbs, 2), " ", pick(subjects, 3), ". ");
}

absl::Status WriteSmallData(const std::string& folder) {
  uint64_t next = 0;
  HM_ASSIGN_OR_RETURN(const Tokenizer tokenizer, Tokenizer::Train(
                                                     [&](std::string* text) {
                                                       *text = Sentence(next++);
                                                       return next < 2000;
                                                     },
                                                     {.vocab = 300}));
  HM_RETURN_IF_ERROR(WriteFile(folder + "/tokenizer.model", tokenizer.model()));
  std::vector<uint16_t> tokens;
  for (uint64_t document = 0; document < 400; ++document) {
    tokens.push_back(kBosToken);
    for (uint64_t i = 0; i < 10; ++i) tokenizer.Encode(Sentence(document * 10 + i), &tokens);
  }
  const std::span<const uint16_t> all = tokens;
  HM_RETURN_IF_ERROR(WriteShard(folder + "/t_val_000000.bin", all.first(2000)));
  return WriteShard(folder + "/t_train_000000.bin", all.subspan(2000));
}

}  // namespace

std::string NewSmallDataFolder(absl::string_view name) {
  const std::string folder = NewTestFolder(name);
  const absl::Status written = WriteSmallData(folder);
  HM_CHECK(written.ok());
  return folder;
}

RunOptions SmallRun(const std::string& data_folder, const std::string& name) {
  RunOptions options;
  options.config = *Preset("tiny");
  const absl::Status status = ApplyOverrides(
      "layers=MA,vocab=300,dim=32,heads=2,kv_heads=1,mlp_width=48,state=4,dt_rank=4,bigram_rows=64,bigram_"
      "dim=8,"
      "value_embedding_dim=8,rope_dims=8,sequence=32,batch_tokens=256,micro_batch_tokens=128,max_steps=24,"
      "time_limit_seconds=0,log_every=8,warmup_steps=2,validation_seconds=0,checkpoint_seconds=0,"
      "calibration_tokens=256,sample_tokens=8",
      &options.config);
  HM_CHECK(status.ok());
  options.train_pattern = data_folder + "/t_train_*.bin";
  options.val_pattern = data_folder + "/t_val_*.bin";
  options.tokenizer_path = data_folder + "/tokenizer.model";
  options.folder = data_folder + "/" + name;
  return options;
}

}  // namespace hm11
