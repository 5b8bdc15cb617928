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

// Threads wait for a job, then take pieces of it by counting up; the caller takes pieces too and waits for
// the last.
class Pool {
 public:
  explicit Pool(int threads) : threads_(threads) {
    for (int i = 1; i < threads; ++i) {
      std::thread([this] { Work(); }).detach();
    }
  }

  void Run(int64_t count, int64_t pieces, RangeFunction function) {
    std::lock_guard<std::mutex> one_job_at_a_time(job_mutex_);
    {
      std::lock_guard<std::mutex> lock(mutex_);
      job_ = {.count = count, .pieces = pieces, .function = &function};
      next_piece_ = 0;
      pieces_left_ = pieces;
      ++generation_;
    }
    // No more threads than find a piece: to wake one takes longer than a small piece.
    if (pieces >= threads_) {
      wake_.notify_all();
    } else {
      for (int64_t i = 1; i < pieces; ++i) wake_.notify_one();
    }
    TakePieces();
    WaitAwake([this] { return pieces_left_ == 0 && workers_inside_ == 0; });
    std::unique_lock<std::mutex> lock(mutex_);
    done_.wait(lock, [this] { return pieces_left_ == 0 && workers_inside_ == 0; });
    job_.function = nullptr;
  }

 private:
  struct Job {
    int64_t count = 0;
    int64_t pieces = 0;
    RangeFunction* function = nullptr;
  };

  void TakePieces() {
    inside_parallel_for = true;
    const Job job = job_;
    for (;;) {
      const int64_t piece = next_piece_.fetch_add(1);
      if (piece >= job.pieces) break;
      (*job.function)(piece * job.count / job.pieces, (piece + 1) * job.count / job.pieces);
      std::lock_guard<std::mutex> lock(mutex_);
      --pieces_left_;
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
      TakePieces();
      std::lock_guard<std::mutex> lock(mutex_);
      if (--workers_inside_ == 0 && pieces_left_ == 0) done_.notify_all();
    }
  }

  const int threads_;
  std::mutex job_mutex_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::condition_variable done_;
  Job job_;
  std::atomic<int64_t> next_piece_ = 0;
  // Written under mutex_, read without it by those who wait awake.
  std::atomic<int64_t> pieces_left_ = 0;
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

int64_t PieceCount(int64_t count, int64_t min_piece) {
  return std::clamp<int64_t>(count / std::max<int64_t>(1, min_piece), 1, kMaxPieces);
}

namespace parallel_internal {

void Run(int64_t count, int64_t min_piece, RangeFunction function) {
  if (count <= 0) return;
  const int64_t pieces = PieceCount(count, min_piece);
  if (pieces == 1 || ThreadCount() == 1 || inside_parallel_for) {
    for (int64_t piece = 0; piece < pieces; ++piece) {
      function(piece * count / pieces, (piece + 1) * count / pieces);
    }
    return;
  }
  static Pool* const pool = new Pool(ThreadCount());  // Never destroyed: its threads end with the process.
  pool->Run(count, pieces, function);
}

}  // namespace parallel_internal
}  // namespace hm11
