// Packs the sources that build the trainer and the scorer, the program that an artifact's size is counted
// with:
//   pack_program OUT.tar.xz OUT.cc LAUNCHER FILE...
// OUT.tar.xz has the files, the launcher among them, under their names, sorted, without dates and owners, so
// that the same sources give the same bytes; lines of C++ that are comments only are left out, for a quarter of
// the bytes are theirs. OUT.cc has the same bytes, and the launcher's, as constants to
// link in.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "core/file.h"
#include "core/lzma.h"
#include "core/status.h"

namespace hm11 {
namespace {

constexpr size_t kTarBlock = 512;

// One header block of POSIX.1-1988's ustar format and the contents, padded to whole blocks.
absl::Status AppendToTar(const std::string& name, const std::string& contents, std::string* tar) {
  std::string header(kTarBlock, '\0');
  const auto put = [&](size_t offset, absl::string_view text) {
    std::memcpy(&header[offset], text.data(), text.size());
  };
  if (name.size() > 99) return absl::InvalidArgumentError(absl::StrCat("the name is too long: ", name));
  put(0, name);
  put(100, absl::StartsWith(contents, "#!") ? "0000755" : "0000644");
  put(108, "0000000");  // owner
  put(116, "0000000");  // group
  put(124, absl::StrFormat("%011o", contents.size()));
  put(136, "00000000000");  // 1970
  put(148, "        ");     // the checksum counts itself as blanks
  put(156, "0");            // a file
  put(257, absl::string_view("ustar\00000", 8));
  unsigned sum = 0;
  for (const char byte : header) sum += static_cast<unsigned char>(byte);
  put(148, absl::StrFormat("%06o", sum));
  header[154] = '\0';
  absl::StrAppend(tar, header, contents);
  tar->resize((tar->size() + kTarBlock - 1) / kTarBlock * kTarBlock, '\0');
  return absl::OkStatus();
}

bool IsCpp(absl::string_view name) {
  return absl::EndsWith(name, ".cc") || absl::EndsWith(name, ".h") || absl::EndsWith(name, ".cu") ||
         absl::EndsWith(name, ".cuh");
}

// Without lines that hold nothing but a comment; what stands in a raw string or goes on from the line before is
// no comment.
std::string WithoutCommentLines(absl::string_view source) {
  std::string kept;
  bool in_raw = false, goes_on = false;
  for (const absl::string_view line : absl::StrSplit(source, '\n')) {
    if (in_raw || goes_on || !absl::StartsWith(absl::StripLeadingAsciiWhitespace(line), "//")) {
      absl::StrAppend(&kept, line, "\n");
      const size_t raw = line.rfind("R\"(");
      if (raw != line.npos) in_raw = true;
      if (line.find(")\"", raw == line.npos ? 0 : raw) != line.npos) in_raw = false;
      goes_on = absl::EndsWith(line, "\\");
    }
  }
  kept.pop_back();  // what splitting adds
  return kept;
}

absl::StatusOr<std::string> TarOf(std::vector<std::string> files) {
  std::sort(files.begin(), files.end());
  std::string tar;
  for (const std::string& file : files) {
    HM_ASSIGN_OR_RETURN(std::string contents, ReadFile(file));
    if (IsCpp(file)) contents = WithoutCommentLines(contents);
    HM_RETURN_IF_ERROR(AppendToTar(file, contents, &tar));
  }
  tar.append(2 * kTarBlock, '\0');
  return tar;
}

// "const char <name>[] = ...;" and "const int64_t <name>Bytes = ...;".
void AppendConstant(absl::string_view name, const std::string& bytes, std::string* source) {
  absl::StrAppend(source, "const char ", name, "[] =\n");
  for (size_t begin = 0; begin < bytes.size(); begin += 64) {
    *source += '"';
    for (size_t i = begin; i < std::min(begin + 64, bytes.size()); ++i) {
      absl::StrAppendFormat(source, "\\%03o", static_cast<unsigned char>(bytes[i]));
    }
    *source += "\"\n";
  }
  absl::StrAppend(source, ";\nconst int64_t ", name, "Bytes = ", bytes.size(), ";\n");
}

absl::Status Pack(const std::string& archive, const std::string& source, const std::string& launcher,
                  std::vector<std::string> files) {
  HM_ASSIGN_OR_RETURN(const std::string tar, TarOf(std::move(files)));
  HM_ASSIGN_OR_RETURN(const std::string packed, XzCompress(tar, 9, /*extreme=*/true));
  HM_ASSIGN_OR_RETURN(const std::string launcher_text, ReadFile(launcher));
  std::string constants =
      "// Made by program/pack_program.cc.\n"
      "#include \"program/counted_program.h\"\n"
      "namespace hm11::counted_program_internal {\n";
  AppendConstant("kPackedProgram", packed, &constants);
  AppendConstant("kLauncher", launcher_text, &constants);
  absl::StrAppend(&constants, "}\n");
  HM_RETURN_IF_ERROR(WriteFile(archive, packed));
  return WriteFile(source, constants);
}

}  // namespace
}  // namespace hm11

int main(int argc, char** argv) {
  const absl::Status status =
      argc < 5 ? absl::InvalidArgumentError("usage: pack_program OUT.tar.xz OUT.cc LAUNCHER FILE...")
               : hm11::Pack(argv[1], argv[2], argv[3], {argv + 4, argv + argc});
  if (status.ok()) return 0;
  std::fprintf(stderr, "error: %s\n", std::string(status.message()).c_str());
  return 1;
}
