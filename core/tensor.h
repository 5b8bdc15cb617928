// Tensor: a non-owning view of contiguous row-major numbers. Columns: a column range of a row-major matrix.
//
// Neither knows its device; the Arena a tensor came from does. Columns exists so that the parts of one
// projection (x and z of a Mamba layer; step size, B and C) are read and written where the matrix product
// left them, uncopied.
#ifndef HM11_CORE_TENSOR_H_
#define HM11_CORE_TENSOR_H_

#include <array>
#include <cstdint>
#include <initializer_list>
#include <ostream>
#include <type_traits>

#include "core/check.h"

namespace hm11 {

// Up to four extents; missing ones are absent, not 1.
class Shape {
 public:
  Shape() = default;
  Shape(std::initializer_list<int64_t> extents) {
    HM_CHECK_LE(extents.size(), size_t{4});
    for (int64_t extent : extents) {
      HM_CHECK_GE(extent, 0);
      extents_[rank_++] = extent;
    }
  }
  int rank() const { return rank_; }
  int64_t operator[](int axis) const {
    HM_DCHECK(axis >= 0 && axis < rank_);
    return extents_[axis];
  }
  int64_t size() const {
    int64_t product = 1;
    for (int axis = 0; axis < rank_; ++axis) product *= extents_[axis];
    return product;
  }
  friend bool operator==(const Shape& a, const Shape& b) {
    return a.rank_ == b.rank_ && a.extents_ == b.extents_;
  }
  friend std::ostream& operator<<(std::ostream& out, const Shape& shape) {
    out << '[';
    for (int axis = 0; axis < shape.rank(); ++axis) out << (axis ? ", " : "") << shape[axis];
    return out << ']';
  }

 private:
  std::array<int64_t, 4> extents_ = {};  // Unused ones stay 0, so that == may compare them all.
  int rank_ = 0;
};

template <typename T>
class Tensor {
 public:
  Tensor() = default;
  Tensor(T* data, Shape shape) : data_(data), shape_(shape) {}
  // A tensor of T is a tensor of const T.
  template <typename U>
  requires(std::is_same_v<T, const U>) Tensor(const Tensor<U>& other)
      : data_(other.data()), shape_(other.shape()) {}  // NOLINT: implicit on purpose

  T* data() const { return data_; }
  const Shape& shape() const { return shape_; }
  int rank() const { return shape_.rank(); }
  int64_t dim(int axis) const { return shape_[axis]; }
  int64_t size() const { return data_ == nullptr && shape_.rank() == 0 ? 0 : shape_.size(); }
  int64_t size_bytes() const { return size() * static_cast<int64_t>(sizeof(T)); }
  // An absent operand: no shape was ever given. (Data may be null while memory is only being planned.)
  bool empty() const { return shape_.rank() == 0 || shape_.size() == 0; }
  T& operator[](int64_t index) const { return data_[index]; }
  T* begin() const { return data_; }
  T* end() const { return data_ + size(); }

  // The same numbers under another shape of the same size.
  Tensor Reshaped(Shape shape) const {
    HM_CHECK_EQ(shape.size(), shape_.size());
    return Tensor(data_, shape);
  }
  // Index range [begin, begin + count) of the first axis.
  Tensor Slice(int64_t begin, int64_t count) const {
    HM_CHECK(rank() >= 1 && begin >= 0 && count >= 0 && begin + count <= dim(0));
    int64_t inner = 1;
    for (int axis = 1; axis < rank(); ++axis) inner *= dim(axis);
    Shape shape = rank() == 1   ? Shape{count}
                  : rank() == 2 ? Shape{count, dim(1)}
                  : rank() == 3 ? Shape{count, dim(1), dim(2)}
                                : Shape{count, dim(1), dim(2), dim(3)};
    return Tensor(data_ == nullptr ? nullptr : data_ + begin * inner, shape);
  }

 private:
  T* data_ = nullptr;
  Shape shape_;
};

template <typename T>
class Columns {
 public:
  Columns() = default;
  Columns(T* data, int64_t rows, int64_t cols, int64_t stride)
      : data_(data), rows_(rows), cols_(cols), stride_(stride) {
    HM_CHECK_LE(cols, stride);
  }
  // All columns of a tensor of rank >= 1; every axis but the last counts as rows.
  Columns(const Tensor<std::remove_const_t<T>>& tensor) : Columns(FromTensor(tensor)) {}  // NOLINT
  Columns(const Tensor<const std::remove_const_t<T>>& tensor)                             // NOLINT
      requires(std::is_const_v<T>)
      : Columns(FromTensor(tensor)) {}
  template <typename U>
  requires(std::is_same_v<T, const U>) Columns(const Columns<U>& other)  // NOLINT
      : Columns(other.data(), other.rows(), other.cols(), other.stride()) {}

  T* data() const { return data_; }
  int64_t rows() const { return rows_; }
  int64_t cols() const { return cols_; }
  int64_t stride() const { return stride_; }  // Elements from one row to the next.
  bool empty() const { return rows_ == 0 || cols_ == 0; }
  T* row(int64_t index) const { return data_ + index * stride_; }
  // Columns [begin, begin + count) of this view.
  Columns Range(int64_t begin, int64_t count) const {
    HM_CHECK(begin >= 0 && count >= 0 && begin + count <= cols_);
    return Columns(data_ == nullptr ? nullptr : data_ + begin, rows_, count, stride_);
  }

 private:
  template <typename U>
  static Columns FromTensor(const Tensor<U>& tensor) {
    if (tensor.rank() == 0) return Columns();
    const int64_t cols = tensor.dim(tensor.rank() - 1);
    return Columns(tensor.data(), cols == 0 ? 0 : tensor.size() / cols, cols, cols);
  }

  T* data_ = nullptr;
  int64_t rows_ = 0;
  int64_t cols_ = 0;
  int64_t stride_ = 0;
};

}  // namespace hm11

#endif  // HM11_CORE_TENSOR_H_
