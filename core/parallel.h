// ParallelFor: a loop over a range on all cores of the CPU, in contiguous chunks.
//
// Chunks depend only on the range and on `min_chunk`, never on the number of threads, so a caller that keeps
// one partial sum a chunk and adds them in order gets the same bits on any machine. Nested calls run on the
// calling thread.
#ifndef HM11_CORE_PARALLEL_H_
#define HM11_CORE_PARALLEL_H_

#include <cstdint>
#include <type_traits>

namespace hm11 {

// A non-owning reference to a callable (begin, end).
class RangeFunction {
 public:
  template <typename F>
  RangeFunction(F& f)  // NOLINT: implicit on purpose
      : object_(&f), call_([](void* object, int64_t begin, int64_t end) {
          (*static_cast<std::remove_reference_t<F>*>(object))(begin, end);
        }) {}
  void operator()(int64_t begin, int64_t end) const { call_(object_, begin, end); }

 private:
  void* object_;
  void (*call_)(void*, int64_t, int64_t);
};

// How many chunks ParallelFor cuts `count` into: at most kMaxChunks, each of at least `min_chunk` indices.
int64_t ChunkCount(int64_t count, int64_t min_chunk);
inline constexpr int64_t kMaxChunks = 64;

namespace parallel_internal {
void Run(int64_t count, int64_t min_chunk, RangeFunction function);
}

// Calls function(begin, end) for the chunks of [0, count), some at once; returns when all are done. Chunk p
// of P covers [p * count / P, (p + 1) * count / P).
template <typename F>
void ParallelFor(int64_t count, int64_t min_chunk, F&& function) {
  parallel_internal::Run(count, min_chunk, RangeFunction(function));
}

// While one lives, threads of ParallelFor wait awake for the next loop, so that rows of short loops do not
// spend their time on waking threads. They take all cores meanwhile.
class ThreadsAwake {
 public:
  ThreadsAwake();
  ~ThreadsAwake();
  ThreadsAwake(const ThreadsAwake&) = delete;
  ThreadsAwake& operator=(const ThreadsAwake&) = delete;
};

// Cores in use: the machine's, or HM11_THREADS when that is set.
int ThreadCount();

}  // namespace hm11

#endif  // HM11_CORE_PARALLEL_H_
