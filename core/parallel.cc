// ParallelFor on a pool of threads that lives as long as the process.
#include "core/parallel.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <mutex>
#include <thread>
#include <vector>

namespace hm11 {
namespace {

thread_local bool inside_parallel_for = false;

std::atomic<int> keep_awake = 0;  // ThreadsAwake there are

// Returns once done() holds, or when nobody wants threads awake any more.
template <typename Done>
void WaitAwake(Done&& done) {
  constexpr int kTriesAtOnce = 1000;  // then other processes may have the core
  while (keep_awake.load(std::memory_order_relaxed) > 0) {
    for (int i = 0; i < kTriesAtOnce; ++i) {
      if (done()) return;
#if defined(__x86_64__)
      __builtin_ia32_pause();
#endif
    }
    std::this_thread::yield();
  }
}

// Threads wait for a job, then take chunks of it by counting up; the caller takes chunks too and waits for
// the last.
class Pool {
 public:
  explicit Pool(int threads) : threads_(threads) {
    for (int i = 1; i < threads; ++i) {
      std::thread([this] { Work(); }).detach();
    }
  }

  void Run(int64_t count, int64_t chunks, RangeFunction function) {
    std::lock_guard<std::mutex> one_job_at_a_time(job_mutex_);
    {
      std::lock_guard<std::mutex> lock(mutex_);
      job_ = {.count = count, .chunks = chunks, .function = &function};
      next_chunk_ = 0;
      chunks_left_ = chunks;
      ++generation_;
    }
    // No more threads than find a chunk: to wake one takes longer than a small chunk.
    if (chunks >= threads_) {
      wake_.notify_all();
    } else {
      for (int64_t i = 1; i < chunks; ++i) wake_.notify_one();
    }
    TakeChunks();
    WaitAwake([this] { return chunks_left_ == 0 && workers_inside_ == 0; });
    std::unique_lock<std::mutex> lock(mutex_);
    done_.wait(lock, [this] { return chunks_left_ == 0 && workers_inside_ == 0; });
    job_.function = nullptr;
  }

 private:
  struct Job {
    int64_t count = 0;
    int64_t chunks = 0;
    RangeFunction* function = nullptr;
  };

  void TakeChunks() {
    inside_parallel_for = true;
    const Job job = job_;
    for (;;) {
      const int64_t chunk = next_chunk_.fetch_add(1);
      if (chunk >= job.chunks) break;
      (*job.function)(chunk * job.count / job.chunks, (chunk + 1) * job.count / job.chunks);
      std::lock_guard<std::mutex> lock(mutex_);
      --chunks_left_;
    }
    inside_parallel_for = false;
  }

  void Work() {
    int64_t seen = 0;
    for (;;) {
      WaitAwake([&] { return generation_ != seen; });
      {
        std::unique_lock<std::mutex> lock(mutex_);
        wake_.wait(lock, [&] { return generation_ != seen; });
        seen = generation_;
        if (job_.function == nullptr) continue;  // Woke after the job was done.
        ++workers_inside_;
      }
      TakeChunks();
      std::lock_guard<std::mutex> lock(mutex_);
      if (--workers_inside_ == 0 && chunks_left_ == 0) done_.notify_all();
    }
  }

  const int threads_;
  std::mutex job_mutex_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::condition_variable done_;
  Job job_;
  std::atomic<int64_t> next_chunk_ = 0;
  // Written under mutex_, read without it by those who wait awake.
  std::atomic<int64_t> chunks_left_ = 0;
  std::atomic<int> workers_inside_ = 0;
  std::atomic<int64_t> generation_ = 0;
};

}  // namespace

ThreadsAwake::ThreadsAwake() { ++keep_awake; }
ThreadsAwake::~ThreadsAwake() { --keep_awake; }

int ThreadCount() {
  static const int count = [] {
    const char* text = std::getenv("HM11_THREADS");
    const int asked = text == nullptr ? 0 : std::atoi(text);
    return asked > 0 ? asked : std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  }();
  return count;
}

int64_t ChunkCount(int64_t count, int64_t min_chunk) {
  return std::clamp<int64_t>(count / std::max<int64_t>(1, min_chunk), 1, kMaxChunks);
}

namespace parallel_internal {

void Run(int64_t count, int64_t min_chunk, RangeFunction function) {
  if (count <= 0) return;
  const int64_t chunks = ChunkCount(count, min_chunk);
  if (chunks == 1 || ThreadCount() == 1 || inside_parallel_for) {
    for (int64_t chunk = 0; chunk < chunks; ++chunk) {
      function(chunk * count / chunks, (chunk + 1) * count / chunks);
    }
    return;
  }
  static Pool* const pool = new Pool(ThreadCount());  // Never destroyed: its threads end with the process.
  pool->Run(count, chunks, function);
}

}  // namespace parallel_internal
}  // namespace hm11
