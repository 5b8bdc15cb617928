// The Gloo engine: a shared library of its own, so that programs do not depend on Gloo (core/communicator.h).
#include <gloo/allreduce.h>
#include <gloo/broadcast.h>
#include <gloo/config.h>
#include <gloo/math.h>
#include <gloo/reduce.h>
#include <gloo/rendezvous/context.h>
#include <gloo/rendezvous/store.h>
#include <gloo/transport/tcp/device.h>

#include <chrono>
#include <exception>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/collective_engine.h"

namespace hm11 {
namespace {

// What Gloo's ranks tell each other to meet, through the group: each sets one key, then reads the others'.
class GroupStore : public gloo::rendezvous::Store {
 public:
  explicit GroupStore(const RankMeeting& group) : group_(group) {}

  void set(const std::string& key, const std::vector<char>& data) override {
    const std::string own = key + '\n' + std::string(data.begin(), data.end());
    for (const std::string& words : group_.all_gather(own)) {
      const size_t end = words.find('\n');
      values_[words.substr(0, end)] =
          std::vector<char>(words.begin() + static_cast<int64_t>(end) + 1, words.end());
    }
  }
  std::vector<char> get(const std::string& key) override { return values_.at(key); }
  void wait(const std::vector<std::string>&) override {}
  void wait(const std::vector<std::string>&, const std::chrono::milliseconds&) override {}

 private:
  const RankMeeting& group_;
  std::map<std::string, std::vector<char>> values_;
};

class GlooEngine : public CollectiveEngine {
 public:
  // Throws what Gloo throws.
  explicit GlooEngine(const RankMeeting& group) : group_(group) {
    gloo::transport::tcp::attr attributes;
    attributes.hostname = group.address;
    std::shared_ptr<gloo::transport::Device> device = gloo::transport::tcp::CreateDevice(attributes);
    auto context = std::make_shared<gloo::rendezvous::Context>(group.rank, group.size);
    // Who is silent is found by the group before.
    context->setTimeout(std::chrono::seconds(static_cast<int64_t>(group.seconds) + 600));
    GroupStore store(group);
    context->connectFullMesh(store, device);
    context_ = context;
  }

  std::string Name() const override { return "Gloo 0." + std::to_string(GLOO_VERSION_MINOR) + " over TCP"; }

  void AllReduce(float* data, int64_t count) override {
    Try([&] {
      gloo::AllreduceOptions options(context_);
      options.setOutput(data, static_cast<size_t>(count));
      options.setReduceFunction(&Sum);
      gloo::allreduce(options);
    });
  }

  void ReduceScatter(float* data, const int64_t* cuts) override {
    Try([&] {
      for (int r = 0; r < context_->size; ++r) {
        if (cuts[r] == cuts[r + 1]) continue;
        gloo::ReduceOptions options(context_);
        options.setOutput(data + cuts[r], static_cast<size_t>(cuts[r + 1] - cuts[r]));
        options.setRoot(r);
        options.setReduceFunction(&Sum);
        gloo::reduce(options);
      }
    });
  }

  void AllGather(char* data, const int64_t* cuts, int64_t element_bytes) override {
    Try([&] {
      for (int r = 0; r < context_->size; ++r) {
        if (cuts[r] == cuts[r + 1]) continue;
        gloo::BroadcastOptions options(context_);
        options.setOutput(data + cuts[r] * element_bytes,
                          static_cast<size_t>((cuts[r + 1] - cuts[r]) * element_bytes));
        options.setRoot(r);
        gloo::broadcast(options);
      }
    });
  }

 private:
  static void Sum(void* c, const void* a, const void* b, size_t n) { gloo::sum<float>(c, a, b, n); }

  template <typename F>
  void Try(F&& f) {
    std::string why;
    try {
      f();
      return;
    } catch (const std::exception& error) {
      why = error.what();
    }
    group_.fail("Gloo: " + why.substr(0, why.find('\n')));
  }

  const RankMeeting group_;
  std::shared_ptr<gloo::Context> context_;
};

}  // namespace
}  // namespace hm11

extern "C" hm11::CollectiveEngine* hm11_new_gloo_engine(const hm11::RankMeeting& meeting, std::string* why) {
  try {
    return new hm11::GlooEngine(meeting);
  } catch (const std::exception& error) {
    *why = error.what();
    return nullptr;
  }
}
