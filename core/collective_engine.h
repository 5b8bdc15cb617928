// CollectiveEngine: what moves numbers between ranks; NCCL on GPUs, Gloo on CPUs. Used by Communicator alone.
//
// Collective: all ranks make the same calls in the same order. A call that fails does not return: it hands
// the reason to RankGroup::Fail.
#ifndef HM11_CORE_COLLECTIVE_ENGINE_H_
#define HM11_CORE_COLLECTIVE_ENGINE_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace hm11 {

class CollectiveEngine {
 public:
  virtual ~CollectiveEngine() = default;
  virtual std::string Name() const = 0;  // with its version

  // data[i] becomes the sum over ranks, the same bits everywhere.
  virtual void AllReduce(float* data, int64_t count) = 0;
  // The sums of data [cuts[r], cuts[r + 1]) go to rank r; of the rest it keeps nothing that means anything.
  virtual void ReduceScatter(float* data, const int64_t* cuts) = 0;
  // data [cuts[r], cuts[r + 1]) x element_bytes comes from rank r.
  virtual void AllGather(char* data, const int64_t* cuts, int64_t element_bytes) = 0;
};

// What an engine in a library of its own knows of a RankGroup: the standard library's types only.
struct RankMeeting {
  int rank = 0;
  int size = 1;
  std::string address;  // of this host
  double seconds = 0;   // that ranks wait for each other
  std::function<std::vector<std::string>(const std::string&)> all_gather;
  std::function<void(const std::string&)> fail;  // does not return
};

// What the library of core/gloo_engine.cc is entered by. Null, and why, when there is no connection.
using NewGlooEngineFunction = CollectiveEngine*(const RankMeeting& meeting, std::string* why);
inline constexpr char kNewGlooEngine[] = "hm11_new_gloo_engine";

}  // namespace hm11

#endif  // HM11_CORE_COLLECTIVE_ENGINE_H_
