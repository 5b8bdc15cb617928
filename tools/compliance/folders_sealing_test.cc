// Miniature submissions that sizes, times, calibration, the artifact's contents or the program's text once
// accused falsely, and what they must be told instead.
#include <string>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "core/lzma.h"
#include "tools/compliance/audited_folder.h"

namespace hm11 {
namespace {

constexpr Verdict kPass = Verdict::kPass, kFail = Verdict::kFail, kCannotTell = Verdict::kCannotTell;

class SealingTest : public ComplianceTest {
 protected:
  // One claimed run, in train_seed40.log, and beside it another log of the same seed.
  static void ClaimOne(Submission& s, const MadeUpRun& beside) {
    s.runs.resize(1);
    s.claims["val_bpb"] = s.runs[0].bpb;
    s.claims.erase("seeds");
    s.files["study.log"] = LogOf(beside);
  }
  static void ReplaceInLogs(Submission& s, const std::string& from, const std::string& to) {
    for (const MadeUpRun& run : s.runs) {
      s.files[absl::StrCat("train_seed", run.seed, ".log")] = absl::StrReplaceAll(LogOf(run), {{from, to}});
    }
    s.runs.clear();
  }
  static void Calibrate(Submission& s, const std::string& lines) {
    for (MadeUpRun& run : s.runs) run.train_ms = 600020, run.hessians = lines;
  }
};

TEST_F(SealingTest, AVariantBesideTheClaimIsNotItsSizeOrTime) {
  AuditWith([](Submission& s) {
    MadeUpRun variant = s.runs[0];
    variant.bpb += 0.003, variant.total_bytes = 17000000;
    variant.train_ms = 700000, variant.eval_ms = 900000;
    ClaimOne(s, variant);
  });
  Expect(1, kPass, kPass, "claimed: 15,950,000");
  Expect(3, kPass, kPass);
  Expect(5, kPass, kPass);
}

TEST_F(SealingTest, AnotherMachineBesideTheClaimIsNotItsTime) {
  AuditWith([](Submission& s) {
    MadeUpRun other = s.runs[1];
    other.bpb += 0.001, other.gpu = "NVIDIA A6000", other.world_size = 2;
    other.train_ms = 9000000, other.eval_ms = 4000000;
    ClaimOne(s, other);
  });
  Expect(3, kPass, kPass);
  Expect(5, kPass, kPass);
}

TEST_F(SealingTest, AnotherSeedBesideTheClaimCounts) {
  AuditWith([](Submission& s) {
    MadeUpRun other = s.runs[1];
    other.total_bytes = 16000001, other.train_ms = 601000;
    ClaimOne(s, other);
  });
  Expect(1, kFail, kFail, "a log says: 16,000,001");
  Expect(3, kFail, kFail, "trained 601.0 s + Hessians 4.0 s = 605.0 s, over the cap");
}

TEST_F(SealingTest, ARunFarFromTheClaimIsAnotherModels) {
  AuditWith([](Submission& s) {
    ClaimOne(s, s.runs[0]);
    s.files.erase("study.log");
    s.claims["val_bpb"] = 0.9;
    s.runs[0].train_ms = 601000, s.runs[0].eval_ms = 601000;
  });
  Expect(3, kCannotTell, kCannotTell, "no log of the claim");
  Expect(5, kCannotTell, kCannotTell, "no log of the claim");
}

TEST_F(SealingTest, ASizeOfNoClaimIsAStudys) {
  AuditWith([](Submission& s) {
    MadeUpRun large = s.runs[0];
    large.total_bytes = 17000000;
    s.files["large.log"] = LogOf(large);
    s.claims = nullptr;
  });
  Expect(1, kCannotTell, kCannotTell, "nothing says which one is submitted");
}

TEST_F(SealingTest, AClaimOfTheModelInMemoryIsNotTheArtifacts) {
  AuditWith([](Submission& s) {
    s.claims["bytes_total"] = 44000000;
    for (MadeUpRun& run : s.runs) run.more = "Total submission size: 44000000 bytes\n";
  });
  Expect(1, kPass, kPass, "a log says: 15,950,000");
}

TEST_F(SealingTest, ASmallerArtifactOfTheSameLog) {
  AuditWith([](Submission& s) {
    s.claims["bytes_total"] = 14714641;
    for (MadeUpRun& run : s.runs) {
      run.total_bytes = 17000000, run.model_bytes = 16950000;
      run.after = absl::StrCat(
          "gptq_int6_brotli: 14,622,509 bytes | code: 92,132 | total: 14,714,641 (14.71MB)\nfinal val_loss:",
          run.bpb * 2.58, " val_bpb:", run.bpb, "\n");
    }
  });
  EXPECT_NE(At(1).practised, kFail);
}

TEST_F(SealingTest, TheSmallerOfTwoModelsIsHandedIn) {
  AuditWith([](Submission& s) {
    s.runs.clear(), s.claims.erase("bytes_total");
    s.claims["bytes_model_int8_zlib"] = 18600000, s.claims["bytes_model_int6_zlib"] = 14700000;
  });
  Expect(1, kPass, kCannotTell, "model 14,700,000 (submission.json)");
}

TEST_F(SealingTest, AnArtifactsSizeInOtherWords) {
  AuditWith([](Submission& s) {
    s.claims.erase("bytes_total");
    ReplaceInLogs(s, "Total submission size quantized+brotli: 15950000",
                  "quant:int5 artifact size: 16265723");
  });
  Expect(1, kFail, kFail, "a log says: 16,265,723");
}

TEST_F(SealingTest, DataThatTheProgramNamesIsNoProof) {
  AuditWith([](Submission& s) {
    s.SetProgram("import numpy as np\nt = np.fromfile('start.dat')\n");
    s.files["start.dat"] = std::string(120000, 'x');
  });
  Expect(1, kCannotTell, kPass, "whether the score needs that data is not said");
}

TEST_F(SealingTest, AReadableCopyOfAPackedProgramIsNoSecondOne) {
  AuditWith([](Submission& s) {
    std::string source = "import torch\n";
    for (int i = 0; i < 4000; ++i)
      absl::StrAppend(&source, "weights_of_layer_", i, " = torch.zeros(", i, ")\n");
    const std::string packed = absl::Base64Escape(*XzCompress(source + "open('copy/train_gpt.py')\n"));
    s.SetProgram("import lzma,base64\nexec(lzma.decompress(base64.b64decode('" + packed + "')))\n");
    s.files["copy/train_gpt.py"] = source + "# read this\n";
  });
  Expect(26, kPass, kPass);
  for (const std::string& text : TextsOf(At(1))) EXPECT_EQ(text.find("counts as code"), std::string::npos);
}

TEST_F(SealingTest, GptqThatIsSwitchedOffCalibratesNothing) {
  for (const std::string lines :
       {"gptq:SKIPPED (SKIP_GPTQ=1)\nmixed_quantize: 0 GPTQ tensors, 66 naive tensors\n",
        "gptq:enabled - per-layer optimal clip search\n", "gptq_enabled: False\n"}) {
    AuditWith([&](Submission& s) { Calibrate(s, lines); });
    Expect(3, kFail, kPass, "trained 600.020 s, over the cap");
    for (const std::string& text : TextsOf(At(3))) EXPECT_EQ(text.find("GPTQ"), std::string::npos) << text;
    Expect(19, kPass, kPass);
  }
}

TEST_F(SealingTest, CalibrationOnGeneratedSequencesReadsNoData) {
  AuditWith([](Submission& s) {
    Calibrate(s, "gptq:generating calibration sequences\ngptq:collecting hessians\n");
  });
  Expect(3, kFail, kPass, "trained 600.020 s, over the cap");
}

TEST_F(SealingTest, TimesOfCalibrationInOtherWords) {
  for (const std::string line :
       {"gptq:calibrated 66 layers in 4.1s\n", "gptq:hessians collected layers=68 time=4.1s\n",
        "gptq:hessian_collection_time:4100ms\n", "gptq: Hessians for 86 layers in 4.1s\n"}) {
    AuditWith([&](Submission& s) {
      for (MadeUpRun& run : s.runs) run.hessians = "gptq:collecting hessians\n" + line;
    });
    Expect(3, kPass, kPass, "trained 590.0 s + Hessians 4.1 s = 594.1 s");
  }
}

TEST_F(SealingTest, CalibrationWhoseSourceIsValidation) {
  AuditWith([](Submission& s) { s.runs[1].hessians = "gptq:collecting hessians batches=64 source=val\n"; });
  Expect(6, kFail, kFail, "calibrated on validation data");
  Expect(19, kFail, kFail);
}

TEST_F(SealingTest, ANameIsNoProofAgainstALog) {
  AuditWith([](Submission& s) { s.claims["name"] = "SP8192 + Pre-Quant TTT"; });
  Expect(6, kCannotTell, kCannotTell, "no log that is read here");
  AuditWith([](Submission& s) { s.claims["name"] = "SP8192 + Pre-Quant TTT", s.runs.clear(); });
  Expect(6, kFail, kFail, "its own name says so");
}

TEST_F(SealingTest, TheModelInMemoryIsNotSealed) {
  AuditWith([](Submission& s) {
    for (MadeUpRun& run : s.runs)
      run.more = "Serialized model: 136000000 bytes\nttt:epoch 1/6 loss=2.9 lr=0.0004 time=156.7s\n";
  });
  Expect(6, kFail, kFail, "before the artifact is made");
  EXPECT_NE(At(11).strict, kFail);
}

TEST_F(SealingTest, ShardsOfOwnPreparation) {
  const auto prepared = [](int64_t shards) {
    return [shards](Submission& s) {
      for (MadeUpRun& run : s.runs) run.train_shards = shards, run.val_tokens = 47851520;
    };
  };
  AuditWith(prepared(1499));
  Expect(7, kCannotTell, kFail, "records with so many were refused");
  AuditWith(prepared(1502));
  Expect(7, kFail, kFail, "40,000 of them are in the shards");
  AuditWith([&](Submission& s) {
    prepared(1499)(s);
    s.files["README.md"] += "python3 prepare.py --val-docs 50000\n";
  });
  Expect(7, kCannotTell, kCannotTell, "held out, it says");
}

TEST_F(SealingTest, ADownloadIsShownWithItsAddress) {
  AuditWith([](Submission& s) { s.SetProgram("import torch\np = hf_hub_download('owner/data', 'b')\n"); });
  Expect(2, kCannotTell, kCannotTell, "hf_hub_download(\"owner/data\", \"b\")");
}

TEST_F(SealingTest, APackedProgramThatTheClaimCountsMayBeTheOneThatRuns) {
  const auto change = [](Submission& s, int64_t packed) {
    s.SetProgram(absl::StrCat("import torch\n", std::string(40000, '#'), "\n"));
    s.files["train_gpt.py.lzma"] = std::string(14000, 'x');
    s.claims["bytes_code"] = packed, s.claims["bytes_total"] = 15980000 + packed;
    for (MadeUpRun& run : s.runs) run.model_bytes = 15980000, run.total_bytes = 16020013;
  };
  AuditWith([&](Submission& s) { change(s, 15000); });
  Expect(1, kCannotTell, kCannotTell, "15,000 bytes of packed program in its place");
  AuditWith([&](Submission& s) { change(s, 29000); });  // no such file
  Expect(1, kFail, kFail);
}

TEST_F(SealingTest, ALongEvaluationMayNotBeTheClaims) {
  const auto claim_seeds = [](Submission& s) {
    for (const MadeUpRun& run : s.runs)
      s.claims["seed_results"][absl::StrCat(run.seed)] = {{"val_bpb", run.bpb}};
  };
  AuditWith([&](Submission& s) { claim_seeds(s), s.runs[0].eval_ms = 706000; });
  Expect(5, kFail, kFail, "706.0 s, over the cap");
  AuditWith([&](Submission& s) { claim_seeds(s), s.runs[0].eval_ms = 706000, s.runs[0].world_size = 1; });
  Expect(5, kCannotTell, kCannotTell, "on eight GPUs is not known");
  // The claim is of a score that is printed without its time.
  AuditWith([&](Submission& s) {
    claim_seeds(s);
    MadeUpRun& run = s.runs[0];
    run.after = absl::StrFormat("quantized_ppm_best boost:15.0 val_bpb:%.8f delta_bpb:-0.1\n", run.bpb);
    run.bpb += 0.1, run.eval_ms = 706000;
  });
  Expect(5, kCannotTell, kCannotTell, "on eight GPUs is not known");
  // The same evaluation again, in time.
  AuditWith([&](Submission& s) {
    MadeUpRun again = s.runs[0];
    again.eval_ms = 706000;
    s.files["eval_again.log"] = LogOf(again);
  });
  EXPECT_NE(At(5).practised, kFail);
}

TEST_F(SealingTest, ARunWithOtherParametersIsOfAnotherModel) {
  const auto change = [](Submission& s, int64_t parameters) {
    s.claims["model_params"] = parameters, s.claims["val_bpb"] = 1.07;
    for (MadeUpRun& run : s.runs) run.train_ms = 640000, run.more = "model_params:21778504\n";
  };
  AuditWith([&](Submission& s) { change(s, 26501720); });
  Expect(3, kCannotTell, kCannotTell);
  AuditWith([&](Submission& s) { change(s, 21780000); });
  Expect(3, kFail, kFail);
}

TEST_F(SealingTest, ACalibrationOfATrialBeforeTheRunIsNotAdded) {
  AuditWith([](Submission& s) {
    for (MadeUpRun& run : s.runs) {
      run.train_ms = 600100;
      run.hessians = "GPTQ:collected 67 Hessians in 0.4s\nGPTQ:collected 67 Hessians in 13.1s\n";
    }
  });
  EXPECT_THAT(TextsOf(At(3)), ::testing::Contains(::testing::HasSubstr("= 613.2 s")));
}

}  // namespace
}  // namespace hm11
