// The forward pass, with the neurons along the vectors: blocks of rows that stay in the caches from
// the first layer to the last, so that x is read once and, in inference, only the logits are
// written. A few rows take dot products instead, and awkward shapes the layout of batchwise.h.

#pragma once

#include <cmath>
#include <type_traits>
#include <vector>

#include "batchwise.h"
#include "blocks.h"

namespace spinalnet {
namespace SPINAL_ARCH {

// Rows per block: x (64 x D), the sums and the hidden outputs share the L2 cache with the packed
// weights.
constexpr index kForwardRows = 64;

// A batch of up to 16 bytes per column, half of a narrow vector, is left to dot products, which
// waste no lanes. A single row only, if a neuron has few inputs: a dot product ends in a sum over
// lanes, which must be worth its while.
template <class T>
constexpr index kFewRows = 16 / sizeof(T);
constexpr index kFewRowsShort = 1, kShortInputs = 128;

template <class T>
index few_rows(const Spine<T>& s) {
    return s.layer[0].size + s.width < kShortInputs ? kFewRowsShort : kFewRows<T>;
}

// Bias and folded norm of every layer, h = act(scale * sum + shift), padded to whole vectors, and
// the same of the output row. The fold costs one square root per neuron, so it is simply done anew
// in every call: nothing to keep, nothing to go stale.
template <class T>
class Affine {
public:
    explicit Affine(const Spine<T>& s)
        : stride_(round_up(s.width, kWide<T>)),
          output_stride_(round_up(s.outputs, kWide<T>)),
          values_(2 * (s.layers * stride_ + output_stride_)) {
        for (index l = 0; l < s.layers; ++l) {
            const Layer<T>& layer = s.layer[l];
            T *scale = scale_of(l), *shift = scale + stride_;
            fill(scale, stride_, layer.bias, s.width);
            const Norm<T>* norm = layer.norm;
            for (index j = 0; norm && j < s.width; ++j) {
                const T gain = norm->gain ? norm->gain[j] : T(1);
                scale[j] = gain / std::sqrt(norm->variance[j] + static_cast<T>(norm->epsilon));
                shift[j] = (shift[j] - norm->mean[j]) * scale[j] + (norm->bias ? norm->bias[j] : 0);
            }
        }
        fill(scale_of(s.layers), output_stride_, s.out_bias, s.outputs);
    }

    // Layer s.layers is the output row.
    void apply(const Spine<T>& s, index l, Finish<T>& finish) const {
        finish.kind = Finish<T>::kActivate;
        finish.scale = scale_of(l);
        finish.shift = finish.scale + (l < s.layers ? stride_ : output_stride_);
        finish.slope = l < s.layers ? s.slope : T(1);
    }

private:
    T* scale_of(index l) const { return values_.data() + 2 * l * stride_; }

    static void fill(T* scale, index stride, const T* bias, index columns) {
        for (index j = 0; j < stride; ++j) {
            scale[j] = 1;
            scale[stride + j] = bias && j < columns ? bias[j] : T(0);
        }
    }

    index stride_, output_stride_;
    Buffer<T> values_;
};

// Products of a few rows with a matrix, along contiguous memory and with nothing packed:
// add(row, column, sum) for all of them. Each weight is loaded once per kDotTileRows rows.
template <class T, class Matrix, class Add>
void few_rows_product(const T* a, index a_stride, index rows, Matrix matrix, index stride,
                      index columns, index length, Add add) {
    const auto tile = [&](index row, index column, auto height, auto width) {
        constexpr int R = decltype(height)::value, J = decltype(width)::value;
        T dots[R][J] = {};
        dot_tile(a + row * a_stride, a_stride, matrix + column * stride, stride, length, dots);
        for (int r = 0; r < R; ++r) {
            for (int j = 0; j < J; ++j) add(row + r, column + j, dots[r][j]);
        }
    };
    using One = std::integral_constant<int, 1>;
    using Two = std::integral_constant<int, 2>;
    using Four = std::integral_constant<int, 4>;
    const auto strip = [&](index column, auto width) {
        index row = 0;
        for (; row + 4 <= rows; row += 4) tile(row, column, Four(), width);
        if (rows - row >= 2) tile(row, column, Two(), width), row += 2;
        if (row < rows) tile(row, column, One(), width);
    };
    index column = 0;
    for (; column + 4 <= columns; column += 4) strip(column, Four());
    for (; column < columns; ++column) strip(column, One());
}

// Forward for few rows: every weight is read where it is, once.
template <class T>
void forward_few_rows(const Spine<T>& s, const Affine<T>& affine) {
    const index hidden_stride = s.layers * s.width;
    Buffer<T> scratch(s.hidden ? 0 : s.rows * hidden_stride);
    T* hidden = s.hidden ? s.hidden : scratch.data();
    Buffer<T> sums(s.rows * s.width);
    for (index l = 0; l < s.layers; ++l) {
        const Layer<T>& layer = s.layer[l];
        Finish<T> finish{hidden + l * s.width, hidden_stride};
        affine.apply(s, l, finish);
        few_rows_product(s.x + layer.offset, s.x_stride, s.rows, layer.weight, layer.stride,
                         s.width, layer.size,
                         [&](index row, index j, T sum) { sums[row * s.width + j] = sum; });
        if (is_chained(s, l)) {
            few_rows_product(finish.c - s.width, hidden_stride, s.rows, chained(s, l), layer.stride,
                             s.width, s.width,
                             [&](index row, index j, T sum) { sums[row * s.width + j] += sum; });
        }
        for (index row = 0; row < s.rows; ++row) {
            for (index j = 0; j < s.width; ++j) {
                using One = Vector<T, 1>;
                const One z = {sums[row * s.width + j] * finish.scale[j] + finish.shift[j]};
                finish.c[row * hidden_stride + j] = activation(z, s.slope)[0];
            }
        }
    }
    Finish<T> finish{s.logits, s.outputs};
    affine.apply(s, s.layers, finish);
    few_rows_product(hidden, hidden_stride, s.rows, s.out_weight, s.out_stride, s.outputs,
                     hidden_stride, [&](index row, index j, T sum) {
                         s.logits[row * s.outputs + j] = sum + finish.shift[j];
                     });
}

// The weights of a forward pass as operands. Layers that share a slice are projected together
// when that fills the vectors better than one product per layer: narrow or odd widths.
template <class T>
class PackedSpine {
public:
    explicit PackedSpine(const Spine<T>& s, bool may_group = true)
        : grouped(may_group && grouping_pays(s)), sums_at(s.layers) {
        slices.reserve(grouped ? s.splits : s.layers);
        chain.reserve(s.layers);
        for (index split = 0; grouped && split < s.splits; ++split) {
            const index columns = members(s, split) * s.width;
            const auto row = [&](index j) {
                return weight_row(s, split + j / s.width * s.splits, j % s.width);
            };
            slices.push_back(pack_transposed<T>(row, s.layer[split].size, columns));
            for (index l = split, g = 0; l < s.layers; l += s.splits, ++g) {
                sums_at[l] = sums_stride + g * s.width;
            }
            sums_stride += round_up(columns, kWide<T>);
        }
        for (index l = 0; l < s.layers; ++l) {
            if (!grouped) {
                const auto row = [&](index j) { return weight_row(s, l, j); };
                slices.push_back(pack_transposed<T>(row, s.layer[l].size, s.width));
            }
            const auto row = [&](index j) { return chained(s, l) + j * s.layer[l].stride; };
            chain.push_back(is_chained(s, l) ? pack_transposed<T>(row, s.width, s.width)
                                             : Operand<T>());
        }
        if (s.outputs) {
            const auto row = [&](index j) { return s.out_weight + j * s.out_stride; };
            output = pack_transposed<T>(row, s.layers * s.width, s.outputs);
        }
    }

    bool grouped;
    std::vector<Operand<T>> slices;  // grouped: one per split, else one per layer
    std::vector<Operand<T>> chain;
    Operand<T> output;
    Buffer<index> sums_at;  // grouped: column of a layer among the sums of its block
    index sums_stride = 0;

private:
    static const T* weight_row(const Spine<T>& s, index l, index j) {
        return s.layer[l].weight + j * s.layer[l].stride;
    }
};

// The sums over the slices of `rows` rows from `first` on, for layers that are projected together.
template <class T>
void project(const Spine<T>& s, const PackedSpine<T>& packed, index first, index rows, T* sums) {
    for (index split = 0; split < s.splits; ++split) {
        const Layer<T>& layer = s.layer[split];
        const Product<T> product{s.x + first * s.x_stride + layer.offset, s.x_stride,
                                 &packed.slices[split], layer.size};
        const Finish<T> finish{sums + packed.sums_at[split], packed.sums_stride};
        rows_product(&product, 1, rows, members(s, split) * s.width, finish);
    }
}

template <class T>
void forward_block(const Spine<T>& s, const PackedSpine<T>& packed, const Affine<T>& affine,
                   index first, index rows) {
    const index hidden_stride = s.layers * s.width;
    Buffer<T> scratch(s.hidden ? 0 : rows * hidden_stride);
    T* hidden = s.hidden ? s.hidden + first * hidden_stride : scratch.data();
    const T* x = s.x + first * s.x_stride;

    Buffer<T> sums(rows * packed.sums_stride);
    if (packed.grouped) project(s, packed, first, rows, sums.data());
    for (index l = 0; l < s.layers; ++l) {
        const Layer<T>& layer = s.layer[l];
        Finish<T> finish{hidden + l * s.width, hidden_stride};
        affine.apply(s, l, finish);
        Product<T> products[2];
        int count = 0;
        if (packed.grouped) {
            finish.start = sums.data() + packed.sums_at[l];
            finish.start_stride = packed.sums_stride;
        } else {
            products[count++] = {x + layer.offset, s.x_stride, &packed.slices[l], layer.size};
        }
        if (is_chained(s, l)) {
            products[count++] = {finish.c - s.width, hidden_stride, &packed.chain[l], s.width};
        }
        rows_product(products, count, rows, s.width, finish);
    }
    if (s.outputs) {
        const Product<T> product{hidden, hidden_stride, &packed.output, hidden_stride};
        Finish<T> finish{s.logits + first * s.outputs, s.outputs};
        affine.apply(s, s.layers, finish);
        rows_product(&product, 1, rows, s.outputs, finish);
    }
}

// Whether forward lays the batch along the vectors.
template <class T>
bool forward_is_batchwise(const Spine<T>& s) {
    return s.rows > few_rows(s) && batchwise_pays(s);
}

template <class T>
void forward(const Spine<T>& s) {
    if (s.rows == 0) return;
    const Affine<T> affine(s);
    if (s.rows <= few_rows(s) && !s.x_rows) return forward_few_rows(s, affine);
    const int threads = useful_threads(s, 1);
    const auto in_blocks = [&](index size, auto block) {
        run(threads, (s.rows + size - 1) / size, [&](index part) {
            const index first = part * size;
            block(first, s.rows - first < size ? s.rows - first : size);
        });
    };
    if (batchwise_pays(s)) {
        in_blocks(batchwise_rows(s, threads), [&](index first, index rows) {
            forward_batchwise(s, affine, first, rows);
        });
        return;
    }
    const PackedSpine<T> packed(s);
    in_blocks(kForwardRows, [&](index first, index rows) {
        forward_block(s, packed, affine, first, rows);
    });
}

}  // namespace SPINAL_ARCH
}  // namespace spinalnet
