// PreparedData: which files a folder of prepared data, or a pattern of shards, stands for.
//
// Patterns given out are for TokenStream::Open. A folder holds the shards of one name, NAME_train_*.bin and
// NAME_val_*.bin, as data/prepare.h writes them and as the challenge's come.
#ifndef HM11_DATA_PREPARED_DATA_H_
#define HM11_DATA_PREPARED_DATA_H_

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace hm11 {

// Of an existing folder, its NAME_train_*.bin or NAME_val_*.bin (`split` "train" or "val"); anything else is
// a pattern itself. Errors name what is not there, a file that is no shard, and the folder: without shards, or
// with shards of several names, which are not to be read together.
absl::StatusOr<std::string> ShardPattern(const std::string& data, absl::string_view split);

// The validation shards beside training shards: _val_ for the last _train_ of the file's name, whatever its
// folder is called. InvalidArgument where there is none.
absl::StatusOr<std::string> ValidationPattern(const std::string& train_pattern);

// The tokenizer beside shards: the only NAME_*.model of their name, else the only .model of their folder. NotFound
// where there are no such shards.
absl::StatusOr<std::string> TokenizerBeside(const std::string& shard_pattern);

}  // namespace hm11

#endif  // HM11_DATA_PREPARED_DATA_H_
