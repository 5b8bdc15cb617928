// WeightInfo: what a weight is to initialization, the optimizer, files, the quantizer and test-time training.
#ifndef HM11_MODEL_WEIGHT_INFO_H_
#define HM11_MODEL_WEIGHT_INFO_H_

#include <cstdint>
#include <string>
#include <vector>

#include "core/tensor.h"

namespace hm11 {

// What a weight is to the optimizer (train/optimizer.h says which rule each kind has).
enum class WeightKind {
  kBankMatrix,   // of an attention layer and its MLP: in the reference's banks
  kMambaMatrix,  // of a Mamba layer and its MLP
  kSmallMatrix,  // other projections: bigram, value embedding, gates
  kEmbedding,    // token, bigram and value tables
  kHead,         // untied output head and multi-token-prediction heads
  kControl,      // everything else: scales, gates, biases, A, D, convolutions
};

// What a weight is to the quantizer (quant/tensor_quantizer.h says what becomes of each class).
enum class StorageClass {
  kMatrix,        // codes
  kSixBitMatrix,  // codes, which the published scheme gives six bits
  kTable,         // codes finer than a matrix's
  kFloat16,       // but codes in the published scheme
  kFloat32,
  kTrainingOnly,  // in no artifact
};

// The rule by which a weight gets its first numbers.
struct InitialValue {
  enum class Rule {
    kConstant,    // `value`
    kFirstRow,    // `value` in row 0, zero below
    kNormal,      // deviation `value`
    kUniform,     // in [-value, value)
    kOrthogonal,  // orthonormal rows or, where there are more rows than columns, columns
    kLinear,      // kOrthogonal where both sides have 64 or more, else uniform in 1 / sqrt(columns)
    kLogColumn,   // log(column + 1), columns from 0
    kStepBias,    // softplus(x) log-uniform in [0.001, 0.1] (Gu & Dao 2023, section 3.6)
  };
  Rule rule;
  double value = 0;

  static InitialValue Zero() { return {Rule::kConstant, 0}; }
  static InitialValue Constant(double value) { return {Rule::kConstant, value}; }
  static InitialValue FirstRow(double value) { return {Rule::kFirstRow, value}; }
  static InitialValue Normal(double deviation) { return {Rule::kNormal, deviation}; }
  static InitialValue Uniform(double bound) { return {Rule::kUniform, bound}; }
  static InitialValue Orthogonal() { return {Rule::kOrthogonal}; }
  static InitialValue Linear() { return {Rule::kLinear}; }
  static InitialValue LogColumn() { return {Rule::kLogColumn}; }
  static InitialValue StepBias() { return {Rule::kStepBias}; }
};

// Rows of a weight that are a matrix of their own, to Muon and in files.
struct MatrixPart {
  int64_t rows = 0;
  std::string parameter;    // of the reference, that holds it
  int64_t slot = 0;         // which matrix of the parameter: 0 unless it is a bank
  std::string stored_name;  // in an artifact: "<bank>.<slot>", or the parameter's name
};

// All that the program knows of a weight. Everything that treats weights differently asks this.
struct WeightInfo {
  std::string name;  // the reference's, but for matrices of banks
  Shape shape;
  WeightKind kind;
  InitialValue initial;
  StorageClass storage;
  int64_t layer;                         // -1: of no layer
  bool mlp;                              // of a layer's MLP: what test-time training "ttt_mlp" trains
  std::vector<int64_t> reference_shape;  // of the reference's parameter, but for banks
  std::vector<MatrixPart> parts;         // stacked in this order; one, unless it is queries, keys and values
};

}  // namespace hm11

#endif  // HM11_MODEL_WEIGHT_INFO_H_
