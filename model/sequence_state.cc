// SequenceState: its memory, and rows copied between chunks and windows.
#include "model/sequence_state.h"

namespace hm11 {
namespace {

// `shape` with another first extent.
Shape WithRows(const Shape& shape, int64_t rows) {
  HM_CHECK(shape.rank() == 1 || shape.rank() == 2);
  return shape.rank() == 1 ? Shape{rows} : Shape{rows, shape[1]};
}

template <typename N>
void Copy(Arena& arena, Tensor<N> from, Tensor<N> to) {
  HM_CHECK_EQ(from.shape(), to.shape());
  arena.device().CopyOnDevice(to.data(), from.data(), to.size_bytes());
}

template <typename F>
void ForEachAttentionVisit(const ModelConfig& config, F&& function) {
  for (int64_t visit = 0; visit < config.visit_count(); ++visit) {
    if (!config.is_mamba(config.layer_of(visit))) function(static_cast<size_t>(visit));
  }
}

// All of a state but what attention keeps.
template <typename T>
SequenceState<T> StateOfRecurrences(Arena& arena, const ModelConfig& config, int64_t capacity) {
  HM_CHECK_GE(capacity, 1);
  SequenceState<T> state;
  state.ids = arena.New<int32_t>({capacity});
  state.embedding = arena.New<T>({1, config.dim});
  state.mamba.resize(static_cast<size_t>(config.visit_count()));
  for (int64_t visit = 0; visit < config.visit_count(); ++visit) {
    if (config.is_mamba(config.layer_of(visit))) {
      state.mamba[static_cast<size_t>(visit)] = NewMambaState<T>(arena, config);
    }
  }
  return state;
}

}  // namespace

template <typename T>
SequenceState<T> NewSequenceState(Arena& arena, const ModelConfig& config, int64_t capacity) {
  SequenceState<T> state = StateOfRecurrences<T>(arena, config, capacity);
  state.qkv.resize(state.mamba.size());
  ForEachAttentionVisit(config, [&](size_t visit) {
    state.qkv[visit] = arena.New<T>({capacity, config.dim + 2 * config.kv_dim()});
  });
  return state;
}

template <typename T>
SequenceState<T> NewStepState(Arena& arena, const ModelConfig& config, int64_t window) {
  HM_CHECK_GE(window, 1);
  SequenceState<T> state = StateOfRecurrences<T>(arena, config, 1);
  state.windows = {.context = 0, .fresh = 1, .rope_length = window};
  state.place = arena.New<int32_t>({1});
  state.rings.resize(state.mamba.size());
  ForEachAttentionVisit(config, [&](size_t visit) {
    AttentionRing<T>& ring = state.rings[visit];
    for (Tensor<T>* tensor : {&ring.keys, &ring.values}) {
      *tensor = arena.New<T>({window, config.kv_heads, config.head_dim()});
    }
  });
  return state;
}

template <typename T>
int64_t SequenceStateBytes(const ModelConfig& config, int64_t capacity) {
  Arena plan = Arena::Plan();
  NewSequenceState<T>(plan, config, capacity);
  return plan.high_water_bytes();
}

template <typename N>
Tensor<N> NewAfterKept(Arena& arena, Tensor<N> old, int64_t kept, int64_t rows) {
  const Tensor<N> joined = arena.New<N>(WithRows(old.shape(), kept + rows));
  Copy(arena, old.Slice(0, kept), joined.Slice(0, kept));
  return joined;
}

template <typename N>
void KeepLast(Arena& arena, Tensor<N> joined, Tensor<N> old) {
  const int64_t count = std::min(joined.dim(0), old.dim(0));
  Copy(arena, joined.Slice(joined.dim(0) - count, count), old.Slice(0, count));
}

template <typename N>
Tensor<N> RowsOfWindows(Arena& arena, const AttentionWindows& windows, Tensor<N> joined) {
  const int64_t length = windows.length(), first = joined.dim(0) - windows.tokens() - windows.context;
  HM_CHECK_GE(first, 0);
  if (windows.count == 1) return joined.Slice(first, length);
  const Tensor<N> rows = arena.New<N>(WithRows(joined.shape(), windows.count * length));
  for (int64_t w = 0; w < windows.count; ++w) {
    Copy(arena, joined.Slice(first + w * windows.fresh, length), rows.Slice(w * length, length));
  }
  return rows;
}

template <typename N>
Tensor<N> FreshRows(Arena& arena, const AttentionWindows& windows, Tensor<N> rows) {
  HM_CHECK_EQ(rows.rank(), 4);
  HM_CHECK_EQ(rows.dim(0), windows.count);
  HM_CHECK_EQ(rows.dim(1), windows.length());
  if (windows.context == 0) return rows.Reshaped({1, windows.tokens(), rows.dim(2), rows.dim(3)});
  const int64_t columns = rows.dim(2) * rows.dim(3);
  const Tensor<N> all = rows.Reshaped({windows.count * windows.length(), columns});
  Tensor<N> fresh = all.Slice(windows.context, windows.fresh);
  if (windows.count > 1) {
    fresh = arena.New<N>({windows.tokens(), columns});
    for (int64_t w = 0; w < windows.count; ++w) {
      Copy(arena, all.Slice(w * windows.length() + windows.context, windows.fresh),
           fresh.Slice(w * windows.fresh, windows.fresh));
    }
  }
  return fresh.Reshaped({1, windows.tokens(), rows.dim(2), rows.dim(3)});
}

template Tensor<int32_t> NewAfterKept<int32_t>(Arena&, Tensor<int32_t>, int64_t, int64_t);
template void KeepLast<int32_t>(Arena&, Tensor<int32_t>, Tensor<int32_t>);
template Tensor<int32_t> RowsOfWindows<int32_t>(Arena&, const AttentionWindows&, Tensor<int32_t>);

#define HM11_INSTANTIATE(T)                                                           \
  template SequenceState<T> NewSequenceState<T>(Arena&, const ModelConfig&, int64_t); \
  template SequenceState<T> NewStepState<T>(Arena&, const ModelConfig&, int64_t);     \
  template int64_t SequenceStateBytes<T>(const ModelConfig&, int64_t);                \
  template Tensor<T> NewAfterKept<T>(Arena&, Tensor<T>, int64_t, int64_t);            \
  template void KeepLast<T>(Arena&, Tensor<T>, Tensor<T>);                            \
  template Tensor<T> RowsOfWindows<T>(Arena&, const AttentionWindows&, Tensor<T>);    \
  template Tensor<T> FreshRows<T>(Arena&, const AttentionWindows&, Tensor<T>);
HM11_INSTANTIATE(double)
HM11_INSTANTIATE(float)
HM11_INSTANTIATE(Bf16)
#undef HM11_INSTANTIATE

}  // namespace hm11
