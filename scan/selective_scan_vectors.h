// The selective scan of one piece on the CPU, as templates over the width of a vector.
//
// A vector is kLanes neighbouring channels. Time is walked in chunks of kSelectiveScanChunk steps, and within
// a chunk the states in blocks of kBlock: a block's states and decays stay in registers (forward) or in L1
// (backward) while the chunk's steps go by, and what sums over states (y, and the gradients of x and of the
// step size) is a vector a step in L1. Forward costs one FastExp2 a state and step, 13 operations of
// about 17. Backward walks the chunks from last to first: it runs a block forward from the state saved at the
// chunk's beginning, keeping its 64 states and decays, and then back over them.
//
// Everything here is in an anonymous namespace: each of the two files that include this compiles its own
// copy, for its own CPU.
#ifndef HM11_SCAN_SELECTIVE_SCAN_VECTORS_H_
#define HM11_SCAN_SELECTIVE_SCAN_VECTORS_H_

#include <xmmintrin.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "core/fast_math.h"
#include "core/tensor.h"
#include "scan/selective_scan.h"
#include "scan/selective_scan_cpu.h"

namespace hm11::cpu {
namespace {

constexpr int64_t kBlock = 4;  // as many as SumFour
constexpr int64_t kSteps = kSelectiveScanChunk;

template <typename T, int kLanes>
struct VectorOf {
  typedef T Type __attribute__((vector_size(kLanes * sizeof(T))));
};

// Numbers that decay towards zero end as zero, and not as denormals that take a CPU a hundred cycles each.
class FlushDenormals {
 public:
  FlushDenormals() : saved_(_mm_getcsr()) { _mm_setcsr(saved_ | 0x8040u); }
  ~FlushDenormals() { _mm_setcsr(saved_); }
  FlushDenormals(const FlushDenormals&) = delete;
  FlushDenormals& operator=(const FlushDenormals&) = delete;

 private:
  unsigned saved_;
};

// Vectors and numbers out of one block of memory, each aligned to 64 bytes. With a null base it only counts.
class Carver {
 public:
  explicit Carver(void* base) : base_(static_cast<char*>(base)) {}
  template <typename N>
  N* Take(int64_t count) {
    N* const taken = reinterpret_cast<N*>(base_ + used_);
    used_ += (count * static_cast<int64_t>(sizeof(N)) + 63) / 64 * 64;
    return taken;
  }
  int64_t used_bytes() const { return used_; }

 private:
  char* base_;
  int64_t used_ = 0;
};

constexpr int64_t RoundUp(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

template <typename T, int kLanes>
struct Vectors {
  using V = typename VectorOf<T, kLanes>::Type;

  static V Splat(T value) { return V{} + value; }

  // The first `count` numbers from memory, zeros behind them.
  static V Load(const T* from, int64_t count) {
    if (count < kLanes) return LoadPart(from, count);
    V v;
    std::memcpy(&v, from, sizeof(v));
    return v;
  }
  static void Store(T* to, V v, int64_t count) {
    if (count < kLanes) return StorePart(to, v, count);
    std::memcpy(to, &v, sizeof(v));
  }
  // Apart, for the whole vectors to stay in registers.
  [[gnu::noinline]] static V LoadPart(const T* from, int64_t count) {
    V v = {};
    std::memcpy(&v, from, static_cast<size_t>(count) * sizeof(T));
    return v;
  }
  [[gnu::noinline]] static void StorePart(T* to, V v, int64_t count) {
    std::memcpy(to, &v, static_cast<size_t>(count) * sizeof(T));
  }

  template <typename F>
  static V Each(V v, F&& function) {
    for (int lane = 0; lane < kLanes; ++lane) v[lane] = function(v[lane]);
    return v;
  }
  static V Exp2(V x) {
    if constexpr (std::is_same_v<T, float>) return FastExp2<V>(x);
    return Each(x, [](T lane) { return FastExp2<T>(lane); });
  }
  static V Softplus(V x) {
    if constexpr (std::is_same_v<T, float>) return FastSoftplus<V>(x);
    return Each(x, [](T lane) { return FastSoftplus<T>(lane); });
  }
  static V Sigmoid(V x) {
    if constexpr (std::is_same_v<T, float>) return FastSigmoid<V>(x);
    return Each(x, [](T lane) { return FastSigmoid<T>(lane); });
  }

  // to[j] = the sum of the lanes of from[j], for four vectors at once.
  static void SumFour(const V* from, T* to) {
    using Quad = typename VectorOf<T, 4>::Type;
    Quad sums[4];
    for (int j = 0; j < 4; ++j) {
      const T* const lanes = reinterpret_cast<const T*>(from + j);
      sums[j] = Quad{};
      for (int lane = 0; lane < kLanes; lane += 4) {
        Quad quad;
        std::memcpy(&quad, lanes + lane, sizeof(quad));
        sums[j] += quad;
      }
    }
    const Quad first = __builtin_shufflevector(sums[0], sums[1], 0, 4, 1, 5) +
                       __builtin_shufflevector(sums[0], sums[1], 2, 6, 3, 7);
    const Quad second = __builtin_shufflevector(sums[2], sums[3], 0, 4, 1, 5) +
                        __builtin_shufflevector(sums[2], sums[3], 2, 6, 3, 7);
    const Quad all = __builtin_shufflevector(first, second, 0, 1, 4, 5) +
                     __builtin_shufflevector(first, second, 2, 3, 6, 7);
    std::memcpy(to, &all, sizeof(all));
  }

  // Rows of `state` numbers, one a channel, to a vector a state and back. Absent rows are zeros.
  static void LoadTransposed(const T* rows, int64_t channels, int64_t state, V* to) {
    for (int64_t n = 0; n < state; ++n) {
      V v = {};
      if (rows != nullptr) {
        for (int64_t lane = 0; lane < channels; ++lane) v[lane] = rows[lane * state + n];
      }
      to[n] = v;
    }
  }
  static void StoreTransposed(const V* from, int64_t channels, int64_t state, T* rows) {
    for (int64_t n = 0; n < state; ++n) {
      for (int64_t lane = 0; lane < channels; ++lane) rows[lane * state + n] = from[n][lane];
    }
  }
};

// One piece, and what forward and backward share of it.
template <typename T, int kLanes>
struct PieceScan {
  using L = Vectors<T, kLanes>;
  using V = typename L::V;
  static constexpr T kLog2E = static_cast<T>(1.4426950408889634);
  static constexpr T kLn2 = static_cast<T>(0.6931471805599453);

  PieceScan(const SelectiveScanArgs<T>& a, const SelectiveScanPiece& p)
      : args(a),
        piece(p),
        time(a.x.dim(1)),
        inner(a.x.dim(2)),
        state(a.a_log.dim(1)),
        padded_state(RoundUp(state, kBlock)),
        vectors(RoundUp(p.count, kLanes) / kLanes) {}

  const SelectiveScanArgs<T>& args;
  const SelectiveScanPiece piece;
  const int64_t time, inner, state, padded_state, vectors;

  int64_t channel(int64_t vector) const { return piece.first + vector * kLanes; }
  int64_t channels(int64_t vector) const { return std::min<int64_t>(kLanes, piece.count - vector * kLanes); }
  // Offset of a vector's channels in a [batch, time, inner] tensor.
  int64_t At(int64_t t, int64_t vector) const { return (piece.b * time + t) * inner + channel(vector); }
  const uint8_t* Resets(int64_t t) const {
    return args.reset.empty() ? nullptr : args.reset.data() + piece.b * time + t;
  }
  // The state that chunk `chunk` begins with.
  T* ChunkStates(int64_t chunk, int64_t vector) const {
    return args.chunk_states.data() +
           ((piece.b * SelectiveScanChunks(time) + chunk) * inner + channel(vector)) * state;
  }
  // The part of a [batch, inner, state] tensor; null where that is absent.
  T* States(T* tensor, int64_t vector) const {
    return tensor == nullptr ? nullptr : tensor + (piece.b * inner + channel(vector)) * state;
  }
  V PerChannel(const Tensor<const T>& tensor, int64_t vector) const {
    return tensor.empty() ? V{} : L::Load(tensor.data() + channel(vector), channels(vector));
  }

  // A in units of log 2, [vectors, padded_state]; zero where padded.
  void LoadDecayRates(V* rates) const {
    for (int64_t v = 0; v < vectors; ++v) {
      V* const to = rates + v * padded_state;
      std::fill_n(to, padded_state, V{});
      for (int64_t n = 0; n < state; ++n) {
        for (int64_t lane = 0; lane < channels(v); ++lane) {
          to[n][lane] = -std::exp(args.a_log[(channel(v) + lane) * state + n]) * kLog2E;
        }
      }
    }
  }
  void LoadStates(const T* tensor, V* states) const {
    for (int64_t v = 0; v < vectors; ++v) {
      V* const to = states + v * padded_state;
      std::fill_n(to, padded_state, V{});
      L::LoadTransposed(States(const_cast<T*>(tensor), v), channels(v), state, to);
    }
  }
  void StoreStates(const V* states, T* tensor) const {
    if (tensor == nullptr) return;
    for (int64_t v = 0; v < vectors; ++v) {
      L::StoreTransposed(states + v * padded_state, channels(v), state, States(tensor, v));
    }
  }

  // Rows [t, t + steps) of b or c, padded with zeros.
  void LoadRows(const Columns<const T>& rows, int64_t t, int64_t steps, T* to) const {
    for (int64_t i = 0; i < steps; ++i) {
      const T* const row = rows.row(piece.b * time + t + i);
      std::copy_n(row, state, to + i * padded_state);
      std::fill(to + i * padded_state + state, to + (i + 1) * padded_state, T{0});
    }
  }
  // delta + bias of a step, before softplus.
  V RawStep(int64_t t, int64_t vector, V bias) const {
    return L::Load(args.delta.data() + At(t, vector), channels(vector)) + bias;
  }
  // In lanes without a channel it is not zero, but nothing comes of it: x and dy are.
  V Step(V raw) const { return args.softplus ? L::Softplus(raw) : raw; }
  V X(int64_t t, int64_t vector) const { return L::Load(args.x.data() + At(t, vector), channels(vector)); }
  V Z(int64_t t, int64_t vector) const {
    return L::Load(args.z.row(piece.b * time + t) + channel(vector), channels(vector));
  }
};

template <typename T, int kLanes>
struct ForwardScan : PieceScan<T, kLanes> {
  using Base = PieceScan<T, kLanes>;
  using typename Base::L;
  using typename Base::V;

  struct Memory {
    Memory(Carver& carver, int64_t vectors, int64_t padded_state)
        : rates(carver.Take<V>(vectors * padded_state)),
          states(carver.Take<V>(vectors * padded_state)),
          step(carver.Take<V>(kSteps)),
          input(carver.Take<V>(kSteps)),
          y(carver.Take<V>(kSteps)),
          b(carver.Take<T>(kSteps * padded_state)),
          c(carver.Take<T>(kSteps * padded_state)) {}
    V *rates, *states;    // [vectors, padded_state]
    V *step, *input, *y;  // [kSteps] of one vector: step size, step size times x, the output
    T *b, *c;             // [kSteps, padded_state]
  };

  ForwardScan(const SelectiveScanArgs<T>& args, const SelectiveScanPiece& piece, Carver carver)
      : Base(args, piece), memory(carver, this->vectors, this->padded_state) {}
  Memory memory;

  static int64_t ScratchBytes(int64_t channels, int64_t state) {
    Carver carver(nullptr);
    Memory(carver, RoundUp(channels, kLanes) / kLanes, RoundUp(state, kBlock));
    return carver.used_bytes();
  }

  void Run() {
    this->LoadDecayRates(memory.rates);
    this->LoadStates(this->args.initial_state.data(), memory.states);
    for (int64_t t = 0; t < this->time; t += kSteps) {
      const int64_t steps = std::min(kSteps, this->time - t);
      this->LoadRows(this->args.b, t, steps, memory.b);
      this->LoadRows(this->args.c, t, steps, memory.c);
      for (int64_t v = 0; v < this->vectors; ++v) {
        if (!this->args.chunk_states.empty()) {
          L::StoreTransposed(memory.states + v * this->padded_state, this->channels(v), this->state,
                             this->ChunkStates(t / kSteps, v));
        }
        Begin(t, steps, v);
        for (int64_t n = 0; n < this->padded_state; n += kBlock) ScanBlock(t, steps, v, n);
        End(t, steps, v);
      }
    }
    this->StoreStates(memory.states, this->args.final_state.data());
  }

  // Asks for row t of a vector's inputs while the vector before it computes: rows are far apart in memory,
  // and a line of each is no pattern that a CPU foresees. Rows past the end are passed over.
  void FetchInputs(int64_t t, int64_t vector) const {
    if (t >= this->time) return;
    __builtin_prefetch(this->args.x.data() + this->At(t, vector));
    __builtin_prefetch(this->args.delta.data() + this->At(t, vector));
    if (!this->args.z.empty())
      __builtin_prefetch(this->args.z.row(this->piece.b * this->time + t) + this->channel(vector));
  }

  void Begin(int64_t t, int64_t steps, int64_t v) {
    const V bias = this->PerChannel(this->args.delta_bias, v);
    const V skip = this->PerChannel(this->args.d, v);
    const bool last = v + 1 == this->vectors;
    for (int64_t i = 0; i < steps; ++i) {
      const V x = this->X(t + i, v);
      memory.step[i] = this->Step(this->RawStep(t + i, v, bias));
      memory.input[i] = memory.step[i] * x;
      memory.y[i] = skip * x;
      FetchInputs(last ? t + kSteps + i : t + i, last ? 0 : v + 1);
      __builtin_prefetch(this->args.y.data() + this->At(t + i, v), /*rw=*/1);
    }
  }

  void ScanBlock(int64_t t, int64_t steps, int64_t v, int64_t n) {
    const uint8_t* const resets = this->Resets(t);
    V* const states = memory.states + v * this->padded_state + n;
    V rate[kBlock], h[kBlock];
    for (int64_t j = 0; j < kBlock; ++j) rate[j] = memory.rates[v * this->padded_state + n + j];
    for (int64_t j = 0; j < kBlock; ++j) h[j] = states[j];
    for (int64_t i = 0; i < steps; ++i) {
      const T* const b = memory.b + i * this->padded_state + n;
      const T* const c = memory.c + i * this->padded_state + n;
      const V step = memory.step[i], input = memory.input[i];
      V y = memory.y[i];
      if (resets != nullptr && resets[i] != 0) {
        for (int64_t j = 0; j < kBlock; ++j) h[j] = V{};
      }
      for (int64_t j = 0; j < kBlock; ++j) {
        h[j] = L::Exp2(step * rate[j]) * h[j] + input * b[j];
        y += h[j] * c[j];
      }
      memory.y[i] = y;
    }
    for (int64_t j = 0; j < kBlock; ++j) states[j] = h[j];
  }

  void End(int64_t t, int64_t steps, int64_t v) {
    for (int64_t i = 0; i < steps; ++i) {
      V y = memory.y[i];
      if (!this->args.z.empty()) {
        const V z = this->Z(t + i, v);
        y *= z * L::Sigmoid(z);
      }
      L::Store(this->args.y.data() + this->At(t + i, v), y, this->channels(v));
    }
  }
};

template <typename T, int kLanes>
struct BackwardScan : PieceScan<T, kLanes> {
  using Base = PieceScan<T, kLanes>;
  using typename Base::L;
  using typename Base::V;

  struct Memory {
    Memory(Carver& carver, int64_t vectors, int64_t padded_state)
        : rates(carver.Take<V>(vectors * padded_state)),
          carries(carver.Take<V>(vectors * padded_state)),
          drates(carver.Take<V>(vectors * padded_state)),
          dd(carver.Take<V>(vectors)),
          ddelta_bias(carver.Take<V>(vectors)),
          step(carver.Take<V>(kSteps)),
          input(carver.Take<V>(kSteps)),
          y(carver.Take<V>(kSteps)),
          dy(carver.Take<V>(kSteps)),
          dinput(carver.Take<V>(kSteps)),
          dstep(carver.Take<V>(kSteps)),
          start(carver.Take<V>(padded_state)),
          states(carver.Take<V>((kSteps + 1) * kBlock)),
          decays(carver.Take<V>(kSteps * kBlock)),
          db(carver.Take<V>(kSteps * padded_state)),
          dc(carver.Take<V>(kSteps * padded_state)),
          b(carver.Take<T>(kSteps * padded_state)),
          c(carver.Take<T>(kSteps * padded_state)) {}
    V* rates;             // [vectors, padded_state]
    V* carries;           // [vectors, padded_state]: the gradient of the state before the steps done so far
    V* drates;            // [vectors, padded_state]: of A
    V *dd, *ddelta_bias;  // [vectors]
    V *step, *input;      // [kSteps] of one vector, as in forward
    V* y;                 // [kSteps]: before the gate
    V* dy;                // [kSteps]: the gradient of that
    V *dinput, *dstep;    // [kSteps]
    V* start;             // [padded_state]: the states the chunk begins with
    V *states, *decays;   // [kSteps + 1, kBlock], [kSteps, kBlock]
    V *db, *dc;           // [kSteps, padded_state]: sums over the piece's vectors
    T *b, *c;             // [kSteps, padded_state]
  };

  BackwardScan(const SelectiveScanGradArgs<T>& g, const SelectiveScanPiece& piece,
               const SelectiveScanPartials<T>& p, Carver carver)
      : Base(g.forward, piece), grad(g), partials(p), memory(carver, this->vectors, this->padded_state) {}
  const SelectiveScanGradArgs<T>& grad;
  const SelectiveScanPartials<T>& partials;
  Memory memory;

  static int64_t ScratchBytes(int64_t channels, int64_t state) {
    Carver carver(nullptr);
    Memory(carver, RoundUp(channels, kLanes) / kLanes, RoundUp(state, kBlock));
    return carver.used_bytes();
  }

  void Run() {
    this->LoadDecayRates(memory.rates);
    this->LoadStates(grad.dfinal_state.data(), memory.carries);
    std::fill_n(memory.drates, this->vectors * this->padded_state, V{});
    std::fill_n(memory.dd, this->vectors, V{});
    std::fill_n(memory.ddelta_bias, this->vectors, V{});
    for (int64_t chunk = SelectiveScanChunks(this->time) - 1; chunk >= 0; --chunk) {
      const int64_t t = chunk * kSteps, steps = std::min(kSteps, this->time - t);
      this->LoadRows(this->args.b, t, steps, memory.b);
      this->LoadRows(this->args.c, t, steps, memory.c);
      std::fill_n(memory.db, steps * this->padded_state, V{});
      std::fill_n(memory.dc, steps * this->padded_state, V{});
      for (int64_t v = 0; v < this->vectors; ++v) {
        Begin(t, steps, v);
        std::fill_n(memory.start, this->padded_state, V{});
        L::LoadTransposed(this->ChunkStates(chunk, v), this->channels(v), this->state, memory.start);
        for (int64_t n = 0; n < this->padded_state; n += kBlock) {
          ScanBlock(t, steps, v, n);
          ScanBlockBack(steps, v, n);
        }
        End(t, steps, v);
      }
      SumLanes(memory.db, t, steps, partials.db);
      SumLanes(memory.dc, t, steps, partials.dc);
    }
    StoreSums();
    this->StoreStates(memory.carries, grad.dinitial_state.data());
  }

  void Begin(int64_t t, int64_t steps, int64_t v) {
    const V bias = this->PerChannel(this->args.delta_bias, v);
    const V skip = this->PerChannel(this->args.d, v);
    for (int64_t i = 0; i < steps; ++i) {
      const V x = this->X(t + i, v);
      memory.step[i] = this->Step(this->RawStep(t + i, v, bias));
      memory.input[i] = memory.step[i] * x;
      memory.y[i] = skip * x;
      V dy = L::Load(grad.dy.data() + this->At(t + i, v), this->channels(v));
      if (!this->args.z.empty()) {
        const V z = this->Z(t + i, v);
        dy *= z * L::Sigmoid(z);
      }
      __builtin_prefetch(grad.dx.data() + this->At(t + i, v), /*rw=*/1);
      __builtin_prefetch(grad.ddelta.data() + this->At(t + i, v), /*rw=*/1);
      if (!grad.dz.empty())
        __builtin_prefetch(grad.dz.row(this->piece.b * this->time + t + i) + this->channel(v), /*rw=*/1);
      memory.dy[i] = dy;
      memory.dinput[i] = V{};
      memory.dstep[i] = V{};
    }
  }

  // Forward over the chunk again, keeping states and decays. A reset is a decay of 0.
  void ScanBlock(int64_t t, int64_t steps, int64_t v, int64_t n) {
    const uint8_t* const resets = this->Resets(t);
    const bool gated = !this->args.z.empty();
    V rate[kBlock], h[kBlock];
    for (int64_t j = 0; j < kBlock; ++j) rate[j] = memory.rates[v * this->padded_state + n + j];
    for (int64_t j = 0; j < kBlock; ++j) h[j] = memory.states[j] = memory.start[n + j];
    for (int64_t i = 0; i < steps; ++i) {
      const T* const b = memory.b + i * this->padded_state + n;
      const T* const c = memory.c + i * this->padded_state + n;
      V* const decays = memory.decays + i * kBlock;
      V* const states = memory.states + (i + 1) * kBlock;
      const V step = memory.step[i], input = memory.input[i];
      if (resets != nullptr && resets[i] != 0) {
        for (int64_t j = 0; j < kBlock; ++j) {
          decays[j] = V{};
          h[j] = V{};
        }
      } else {
        for (int64_t j = 0; j < kBlock; ++j) decays[j] = L::Exp2(step * rate[j]);
      }
      for (int64_t j = 0; j < kBlock; ++j) states[j] = h[j] = decays[j] * h[j] + input * b[j];
      if (gated) {
        V y = memory.y[i];
        for (int64_t j = 0; j < kBlock; ++j) y += h[j] * c[j];
        memory.y[i] = y;
      }
    }
  }

  void ScanBlockBack(int64_t steps, int64_t v, int64_t n) {
    const V* const rate = memory.rates + v * this->padded_state + n;
    V* const carries = memory.carries + v * this->padded_state + n;
    V* const drates = memory.drates + v * this->padded_state + n;
    V carry[kBlock], drate[kBlock];
    for (int64_t j = 0; j < kBlock; ++j) carry[j] = carries[j];
    for (int64_t j = 0; j < kBlock; ++j) drate[j] = drates[j];
    for (int64_t i = steps - 1; i >= 0; --i) {
      const T* const b = memory.b + i * this->padded_state + n;
      const T* const c = memory.c + i * this->padded_state + n;
      V* const db = memory.db + i * this->padded_state + n;
      V* const dc = memory.dc + i * this->padded_state + n;
      const V* const before = memory.states + i * kBlock;
      const V* const after = before + kBlock;
      const V* const decays = memory.decays + i * kBlock;
      const V step = memory.step[i], input = memory.input[i], dy = memory.dy[i];
      V dinput = memory.dinput[i], dstep = memory.dstep[i];
      for (int64_t j = 0; j < kBlock; ++j) {
        const V dh = dy * c[j] + carry[j];
        dc[j] += dy * after[j];
        db[j] += dh * input;
        dinput += dh * b[j];
        carry[j] = dh * decays[j];
        const V dexponent = carry[j] * before[j];
        dstep += dexponent * rate[j];
        drate[j] += dexponent * step;
      }
      memory.dinput[i] = dinput;
      memory.dstep[i] = dstep;
    }
    for (int64_t j = 0; j < kBlock; ++j) carries[j] = carry[j];
    for (int64_t j = 0; j < kBlock; ++j) drates[j] = drate[j];
  }

  void End(int64_t t, int64_t steps, int64_t v) {
    const V bias = this->PerChannel(this->args.delta_bias, v);
    const V skip = this->PerChannel(this->args.d, v);
    V dd = memory.dd[v], ddelta_bias = memory.ddelta_bias[v];
    for (int64_t i = 0; i < steps; ++i) {
      const int64_t at = this->At(t + i, v), count = this->channels(v);
      const V x = this->X(t + i, v);
      L::Store(grad.dx.data() + at, memory.step[i] * memory.dinput[i] + skip * memory.dy[i], count);
      V ddelta = x * memory.dinput[i] + L::Splat(Base::kLn2) * memory.dstep[i];
      if (this->args.softplus) ddelta *= L::Sigmoid(this->RawStep(t + i, v, bias));
      L::Store(grad.ddelta.data() + at, ddelta, count);
      ddelta_bias += ddelta;
      dd += memory.dy[i] * x;
      if (!this->args.z.empty()) {
        const V z = this->Z(t + i, v), sigmoid = L::Sigmoid(z);
        const V dy = L::Load(grad.dy.data() + at, count);
        const V dz = dy * memory.y[i] * sigmoid * (T{1} + z * (T{1} - sigmoid));
        L::Store(grad.dz.row(this->piece.b * this->time + t + i) + this->channel(v), dz, count);
      }
    }
    memory.dd[v] = dd;
    memory.ddelta_bias[v] = ddelta_bias;
  }

  // The sums over channels of a chunk's db or dc.
  void SumLanes(const V* sums, int64_t t, int64_t steps, const Tensor<T>& partial) const {
    const int64_t row = (this->piece.b * partial.dim(1) + this->piece.group) * this->time + t;
    for (int64_t i = 0; i < steps; ++i) {
      T* const to = partial.data() + (row + i) * this->state;
      for (int64_t n = 0; n < this->padded_state; n += kBlock) {
        T four[kBlock];
        L::SumFour(sums + i * this->padded_state + n, four);
        std::copy_n(four, std::min(kBlock, this->state - n), to + n);
      }
    }
  }

  // dA / da_log is A itself.
  void StoreSums() {
    for (int64_t v = 0; v < this->vectors; ++v) {
      V* const drates = memory.drates + v * this->padded_state;
      const V* const rates = memory.rates + v * this->padded_state;
      for (int64_t n = 0; n < this->state; ++n) drates[n] *= rates[n] * L::Splat(Base::kLn2);
      const int64_t row = this->piece.b * this->inner + this->channel(v), count = this->channels(v);
      L::StoreTransposed(drates, count, this->state, partials.da_log.data() + row * this->state);
      L::Store(partials.dd.data() + row, memory.dd[v], count);
      L::Store(partials.ddelta_bias.data() + row, memory.ddelta_bias[v], count);
    }
  }
};

template <typename T, int kLanes>
SelectiveScanKernels<T> KernelsOf() {
  SelectiveScanKernels<T> kernels;
  kernels.forward_scratch_bytes = ForwardScan<T, kLanes>::ScratchBytes;
  kernels.backward_scratch_bytes = BackwardScan<T, kLanes>::ScratchBytes;
  kernels.forward = [](const SelectiveScanArgs<T>& args, const SelectiveScanPiece& piece, void* scratch) {
    const FlushDenormals flush;
    ForwardScan<T, kLanes>(args, piece, Carver(scratch)).Run();
  };
  kernels.backward = [](const SelectiveScanGradArgs<T>& args, const SelectiveScanPiece& piece,
                        const SelectiveScanPartials<T>& partials, void* scratch) {
    const FlushDenormals flush;
    BackwardScan<T, kLanes>(args, piece, partials, Carver(scratch)).Run();
  };
  return kernels;
}

}  // namespace
}  // namespace hm11::cpu

#endif  // HM11_SCAN_SELECTIVE_SCAN_VECTORS_H_
