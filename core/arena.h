// Arena: memory on one device, handed out by bumping a pointer and given back all at once, or back to a mark.
//
// Every op and layer takes an Arena: it names the device to run on and is where outputs and scratch come
// from. Scratch is taken under a Scope, so its bytes are reused by whatever comes next; on a GPU that is safe
// because one stream runs everything in order. On the plan device tensors are null and high_water_bytes() is
// the memory a run would take.
//
//   HM_ASSIGN_OR_RETURN(Arena arena, Arena::Reserve(device, bytes, "training"));
//   const Tensor<float> kept = arena.New<float>({rows, dim});
//   {
//     Arena::Scope scope(arena);
//     const Tensor<float> scratch = arena.New<float>({rows});
//     ...
//   }  // From here on the bytes of `scratch` are free, those of `kept` are not.
#ifndef HM11_CORE_ARENA_H_
#define HM11_CORE_ARENA_H_

#include <cstdint>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/check.h"
#include "core/device.h"
#include "core/tensor.h"

namespace hm11 {

class Arena {
 public:
  static constexpr int64_t kAlignment = 256;

  // On the CPU `capacity_bytes` is only address space: pages come when touched. On a GPU it is taken at once.
  // It is fatal when there is not so much: plan first, or Reserve.
  Arena(Device device, int64_t capacity_bytes);
  // ResourceExhausted names `what` the memory is for, its bytes and those there are.
  static absl::StatusOr<Arena> Reserve(Device device, int64_t capacity_bytes, absl::string_view what);
  ~Arena();
  Arena(Arena&& other) noexcept;
  Arena& operator=(Arena&&) = delete;

  // For tests: more address space than any of them takes, and no more than sanitizers leave.
  static Arena Cpu() { return Arena(Device::Cpu(), int64_t{1} << 35); }
  // Counts what the same calls would take on a GPU, or on what `of` is or plans for.
  static Arena Plan() { return Plan(Device::Plan()); }
  static Arena Plan(const Device& of) { return Arena(Device::Plan(of), int64_t{1} << 60); }

  const Device& device() const { return device_; }

  // Uninitialized (in debug builds on the CPU: filled with NaN bytes). Fatal when the arena is full.
  template <typename T>
  Tensor<T> New(Shape shape) {
    return Tensor<T>(static_cast<T*>(Take(shape.size() * static_cast<int64_t>(sizeof(T)))), shape);
  }
  template <typename T>
  Tensor<T> NewZero(Shape shape) {
    Tensor<T> tensor = New<T>(shape);
    if (!device_.is_plan()) device_.Zero(tensor.data(), tensor.size_bytes());
    return tensor;
  }

  void Reset() { used_ = 0; }
  int64_t used_bytes() const { return used_; }
  int64_t high_water_bytes() const { return high_water_; }

  // Gives back, when it ends, whatever was taken since it began.
  class Scope {
   public:
    explicit Scope(Arena& arena) : arena_(arena), mark_(arena.used_) {}
    ~Scope() { arena_.used_ = mark_; }
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    Arena& arena_;
    int64_t mark_;
  };

  // Ops that take the arena run on `queue`, another queue of its device (core/step_graph.h: Fork), as long as
  // this lives. What they took may be given back only behind what joins the queues.
  class OnQueue {
   public:
    OnQueue(Arena& arena, const Device& queue) : arena_(arena), before_(arena.device_) {
      arena.device_ = queue;
    }
    ~OnQueue() { arena_.device_ = before_; }
    OnQueue(const OnQueue&) = delete;
    OnQueue& operator=(const OnQueue&) = delete;

   private:
    Arena& arena_;
    const Device before_;
  };

 private:
  void* Take(int64_t size_bytes);

  Device device_;
  char* base_ = nullptr;
  int64_t capacity_ = 0;
  int64_t used_ = 0;
  int64_t high_water_ = 0;
};

}  // namespace hm11

#endif  // HM11_CORE_ARENA_H_
