// The settings of a run: their meanings and their table.
#include "train/settings.h"

#include <map>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "core/fields.h"
#include "train/config.h"

namespace hm11 {
namespace {

// By name.
std::map<std::string, std::string> ValuesOf(const RunConfig& config) {
  std::map<std::string, std::string> values;
  for (const absl::string_view line : absl::StrSplit(FormatFields(config), '\n', absl::SkipEmpty())) {
    const size_t equals = line.find('=');
    values[std::string(line.substr(0, equals))] = std::string(line.substr(equals + 1));
  }
  return values;
}

// By the first setting under each.
const std::map<std::string, std::string>& Headings() {
  static const auto* const headings = new std::map<std::string, std::string>{{"preset", "The run"},
                                                                             {"layers", "The model"},
                                                                             {"muon_lr", "The optimizer"},
                                                                             {"max_steps", "The schedule"},
                                                                             {"scheme", "The quantizer"}};
  return *headings;
}

std::string Code(const std::string& value) { return value.empty() ? "none" : absl::StrCat("`", value, "`"); }

}  // namespace

const std::vector<std::pair<std::string, std::string>>& SettingMeanings() {
  static const auto* const meanings = new std::vector<std::pair<std::string, std::string>>{
      {"preset", "the preset that the other settings started from"},
      {"seed", "of initial weights and of everything drawn"},
      {"sequence", "tokens of a training sequence, and of an evaluation window"},
      {"sequence_stages",
       "shorter sequences first, TOKENS:SHARE+...: so many tokens until that share of the run"},
      {"loop_from", "share of the run from which layers loop, where the model has loops"},
      {"shuffle", "sequences in another order in each epoch; false: as they stand"},
      {"batch_tokens", "tokens of a step, over all micro-batches and ranks"},
      {"micro_batch_tokens", "tokens of a forward and backward pass; 0: the most that fits in memory"},
      {"fp8",
       "the first product of each mixer and all of the MLPs', gradients too, are of 8-bit numbers on compute "
       "capability 9.0"},
      {"input_mask", "share of the input tokens hidden once text is read again"},
      {"warmup_steps", "steps run first and undone, to load kernels and choose algorithms"},
      {"log_every", "steps between lines of the log"},
      {"validation_seconds", "seconds of training between validations; 0: only at the end"},
      {"validation_tokens", "validation tokens read at most while training; 0: all"},
      {"checkpoint_seconds", "seconds of training between checkpoints; 0: only at the end"},
      {"export_average", "export the moving average, not the last weights"},
      {"swa_every", "steps between snapshots averaged while the rate is under swa_lr_scale; 0: off"},
      {"swa_lr_scale", "share of the peak learning rate under which swa_every takes snapshots"},
      {"lawa_snapshots", "export the mean of the last so many snapshots; 0: off"},
      {"lawa_every", "steps between those snapshots"},
      {"calibration_tokens", "tokens of training text that quantization is fitted to; 0: none"},
      {"calibration_gradient_tokens",
       "of them, tokens that quantization steps are shared out by; 0: by deviations alone"},
      {"calibration_seconds", "seconds kept back for calibration from the time limit"},
      {"sample_tokens", "tokens of generated text shown at the end; 0: none"},
      {"report_tokens", "validation tokens that the page's scores are of at most; 0: none"},
      {"layers", "a letter a layer: M Mamba, A attention"},
      {"vocab", "pieces of the tokenizer"},
      {"dim", "width of the residual stream"},
      {"heads", "query heads of an attention layer"},
      {"kv_heads", "key and value heads, each shared by heads / kv_heads query heads"},
      {"mlp_width", "inner width of every layer's MLP"},
      {"state", "states a Mamba channel"},
      {"conv_width", "taps of a Mamba layer's convolution"},
      {"expand", "a Mamba layer's inner width in multiples of dim"},
      {"dt_rank", "rank of a Mamba layer's step-size projection"},
      {"tied_embeddings", "the output head is the token embedding"},
      {"soft_cap", "logits are soft_cap tanh(logits / soft_cap)"},
      {"rope_dims", "channels of a head that RoPE turns"},
      {"rope_base", "base of RoPE's angles"},
      {"rope_length", "tokens; sequences longer than this get a larger base"},
      {"q_gain_init", "initial gain of queries"},
      {"bigram_rows", "rows of the hashed bigram table; 0: none"},
      {"bigram_dim", "width of that table"},
      {"value_embedding_layers", "the last so many attention layers get value embeddings; 0: none"},
      {"value_embedding_dim", "width of the value embeddings' table"},
      {"xsa_layers", "attention layers among the last so many layers use exclusive attention"},
      {"layer_norm_scale", "norms are scaled by 1 / sqrt(layer + 1)"},
      {"embedding_init_std", "standard deviation of initial embeddings"},
      {"zero_init_outputs",
       "Mamba layers' output and MLPs' second matrix start at zero, as attention's output does"},
      {"gated_attention", "a gate on each attention head's output"},
      {"value_residual", "later attention layers mix in the first one's values"},
      {"token_gate", "dynamic token gating of attention layers"},
      {"loop_first", "first layer, from 0, of those that run loop_passes times"},
      {"loop_last", "last layer of those"},
      {"loop_passes", "times that they run, one pass after the other; 1: every layer runs once"},
      {"parallel_layers", "in the last so many layers mixer and MLP read the same norm"},
      {"skip_mix_init", "initial weight of the residual stream in layers that a U-Net skip joins"},
      {"mtp_heads", "multi-token-prediction heads, dropped on export"},
      {"mtp_weight", "weight of those heads' losses"},
      {"muon_lr", "peak learning rate of matrices in Muon"},
      {"embedding_lr", "peak learning rate of token, bigram and value tables, in AdamW"},
      {"control_lr", "peak learning rate of everything that is neither in Muon nor a table, in AdamW"},
      {"head_lr", "peak learning rate of an untied output head and multi-token heads, in AdamW"},
      {"muon_weight_decay", "weight decay of matrices in Muon"},
      {"adam_weight_decay", "weight decay in AdamW but for tables"},
      {"embedding_weight_decay", "weight decay of the tables"},
      {"decay_controls", "whether weight decay reaches vectors and scalars"},
      {"muon_on_mamba", "Mamba matrices and their MLPs in Muon; false: in AdamW at control_lr"},
      {"muon_on_small", "bigram and value projections in Muon"},
      {"beta1", "AdamW's decay of the first moment"},
      {"beta2", "AdamW's decay of the second moment"},
      {"epsilon", "AdamW's epsilon"},
      {"clip", "largest norm of the whole gradient; 0: no clipping"},
      {"newton_schulz_steps", "iterations of Newton-Schulz in Muon"},
      {"newton_schulz_bf16", "in 16 bits on a GPU; the CPU computes in float"},
      {"polar_express", "the polynomials of Polar Express in Newton-Schulz"},
      {"muon_equal_rows", "rows of a direction get one norm before it is orthogonalized"},
      {"max_steps", "steps of the run at most"},
      {"time_limit_seconds", "seconds of training at most, validation not counted; 0: no limit"},
      {"warmup_fraction", "share of the run in which the learning rate rises from 0"},
      {"warmdown_fraction", "share of the run, at its end, in which it falls linearly"},
      {"final_lr_scale", "share of the peak that it falls to"},
      {"momentum_start", "Muon's momentum at first"},
      {"momentum_end", "Muon's momentum after its warm-up"},
      {"momentum_warmup_fraction", "share of the run in which it goes there"},
      {"average_decay", "decay a step of the moving average of the weights; 0: none"},
      {"average_start_fraction", "share of the run before which the average follows the weights"},
      {"published_schedule", "the published recipe's schedule, in steps"},
      {"published_warmdown_steps", "steps over which that schedule's rate falls"},
      {"published_momentum_steps", "steps over which its momentum rises"},
      {"scheme",
       "sigma: steps scaled together until the artifact fits; published: the reference's clip search"},
      {"coder", "of the codes: range, lzma, or smallest, which tries both"},
      {"matrix_bits", "bits of large matrices' codes: of 6 bits are -31..31"},
      {"sigma_k", "standard deviations that the largest code of matrix_bits stands for"},
      {"embedding_bits", "bits of large tables' codes"},
      {"embedding_k", "standard deviations that their largest code stands for"},
      {"max_bits", "bits that a matrix gets at most whose clipped outliers would cost much"},
      {"sensitivity", "0 to 1: how far steps follow what errors cost the loss, matrix by matrix"},
      {"row_sensitivity", "0 to 1: the same row by row"},
      {"column_steps", "0 to 1: the same column by column"},
      {"rate_lambda", "squared steps of rounding error that a bit saved is worth; 0: round to nearest"},
      {"hessian_damping", "added to Hessians' diagonals, in their means"},
      {"embedding_identity", "share of a multiple of the identity in the Hessians of tables"},
      {"small_elements", "tensors of at most so many numbers are stored as float16"},
      {"float16_mantissa", "bits kept of float16 tensors' mantissas, 1 to 10"},
      {"budget_bytes", "bytes of the artifact, with scheme sigma: the finest steps that fit; 0: by sigma_k"},
  };
  return *meanings;
}

std::string SettingsTable() {
  const std::map<std::string, std::string> defaults = ValuesOf(RunConfig());
  std::string table;
  for (const auto& [name, meaning] : SettingMeanings()) {
    if (const auto heading = Headings().find(name); heading != Headings().end()) {
      absl::StrAppend(&table, table.empty() ? "" : "\n", "### ", heading->second,
                      "\n\n| setting | default | in presets | meaning |\n|---|---|---|---|\n");
    }
    const std::string value = defaults.at(name);
    std::vector<std::string> others;
    for (const std::string& preset : PresetNames()) {
      const std::string other = ValuesOf(*Preset(preset)).at(name);
      if (other != value && name != "preset") others.push_back(absl::StrCat(preset, " ", Code(other)));
    }
    absl::StrAppend(&table, "| `", name, "` | ", Code(value), " | ", absl::StrJoin(others, ", "), " | ",
                    meaning, " |\n");
  }
  return table;
}

}  // namespace hm11
