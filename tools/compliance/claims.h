// What a submission.json claims. The challenge has no schema for it: fields are null, missing, renamed, texts
// where numbers should be, seeds a list or a dictionary. Whatever can be understood is taken, the rest passed
// over.
#ifndef HM11_TOOLS_COMPLIANCE_CLAIMS_H_
#define HM11_TOOLS_COMPLIANCE_CLAIMS_H_

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace hm11 {

struct SeedClaim {
  std::optional<double> val_loss = {};
  std::optional<double> val_bpb = {};
  std::optional<int64_t> artifact_bytes = {};
  std::string log_file = {};        // where it says which one
  std::vector<double> scores = {};  // all that it gives of the seed: "42_careful" and "42_eager" are two
};

struct SubmissionClaims {
  std::string author = {};
  std::string github_id = {};
  std::string name = {};
  std::string date = {};
  std::string track = {};
  bool non_record = false;             // a field of it says so
  bool speaks_of_three_seeds = false;  // a field of it is a mean of three
  std::string hardware = {};
  std::optional<double> val_loss = {};  // nats a token, mean over the seeds
  std::optional<double> val_bpb = {};
  std::string no_score = {};                // what stands for val_bpb in place of a number: "TBD"
  std::string other_score = {};             // a field somewhere in it that holds a number of bits a byte
  bool names_someone = false;               // an author, a name, a GitHub id, under whatever key
  std::optional<int64_t> bytes_total = {};  // the largest where there are several
  std::optional<int64_t> bytes_of_all =
      {};  // of those, the one that stands beside bytes_model and bytes_code
  std::optional<int64_t> bytes_code = {};
  std::optional<int64_t> parameters = {};
  std::optional<int64_t> bytes_model = {};
  std::optional<double> train_seconds = {};  // "wallclock_seconds"
  std::map<int64_t, SeedClaim> seeds = {};
  std::map<std::string, bool> compliance = {};  // its own answers: no_slot, train_under_600s, ...
  std::vector<std::string> files = {};          // texts anywhere in it that look like names of files
  std::set<std::string> reference_logs = {};    // named below a key that sets them apart from the claim
  // What it says of a seed; nullptr when nothing, and for a run without one.
  const SeedClaim* ClaimOf(std::optional<int64_t> seed) const {
    const auto found = seed ? seeds.find(*seed) : seeds.end();
    return found == seeds.end() ? nullptr : &found->second;
  }
  // The score of a seed; without one, that of the whole.
  std::optional<double> ScoreOf(std::optional<int64_t> seed) const {
    const SeedClaim* claim = ClaimOf(seed);
    return claim != nullptr && claim->val_bpb ? claim->val_bpb : val_bpb;
  }
  int64_t LineOf(const std::string& key) const;  // where a field stands, from 1; 0 when it does not
  std::map<std::string, int64_t> lines = {};
  std::string text = {};  // all of it
};

// InvalidArgument says where the text stops being JSON, or that it is no object, longer than a MiB or nested
// more than 64 deep.
absl::StatusOr<SubmissionClaims> ParseClaims(absl::string_view json);

// Whether a text reads like the name of a file that a submission has: no blanks, a known ending.
bool LooksLikeFileName(absl::string_view text);

}  // namespace hm11

#endif  // HM11_TOOLS_COMPLIANCE_CLAIMS_H_
