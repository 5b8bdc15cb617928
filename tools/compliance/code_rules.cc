// Conditions on the program's text: what it reaches out to, and whether it can be read.
#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "tools/compliance/rules.h"
#include "tools/compliance/used_code.h"

namespace hm11 {
namespace {

// Whether a program of the entry's is more than its text shows.
bool HasUnreadCode(const SubmissionFolder& folder) {
  return std::any_of(folder.programs.begin(), folder.programs.end(), [](const ProgramFile& program) {
    return program.used_by_entry &&
           (program.code.cut_off || (program.code.text.empty() && program.bytes > 0) ||
            !program.code.opaque.empty());
  });
}

bool CallsAnotherProgram(absl::string_view code) {
  return HasAnyWord(code, {"subprocess", "Popen", "check_call", "check_output"}) ||
         absl::StrContains(code, "os.system(");
}

// What a command that a program runs needs from outside; "" when nothing.
std::string Outside(const PythonStatement& statement) {
  const std::string command = absl::StrCat(" ", absl::StrJoin(statement.strings, " "), " ");
  for (const char* word : {"pip install", "pip3 install", "apt-get install", "apt install", "wget ", "curl ",
                           "git clone", "huggingface-cli"}) {
    if (absl::StrContains(command, absl::StrCat(" ", word))) return word;
  }
  return "";
}

struct Packing {
  bool opaque = false;   // something that runs cannot be read
  int64_t unpacked = 0;  // bytes of the largest packed source
};

// How the programs that the entry uses are packed; says each layer.
Packing LookAtPacking(const SubmissionFolder& folder, Condition* condition) {
  Packing packing;
  for (const ProgramFile& program : folder.programs) {
    if (!program.used_by_entry) continue;
    for (const PackedLayer& layer : program.code.layers) {
      packing.unpacked = std::max(packing.unpacked, layer.unpacked_bytes);
      condition->Add(absl::StrCat(layer.packed_bytes, " characters of ", layer.how, " unpack to ",
                                  layer.unpacked_bytes, " bytes of source"),
                     {{program.name, 0}});
    }
    const bool runs_text =
        absl::StrContains(program.code.text, "exec(") || absl::StrContains(program.code.text, "marshal");
    for (const PackedLayer& layer : program.code.opaque) {
      condition->Add(absl::StrCat(layer.packed_bytes, " characters that are no source text"),
                     {{program.name, 0}});
      packing.opaque = packing.opaque || runs_text;
    }
    if (absl::EndsWith(program.name, ".so")) {
      packing.opaque = true;
      condition->Add("machine code", {{program.name, 0}});
    } else if (program.code.text.empty() && program.bytes > 0) {
      packing.opaque = true;
      condition->Add("could not be read", {{program.name, 0}});
    }
  }
  return packing;
}

}  // namespace

void JudgeSelfContained(const Case& subject, Condition* condition) {
  if (subject.folder.entry.empty()) return condition->Add("no program to look at");
  const auto downloads = Statements(subject.folder, [](const PythonStatement& statement) {
    return HasAny(statement.code, {"urlopen(", "urlretrieve(", "requests.get(", "hf_hub_download(",
                                   "snapshot_download(", "load_dataset(", "socket.socket("});
  });
  for (const Found& each : downloads) {
    condition->Add(absl::StrCat("reaches out: ", Excerpt(*each.statement)), {each.place()});
  }
  const auto commands = Statements(subject.folder, [](const PythonStatement& statement) {
    return CallsAnotherProgram(statement.code) && !Outside(statement).empty();
  });
  for (const Found& each : commands) {
    condition->Add(absl::StrCat("runs a command with \"", Outside(*each.statement), "\""), {each.place()});
  }
  const auto imports = Statements(subject.folder, [](const PythonStatement& statement) {
    for (const std::string& module : ImportedModules(statement)) {
      const std::string root = module.substr(0, module.find('.'));
      if (root == "requests" || root == "huggingface_hub" || module == "urllib.request") return true;
    }
    return false;
  });
  for (const Found& each : imports) {
    condition->Add(absl::StrCat("worth a look: ", Excerpt(*each.statement)), {each.place()},
                   Sureness::kSuspected);
  }
  const auto systems = Statements(subject.folder, [](const PythonStatement& statement) {
    if (!CallsAnotherProgram(statement.code)) return false;
    return std::any_of(statement.strings.begin(), statement.strings.end(), [](const std::string& text) {
      return text == "lrzip" || text == "zpaq" || text == "7z" || absl::StartsWith(text, "lrzip ");
    });
  });
  for (const Found& each : systems) {
    condition->Add("runs a program of the system that must be installed", {each.place()});
  }
  if (HasUnreadCode(subject.folder)) return condition->Add("part of the program could not be read");
  if (!downloads.empty()) {
    condition->strict = Verdict::kFail;
  } else if (commands.empty() && imports.empty()) {
    condition->practised = Verdict::kPass;
    if (systems.empty()) condition->Add("the programs name no way to the network");
  }
}

void JudgeReadableCode(const Case& subject, Condition* condition) {
  const SubmissionFolder& folder = subject.folder;
  const ProgramFile* entry = folder.entry_program();
  if (entry == nullptr) {
    return condition->Add("no program to look at");
  }
  const Packing packing = LookAtPacking(folder, condition);
  if (packing.opaque) {
    condition->strict = Verdict::kFail;
    return;
  }
  condition->SetBoth(Verdict::kPass);
  if (packing.unpacked == 0) return;
  // Packed, but for people the same text must lie beside it.
  int64_t copies = 0;
  for (const ProgramFile& program : folder.programs) copies += program.for_readers ? program.bytes : 0;
  const bool source_beside =
      copies * 2 > packing.unpacked ||
      std::any_of(folder.programs.begin(), folder.programs.end(), [&](const ProgramFile& program) {
        return !program.used_by_entry && !program.code.packed() && program.bytes * 2 > packing.unpacked;
      });
  if (!source_beside) {
    condition->strict = Verdict::kFail;
    condition->Add("no readable source lies beside the packed program");
  }
}

}  // namespace hm11
