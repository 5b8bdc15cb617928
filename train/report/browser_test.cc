// The page in a browser: no error, no text cut off or over another, charts drawn, right values under the
// pointer; at the widths of a phone, a laptop and a large screen. Skipped where there is no Chromium.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "core/file.h"
#include "testing/matchers.h"
#include "train/report/made_up_run.h"
#include "train/report/page.h"

namespace hm11 {
namespace {

// "" where none is installed.
std::string Browser() {
  for (const char* path : {"/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"}) {
    if (access(path, X_OK) == 0) return path;
  }
  return "";
}

// Runs before the page's own script.
constexpr char kListen[] = R"(<script>
const faults=[];addEventListener("error",e=>faults.push("error: "+e.message));
const error=console.error;console.error=(...a)=>{faults.push("console: "+a.join(" "));error(...a)};
</script>)";

// Looks at the page after it, and tells the window around it.
constexpr char kCheck[] = R"js(<script>
const inside=(a,b)=>a.left>=b.left-1&&a.right<=b.right+1;
const shown=e=>e.getClientRects().length>0;
if(document.documentElement.scrollWidth>innerWidth)faults.push("wider than the window: "+document.documentElement.scrollWidth);
for(const card of document.querySelectorAll("figure,.card,.tile")){const box=card.getBoundingClientRect();
  for(const e of card.querySelectorAll("p,li,th,td,b,span,small,h4,summary,em,figcaption,svg text"))
    if(shown(e)&&!e.closest(".scroll")&&!inside(e.getBoundingClientRect(),box))faults.push("cut off: "+e.textContent);}
for(const svg of document.querySelectorAll("svg")){if(!shown(svg))continue;
  const texts=[...svg.querySelectorAll("text")].map(t=>({t,r:t.getBoundingClientRect()}));
  texts.forEach((a,i)=>texts.slice(i+1).forEach(b=>{
    const w=Math.min(a.r.right,b.r.right)-Math.max(a.r.left,b.r.left),h=Math.min(a.r.bottom,b.r.bottom)-Math.max(a.r.top,b.r.top);
    if(w>1&&h>3)faults.push("overlap in "+svg.querySelector("title").textContent+": "+a.t.textContent+" | "+b.t.textContent)}));
  for(const a of texts)if(a.r.height<8)faults.push("too small: "+a.t.textContent);}
for(const box of document.querySelectorAll(".scroll"))if(shown(box)&&box.querySelector(".bars")&&box.scrollWidth>box.clientWidth+1)
  faults.push("bars wider than their card: "+box.textContent);
const charts=[...document.querySelectorAll("svg")].filter(shown).length;
const chart=document.querySelector(".by-time svg"),line=chart.querySelector("path.line");
const [x,y]=line.getAttribute("d").slice(1).split("L").pop().split(" ").map(Number),box=chart.getBoundingClientRect();
chart.dispatchEvent(new PointerEvent("pointermove",{clientX:box.left+x*box.width/440,clientY:box.top+y*box.width/440}));
const tip=document.getElementById("tip").textContent;
document.getElementById("axis-steps").click();
const steps=[...document.querySelectorAll(".by-steps svg")].filter(shown).length;
dispatchEvent(new Event("beforeprint"));
if(document.querySelector("details:not([open])"))faults.push("not opened for a print");
dispatchEvent(new Event("afterprint"));
if(document.querySelector("details[open]"))faults.push("open after a print");
parent.postMessage("FAULTS["+faults.join("; ")+"] CHARTS["+charts+"] STEPS["+steps+"] TIP["+tip.replace(/\n/g," ")+"]","*");
</script>)js";

std::string Replaced(std::string text, const std::string& what, const std::string& by) {
  const size_t at = text.find(what);
  EXPECT_NE(at, std::string::npos) << what;
  return text.replace(at, what.size(), by);
}

// What the page tells of itself in a frame of this width.
std::string LookAt(const std::string& page, int width) {
  const std::string folder = absl::StrCat(testing::TempDir(), "/browser_test_", width);
  std::filesystem::create_directories(folder);
  std::string watched = Replaced(page, "<style>", absl::StrCat(kListen, "<style>"));
  watched = Replaced(watched, "</body>", absl::StrCat(kCheck, "</body>"));
  EXPECT_THAT(WriteFile(folder + "/page.html", watched), IsOk());
  EXPECT_THAT(
      WriteFile(folder + "/frame.html",
                absl::StrFormat("<!doctype html><pre id=said></pre><script>addEventListener('message',e=>"
                                "said.textContent=e.data)</script><iframe width=%d height=900 "
                                "style='border:0' src='page.html'></iframe>",
                                width)),
      IsOk());
  const std::string command = absl::StrFormat(
      "HOME=%s %s --headless --no-sandbox --disable-gpu --disable-dev-shm-usage --user-data-dir=%s/profile "
      "--window-size=1700,1000 --virtual-time-budget=8000 --dump-dom file://%s/frame.html 2>%s/errors",
      folder, Browser(), folder, folder, folder);
  std::FILE* pipe = popen(command.c_str(), "r");
  std::string said;
  char part[4096];
  while (const size_t count = std::fread(part, 1, sizeof(part), pipe)) said.append(part, count);
  pclose(pipe);
  return said;
}

TEST(Browser, ShowsOneRunAndSeveralAtEveryWidth) {
  if (Browser().empty()) GTEST_SKIP() << "skipped: no Chromium here (apt-get install chromium)";
  RunRecord one = MadeUpRun("a_run_with_a_name_that_is_rather_long_20260131_120000_4711", 400);
  one.facts = MadeUpFacts();
  one.verdicts = {{"scorer", "future", "holds", "24 probes"},
                  {"scorer", "files", "violated", "/data/val.bin"}};
  RunRecord other = MadeUpRun("other", 300);
  other.facts = MadeUpFacts();
  for (const int width : {400, 1000, 1600}) {
    const std::string alone = LookAt(RunPage({one}), width);
    EXPECT_THAT(alone, testing::HasSubstr("FAULTS[] CHARTS[8] STEPS[6]")) << "at width " << width;
    // The last validation, read off under the pointer.
    EXPECT_THAT(alone, testing::HasSubstr(absl::StrFormat("TIP[9:50 %.2f", MadeUpLoss(400, 400) / 2)));
    EXPECT_THAT(LookAt(RunPage({one, other}), width), testing::HasSubstr("FAULTS[] CHARTS[9] STEPS[7]"))
        << "two runs at width " << width;
  }
}

}  // namespace
}  // namespace hm11
