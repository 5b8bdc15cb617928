// MambaMixer: five ops forward, the same five backward.
#include "model/mamba_mixer.h"

#include "ops/causal_conv.h"
#include "ops/matmul.h"
#include "ops/thin_product.h"

namespace hm11 {
namespace {

// The three parts of dbc: the low-rank step size, B and C.
template <typename T>
struct Parts {
  Parts(const ModelConfig& config, Columns<T> dbc)
      : step(dbc.Range(0, config.dt_rank)),
        b(dbc.Range(config.dt_rank, config.state)),
        c(dbc.Range(config.dt_rank + config.state, config.state)) {}
  Columns<T> step, b, c;
};

template <typename T, typename W>
SelectiveScanArgs<T> ScanArgs(const ModelConfig& config, const MambaWeights<W>& weights,
                              const MambaSaved<T>& saved) {
  const int64_t inner = config.inner();
  const Parts<T> parts(config, saved.dbc);
  SelectiveScanArgs<T> args;
  args.x = saved.conv;
  args.delta = saved.delta;
  args.delta_bias = weights.dt_bias;
  args.a_log = weights.a_log;
  args.b = parts.b;
  args.c = parts.c;
  args.d = weights.d;
  args.z = Columns<T>(saved.xz).Range(inner, inner);
  args.y = saved.y;
  args.saved = saved.scan;
  return args;
}

template <typename T, typename W>
CausalConvArgs<T> ConvArgs(const ModelConfig& config, const MambaWeights<W>& weights, int64_t batch,
                           int64_t time, const MambaSaved<T>& saved) {
  CausalConvArgs<T> args;
  args.batch = batch;
  args.time = time;
  args.x = Columns<T>(saved.xz).Range(0, config.inner());
  args.weight = weights.conv_weight;
  args.bias = weights.conv_bias;
  args.y = saved.conv;
  return args;
}

template <typename T>
void ConvBackward(Arena& arena, const ModelConfig& config, const MambaGradArgs<T>& args,
                  Tensor<const T> dconv, Columns<T> dx) {
  CausalConvGradArgs<T> conv;
  conv.forward = ConvArgs(config, args.weights, dconv.dim(0), dconv.dim(1), args.saved);
  conv.dy = dconv;
  conv.dx = dx;
  conv.dweight = args.grad.conv_weight;
  conv.dbias = args.grad.conv_bias;
  CausalConvBackward<T>(arena, conv);
}

}  // namespace

template <typename T>
MambaState<T> NewMambaState(Arena& arena, const ModelConfig& config) {
  return {.scan = arena.New<Accum<T>>({1, config.inner(), config.state}),
          .tail = arena.New<T>({1, config.conv_width - 1, config.inner()})};
}

template <typename T, typename W>
void MambaForward(Arena& arena, const ModelConfig& config, const MambaArgs<T, W>& args,
                  MambaSaved<T>* saved) {
  const MambaWeights<W>& weights = args.weights;
  const int64_t batch = args.batch, time = args.time, rows = batch * time, inner = config.inner();
  saved->xz = arena.New<T>({rows, 2 * inner});
  saved->conv = arena.New<T>({batch, time, inner});
  saved->dbc = arena.New<T>({rows, config.dt_rank + 2 * config.state});
  saved->delta = arena.New<T>({batch, time, inner});
  saved->y = arena.New<T>({batch, time, inner});
  if (args.keep) saved->scan = NewSelectiveScanSaved<T>(arena, ScanArgs(config, weights, *saved));

  MatmulForward<T, W>(arena,
                      {.x = args.input, .weight = weights.in_proj, .y = saved->xz, .in8 = args.input8});
  CausalConvArgs<T> conv = ConvArgs(config, weights, batch, time, *saved);
  if (args.before != nullptr) conv.tail = args.before->tail;
  if (args.after != nullptr) conv.final_tail = args.after->tail;
  CausalConvForward<T>(arena, conv);
  MatmulForward<T, W>(arena, {.x = saved->conv, .weight = weights.x_proj, .y = saved->dbc});
  const Parts<T> parts(config, saved->dbc);
  MatmulForward<T, W>(arena, {.x = parts.step, .weight = weights.dt_proj, .y = saved->delta});
  SelectiveScanArgs<T> scan = ScanArgs(config, weights, *saved);
  if (args.before != nullptr) scan.initial_state = args.before->scan;
  if (args.after != nullptr) scan.final_state = args.after->scan;
  SelectiveScanForward<T>(arena, scan);
  MatmulThenResidualNorm<T, W>(
      arena, {.x = saved->y.Reshaped({rows, inner}), .weight = weights.out_proj, .step = args.step});
}

template <typename T>
void MambaBackward(Arena& arena, const ModelConfig& config, const MambaGradArgs<T>& args) {
  Arena::Scope scope(arena);
  const MambaWeights<T>& weights = args.weights;
  const MambaSaved<T>& saved = args.saved;
  MambaWeights<Accum<T>>& grad = args.grad;
  const Shape inner_shape = saved.y.shape();
  const int64_t rows = args.input.dim(0), inner = config.inner();
  const Tensor<T> dy = arena.New<T>(inner_shape), dxz = arena.New<T>({rows, 2 * inner});
  const Tensor<T> dconv = arena.New<T>(inner_shape), ddbc = arena.New<T>(saved.dbc.shape());
  const Tensor<T> ddelta = arena.New<T>(inner_shape);
  const Parts<T> parts(config, saved.dbc), dparts(config, ddbc);

  ScaledMatmulBackward<T>(arena, {.dy = args.doutput,
                                  .x = saved.y.Reshaped({rows, inner}),
                                  .weight = weights.out_proj,
                                  .columns = args.output_scale,
                                  .dx = dy.Reshaped({rows, inner}),
                                  .dweight = grad.out_proj});
  SelectiveScanGradArgs<T> scan;
  scan.forward = ScanArgs(config, weights, saved);
  scan.dy = dy;
  scan.dx = dconv;
  scan.ddelta = ddelta;
  scan.db = dparts.b;
  scan.dc = dparts.c;
  scan.dz = Columns<T>(dxz).Range(inner, inner);
  scan.da_log = grad.a_log;
  scan.dd = grad.d;
  scan.ddelta_bias = grad.dt_bias;
  SelectiveScanBackward<T>(arena, scan);
  ThinMatmulBackward<T>(
      arena,
      {.dy = ddelta, .x = parts.step, .weight = weights.dt_proj, .dx = dparts.step, .dweight = grad.dt_proj});
  ThinMatmulBackward<T>(arena, {.dy = ddbc,
                                .x = saved.conv,
                                .weight = weights.x_proj,
                                .dx = dconv,
                                .add_to_dx = true,
                                .dweight = grad.x_proj});
  ConvBackward<T>(arena, config, args, dconv, Columns<T>(dxz).Range(0, inner));
  MatmulBackwardInto<T>(
      arena, {.dy = dxz, .x = args.input, .weight = weights.in_proj, .dweight = grad.in_proj}, args.dinput);
}

#define HM11_INSTANTIATE(T)                                                                          \
  template MambaState<T> NewMambaState<T>(Arena&, const ModelConfig&);                               \
  template void MambaForward<T, T>(Arena&, const ModelConfig&, const MambaArgs<T>&, MambaSaved<T>*); \
  template void MambaBackward<T>(Arena&, const ModelConfig&, const MambaGradArgs<T>&);
HM11_INSTANTIATE(double)
HM11_INSTANTIATE(float)
HM11_INSTANTIATE(Bf16)
#undef HM11_INSTANTIATE
template void MambaForward<float, Fp16>(Arena&, const ModelConfig&, const MambaArgs<float, Fp16>&,
                                        MambaSaved<float>*);

}  // namespace hm11
