// Claims in all their forms, and names with braces.
#include "tools/compliance/claims.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "tools/compliance/file_names.h"

namespace hm11 {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::SizeIs;

TEST(SubmissionClaimsTest, FullAndMinimalFormsAreUnderstood) {
  const auto minimal = ParseClaims(
      R"({"author":"A","github_id":"a","name":"N","blurb":"b","date":"2026-03-18T14:56:29Z","val_loss":2.07269931,)"
      R"("val_bpb":1.2243657,"bytes_total":15863489,"bytes_code":47642})");
  ASSERT_TRUE(minimal.ok());
  EXPECT_EQ(minimal->bytes_total, 15863489);
  EXPECT_EQ(minimal->bytes_code, 47642);
  EXPECT_DOUBLE_EQ(minimal->val_bpb.value(), 1.2243657);
  const auto full = ParseClaims(
      R"({"track":"10min_16mb","val_bpb":1.081,"seeds":[42,314],"seed_results":{"42":{"val_bpb":1.08,"artifact_bytes":7},)"
      R"("314":{"val_bpb":1.082,"val_loss":2.79,"artifact_bytes":9}},"compliance":{"no_slot":true,"three_seeds":false}})");
  ASSERT_TRUE(full.ok());
  EXPECT_THAT(full->seeds, SizeIs(2));
  EXPECT_EQ(full->bytes_total, 9);
  EXPECT_DOUBLE_EQ(full->seeds.at(314).val_loss.value(), 2.79);
  EXPECT_TRUE(full->compliance.at("no_slot"));
  EXPECT_FALSE(full->compliance.at("three_seeds"));
}

TEST(SubmissionClaimsTest, MessIsNormal) {
  const auto claims = ParseClaims(
      R"({"val_bpb":null,"val_bpb_mean":"1.0811","val_loss":null,"bytes_total":"15,950,000 bytes","author":["a","b"],)"
      R"("date":null,"per_seed":[{"seed":"42","bpb":1.1},{"seed":7,"val_bpb":{"mean":1.2}},{"no":1},3],"seeds":{"seed_9":1.3},)"
      R"("log":"train_seed42.log","other":[["a.py","no file",{"x":"b.txt"}]]})");
  ASSERT_TRUE(claims.ok()) << claims.status();
  EXPECT_DOUBLE_EQ(claims->val_bpb.value(), 1.0811);
  EXPECT_FALSE(claims->val_loss.has_value());
  EXPECT_EQ(claims->bytes_total, 15950000);
  EXPECT_FALSE(claims->author.empty());
  EXPECT_TRUE(claims->date.empty());
  EXPECT_DOUBLE_EQ(claims->seeds.at(42).val_bpb.value(), 1.1);
  EXPECT_DOUBLE_EQ(claims->seeds.at(7).val_bpb.value(), 1.2);
  EXPECT_DOUBLE_EQ(claims->seeds.at(9).val_bpb.value(), 1.3);
  EXPECT_THAT(claims->files, ::testing::UnorderedElementsAre("train_seed42.log", "a.py", "b.txt"));
  EXPECT_THAT(std::string(ParseClaims("{\n\"a\": ").status().message()), HasSubstr("line 2"));
  EXPECT_FALSE(ParseClaims("[1]").ok());
  EXPECT_FALSE(ParseClaims("").ok());
}

TEST(FileNamesTest, BracesExpandAndNeverExplode) {
  EXPECT_THAT(ExpandBraces("train_seed{42, 7}.log"), ElementsAre("train_seed42.log", "train_seed7.log"));
  EXPECT_THAT(ExpandBraces("{a,b}{c,d}"), ElementsAre("ac", "ad", "bc", "bd"));
  EXPECT_THAT(ExpandBraces("a{b"), ElementsAre("a{b"));
  std::string many;
  for (int i = 0; i < 60; ++i) many += "{x,y}";
  EXPECT_LE(ExpandBraces(many).size(), 1000u);
}

}  // namespace
}  // namespace hm11
