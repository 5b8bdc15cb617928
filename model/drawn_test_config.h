// A small model of any shape, for tests: every switch drawn.
#ifndef HM11_MODEL_DRAWN_TEST_CONFIG_H_
#define HM11_MODEL_DRAWN_TEST_CONFIG_H_

#include <rapidcheck.h>

#include <string>

#include "model/config.h"

namespace hm11 {

// Valid; a draw that would not be is discarded. At most four layers, 32 channels, and fewer than 30 pieces.
inline ModelConfig DrawnConfig(int64_t least_vocab = 2) {
  ModelConfig config;
  config.layers = *rc::gen::container<std::string>(*rc::gen::inRange(1, 5), rc::gen::element('M', 'A'));
  config.vocab = *rc::gen::inRange<int64_t>(least_vocab, 30);
  config.heads = *rc::gen::element(1, 2, 4);
  config.kv_heads = config.heads / *rc::gen::element<int64_t>(1, config.heads);
  config.dim = config.heads * *rc::gen::element(4, 6, 8);
  config.mlp_width = *rc::gen::inRange(1, 12);
  config.state = *rc::gen::inRange(1, 5);
  config.conv_width = *rc::gen::inRange(1, 5);
  config.expand = *rc::gen::inRange(1, 3);
  config.dt_rank = *rc::gen::inRange(1, 4);
  config.tied_embeddings = *rc::gen::arbitrary<bool>();
  config.rope_dims = 4;
  config.rope_length = *rc::gen::inRange(1, 12);
  config.bigram_rows = *rc::gen::element(0, 2, 7);
  config.bigram_dim = 3;
  config.value_embedding_layers = *rc::gen::inRange(0, 3);
  config.value_embedding_dim = 3;
  config.xsa_layers = *rc::gen::inRange(0, 4);
  config.layer_norm_scale = *rc::gen::arbitrary<bool>();
  config.gated_attention = *rc::gen::arbitrary<bool>();
  config.value_residual = *rc::gen::arbitrary<bool>();
  config.token_gate = *rc::gen::arbitrary<bool>();
  config.mtp_heads = *rc::gen::inRange(0, 3);
  config.parallel_layers = *rc::gen::inRange(0, 4);
  config.loop_passes = *rc::gen::inRange(1, 4);
  config.loop_first = *rc::gen::inRange<int64_t>(0, config.layer_count());
  config.loop_last = *rc::gen::inRange<int64_t>(config.loop_first, config.layer_count());
  RC_PRE(config.Validate().ok());
  return config;
}

}  // namespace hm11

#endif  // HM11_MODEL_DRAWN_TEST_CONFIG_H_
