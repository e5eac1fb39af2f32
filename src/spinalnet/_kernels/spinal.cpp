// Forward and backward of a whole spinal chain, each as one operation.
//
// Work is cut into blocks of rows that stay in the caches from the first layer to the last; x is
// read once and, in inference, only the logits are written. Backward has two phases:
//
//   rows     for each block: the gradients of the hidden layers, last to first, and of x
//   weights  for each panel of a weight gradient: the sum over all blocks, in order
//
// so that no two threads add to the same number and the result is the same for any number of
// threads, bit by bit. With one thread the phases alternate block by block, the data still in the
// caches; the order of additions, and so the result, is again the same.

#include <cmath>
#include <type_traits>
#include <vector>

#include "batchwise.h"

namespace spinalnet {
namespace SPINAL_ARCH {
namespace {

// Rows per block. Forward: x (64 x D), the sums and the hidden outputs share the L2 cache with the
// packed weights. Backward: the panel of x or hidden outputs that a weight gradient multiplies,
// 128 rows x 3 vectors = 24 KiB, has to stay in the L1 cache. Of fewer rows as many panels do, and a
// gradient is written in longer pieces.
constexpr index kForwardRows = 64;
constexpr index kBackwardRows = 128;

// A batch of up to 16 bytes per column, half of a narrow vector, is left to dot products, which waste no
// lanes. A single row only, if a neuron has few inputs: a dot product ends in a sum over lanes, which
// must be worth its while.
template <class T>
constexpr index kFewRows = 16 / sizeof(T);
constexpr index kFewRowsShort = 1, kShortInputs = 128;
// Slices shorter than this are not projected ahead: keeping the sums would cost more than the
// products.
constexpr index kGroupLength = 16;
// From this many rows on, backward copies whole operands instead of padded last panels. Weights of
// megabytes cost more to copy than 64 rows cost to compute: fresh memory has to be mapped first.
constexpr index kPackRows = 512;

// Weights up to this size stay in the L2 cache while the gradient of x is written past them.
constexpr double kStreamBytes = 512 << 10;

// Multiply-accumulates that justify one more thread: about 0.2 ms, ten times what starting and
// joining it takes (19 us).
constexpr double kWorkPerThread = 8e6;

template <class F>
void run(int threads, index parts, const F& body) {
    if (threads <= 1 || parts <= 1) {
        for (index part = 0; part < parts; ++part) body(part);
    } else {
        const auto task = [](const void* f, index part) { (*static_cast<const F*>(f))(part); };
        parallel(threads, parts, task, &body);
    }
}

template <class T>
index few_rows(const Spine<T>& s) {
    return s.layer[0].size + s.width < kShortInputs ? kFewRowsShort : kFewRows<T>;
}

template <class T>
int useful_threads(const Spine<T>& s, double passes) {
    const double limit = macs_per_row(s) * s.rows * passes / kWorkPerThread;
    return limit < s.threads ? static_cast<int>(limit) + 1 : s.threads;
}

// Number of layers that see slice `split`: split, split + S, split + 2 S, ...
template <class T>
inline index members(const Spine<T>& s, index split) {
    return split < s.layers ? (s.layers - split + s.splits - 1) / s.splits : 0;
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
        if (l) {
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
            chain.push_back(l ? pack_transposed<T>(row, s.width, s.width) : Operand<T>());
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
    static bool grouping_pays(const Spine<T>& s) {
        const index count = members(s, 0);
        const auto padded = [](index columns) {
            return round_up(columns, use_wide<T>(columns) ? kWide<T> : kNarrow<T>);
        };
        const bool thin = padded(s.width) < kTileVectors * kWide<T>;
        return count > 1 && s.splits <= s.layers && s.layer[0].size >= kGroupLength &&
               (thin || padded(count * s.width) < count * padded(s.width));
    }
};

template <class T>
void forward_block(const Spine<T>& s, const PackedSpine<T>& packed, const Affine<T>& affine,
                   index first, index rows) {
    const index hidden_stride = s.layers * s.width;
    Buffer<T> scratch(s.hidden ? 0 : rows * hidden_stride);
    T* hidden = s.hidden ? s.hidden + first * hidden_stride : scratch.data();
    const T* x = s.x + first * s.x_stride;

    Buffer<T> sums(rows * packed.sums_stride);
    for (index split = 0; packed.grouped && split < s.splits; ++split) {
        const Layer<T>& layer = s.layer[split];
        const Product<T> product{x + layer.offset, s.x_stride, &packed.slices[split], layer.size};
        const Finish<T> finish{sums.data() + packed.sums_at[split], packed.sums_stride};
        rows_product(&product, 1, rows, members(s, split) * s.width, finish);
    }
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
        if (l) {
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

template <class T>
void forward(const Spine<T>& s) {
    if (s.rows == 0) return;
    const Affine<T> affine(s);
    if (s.rows <= few_rows(s)) return forward_few_rows(s, affine);
    const int threads = useful_threads(s, 1);
    const auto in_blocks = [&](index size, auto block) {
        run(threads, (s.rows + size - 1) / size, [&](index part) {
            const index first = part * size;
            block(first, s.rows - first < size ? s.rows - first : size);
        });
    };
    if (batchwise_pays(s)) {
        in_blocks(batchwise_rows<T>(s.rows, threads), [&](index first, index rows) {
            forward_batchwise(s, affine, first, rows);
        });
        return;
    }
    const PackedSpine<T> packed(s);
    in_blocks(kForwardRows, [&](index first, index rows) {
        forward_block(s, packed, affine, first, rows);
    });
}

// Backward ----------------------------------------------------------------------------------

// The weights of a backward pass as operands; rows of W_l and C already run the right way.
template <class T>
class BackwardSpine {
public:
    explicit BackwardSpine(const Spine<T>& s) {
        const bool copy = s.rows >= kPackRows;
        chain.reserve(s.layers);
        output.reserve(s.layers);
        slices.reserve(s.layers);
        for (index l = 0; l < s.layers; ++l) {
            const Layer<T>& layer = s.layer[l];
            chain.push_back(l ? pack_rows(chained(s, l), layer.stride, s.width, s.width, copy)
                              : Operand<T>());
            output.push_back(s.logits_grad ? pack_rows(s.out_weight + l * s.width, s.out_stride,
                                                       s.outputs, s.width, copy)
                                           : Operand<T>());
            slices.push_back(s.x_grad ? pack_rows(layer.weight, layer.stride, s.width, layer.size,
                                                  copy)
                                      : Operand<T>());
        }
    }

    std::vector<Operand<T>> chain, output, slices;
};

template <class T>
inline index block_count(const Spine<T>& s) {
    return (s.rows + kBackwardRows - 1) / kBackwardRows;
}

template <class T>
inline index block_rows(const Spine<T>& s, index block) {
    const index left = s.rows - block * kBackwardRows;
    return left < kBackwardRows ? left : kBackwardRows;
}

// The gradient of x for `rows` rows from `first` on, from that of their sums z.
template <class T>
void input_gradient(const Spine<T>& s, const BackwardSpine<T>& weights, const T* sums_grad,
                    index first, index rows) {
    const index hidden_stride = s.layers * s.width;
    for (index split = 0; split < s.splits && split < s.layers; ++split) {
        const Layer<T>& slice = s.layer[split];
        Finish<T> finish{s.x_grad + first * s.features + slice.offset, s.features};
        Product<T> products[kMaxTerms];
        int count = 0;
        const double bytes = 1.0 * members(s, split) * s.width * slice.size * sizeof(T);
        const Keep keep = bytes <= kStreamBytes ? Keep::kRows : Keep::kPanel;
        for (index l = split; l < s.layers; l += s.splits) {
            products[count++] = {sums_grad + l * s.width, hidden_stride, &weights.slices[l],
                                 s.width};
            if (count == kMaxTerms || l + s.splits >= s.layers) {
                rows_product(products, count, rows, slice.size, finish, keep);
                finish.start = finish.c, finish.start_stride = finish.stride;
                count = 0;
            }
        }
    }
}

// What phase 2 reads of a block: the gradients of its sums z, layer by layer, then the logits'.
template <class T>
void cut_strips(const Spine<T>& s, const T* sums_grad, index block, T* strips) {
    const index hidden_stride = s.layers * s.width, rows = block_rows(s, block);
    for (index l = 0; l < s.layers; ++l) {
        interleave(sums_grad + l * s.width, hidden_stride, rows, s.width,
                   strips + rows * l * s.width);
    }
    if (s.logits_grad) {
        interleave(s.logits_grad + block * kBackwardRows * s.logits_grad_stride,
                   s.logits_grad_stride, rows, s.outputs, strips + rows * hidden_stride);
    }
}

// The gradient of the sums z of one layer, from those of the next one and of the logits.
template <class T>
void sums_gradient(const Spine<T>& s, const BackwardSpine<T>& weights, index l, index first,
                   index rows, T* sums_grad) {
    const index hidden_stride = s.layers * s.width;
    Finish<T> finish{sums_grad + l * s.width, hidden_stride};
    if (s.hidden_grad) {
        finish.start = s.hidden_grad + first * s.hidden_grad_stride + l * s.width;
        finish.start_stride = s.hidden_grad_stride;
    }
    finish.kind = Finish<T>::kGate;
    finish.gate = s.hidden + first * hidden_stride + l * s.width;
    finish.gate_stride = hidden_stride;
    finish.slope = s.slope;
    Product<T> products[2];
    int count = 0;
    if (s.logits_grad) {
        products[count++] = {s.logits_grad + first * s.logits_grad_stride, s.logits_grad_stride,
                             &weights.output[l], s.outputs};
    }
    if (l + 1 < s.layers) {
        products[count++] = {finish.c + s.width, hidden_stride, &weights.chain[l + 1], s.width};
    }
    rows_product(products, count, rows, s.width, finish);
}

// Phase 1: the gradients of the sums z of every layer, as strips, and of x.
template <class T>
void backward_rows(const Spine<T>& s, const BackwardSpine<T>& weights, index block, T* strips) {
    const index hidden_stride = s.layers * s.width;
    const index first = block * kBackwardRows, rows = block_rows(s, block);
    Buffer<T> sums_grad(rows * hidden_stride);
    for (index l = s.layers - 1; l >= 0; --l) {
        sums_gradient(s, weights, l, first, rows, sums_grad.data());
    }
    if (s.x_grad) input_gradient(s, weights, sums_grad.data(), first, rows);
    if (s.wants_weights) cut_strips(s, sums_grad.data(), block, strips);
}

// Which numbers of a training step are kept, from row `row` on. By default all of them.
template <class T>
class Dropout {
public:
    Dropout() = default;
    Dropout(const Spine<T>& s, const Regularization<T>& r)
        : inputs_(r.inputs), outputs_(r.outputs), width_words_(words(s.width)) {
        index at = 0;
        for (index l = 0; l < s.layers; ++l) {
            slice_at_.push_back(at);
            at += words(s.layer[l].size) + (l ? width_words_ : 0);
        }
        slice_at_.push_back(at);
    }

    Mask<T> slice(index l, index row) const {
        return inputs_.words ? from(inputs_, slice_at_[l], row) : Mask<T>{};
    }
    // Of layer l's input, the part that is the output of layer l - 1.
    Mask<T> chain(index l, index row) const {
        if (!inputs_.words) return {};
        return from(inputs_, slice_at_[l + 1] - width_words_, row);
    }
    Mask<T> output(index l, index row) const {
        return outputs_.words ? from(outputs_, l * width_words_, row) : Mask<T>{};
    }

private:
    static index words(index columns) { return (columns + 31) / 32; }
    static Mask<T> from(const Mask<T>& mask, index word, index row) {
        return {mask.words + row * mask.stride + word, mask.stride, mask.scale};
    }

    Mask<T> inputs_{}, outputs_{};
    index width_words_ = 0;
    std::vector<index> slice_at_;
};

// What phase 2 hands out: neighbouring columns of x or of the hidden outputs, and every weight gradient
// they are a factor of.
struct Panel {
    index split, layer;  // columns of slice `split`, or (split < 0) of the outputs of `layer`
    index column, columns;
    bool wide;
};

template <class T>
std::vector<Panel> weight_panels(const Spine<T>& s) {
    std::vector<Panel> panels;
    const auto add = [&](index split, index layer, index columns) {
        const bool wide = use_wide<T>(columns);
        const index panel = kTileVectors * (wide ? kWide<T> : kNarrow<T>);
        const index most = kBackwardRows / block_rows(s, 0) * panel;
        for (index column = 0; column < columns; column += most) {
            const index left = columns - column;
            panels.push_back({split, layer, column, left < most ? left : most, wide});
        }
    };
    for (index split = 0; split < s.splits && split < s.layers; ++split) {
        add(split, split, s.layer[split].size);
    }
    for (index l = 0; l < s.layers; ++l) {
        if (l + 1 < s.layers || s.logits_grad) add(-1, l, s.width);
    }
    return panels;
}

template <class T, int Lanes>
void panel_gradients(const Spine<T>& s, const Dropout<T>& dropout, const Panel& panel, index block,
                     const T* strips) {
    using V = Vector<T, Lanes>;
    const index hidden_stride = s.layers * s.width;
    const index first = block * kBackwardRows, rows = block_rows(s, block);
    const bool of_x = panel.split >= 0;
    const Layer<T>& layer = s.layer[panel.layer];
    const T* source = of_x ? s.x + first * s.x_stride + layer.offset
                           : s.hidden + first * hidden_stride + panel.layer * s.width;
    source += panel.column;
    const index stride = of_x ? s.x_stride : hidden_stride;

    alignas(64) T copy[kBackwardRows * kTileVectors * Lanes];
    bool as_it_is = false;  // the copy: nothing dropped, good for every user
    const auto copy_panel = [&](const Mask<T>& mask) {
        for_each_panel<Lanes>(panel.columns, [&](index column, int vectors) {
            for (index n = 0; n < rows; ++n) {
                for (int v = 0; v < vectors; ++v) {
                    const index at = column + v * Lanes;
                    V values = load_first<V>(source + n * stride + at, panel.columns - at);
                    if (mask.words) {
                        values = masked<T, Lanes>(values, mask.words + n * mask.stride,
                                                  panel.column + at, mask.scale);
                    }
                    store(copy + rows * column + (n * vectors + v) * Lanes, values);
                }
            }
        });
        as_it_is = !mask.words;
    };
    const auto add_to = [&](const T* strip, index height, T* gradient, index gradient_stride,
                            bool shared, const Mask<T>& mask) {
        if (!as_it_is || mask.words) copy_panel(mask);
        columns_product<T, Lanes>(strip, height, copy, rows, panel.columns,
                                  gradient + panel.column, gradient_stride, shared || block > 0);
    };
    if (of_x) {
        for (index l = panel.layer; l < s.layers; l += s.splits) {
            const Layer<T>& user = s.layer[l];
            add_to(strips + rows * l * s.width, s.width, user.weight_grad, user.columns,
                   user.shared, dropout.slice(l, first));
        }
        return;
    }
    if (panel.layer + 1 < s.layers) {
        const Layer<T>& user = s.layer[panel.layer + 1];
        add_to(strips + rows * (panel.layer + 1) * s.width, s.width,
               user.weight_grad + user.columns - s.width, user.columns, user.shared,
               dropout.chain(panel.layer + 1, first));
    }
    if (s.logits_grad) {
        add_to(strips + rows * hidden_stride, s.outputs, s.out_weight_grad + panel.layer * s.width,
               hidden_stride, false, dropout.output(panel.layer, first));
    }
}

template <class T>
void bias_gradients(const Spine<T>& s, index block, const T* strips) {
    const index rows = block_rows(s, block);
    for (index l = 0; l < s.layers; ++l) {
        const Layer<T>& layer = s.layer[l];
        if (layer.bias_grad) {
            columns_sum(strips + rows * l * s.width, s.width, rows, layer.bias_grad,
                        layer.shared || block > 0);
        }
    }
    if (s.out_bias_grad && s.logits_grad) {
        columns_sum(strips + rows * s.layers * s.width, s.outputs, rows, s.out_bias_grad,
                    block > 0);
    }
}

template <class T>
void zero(T* values, index count) {
    if (values) std::memset(values, 0, count * sizeof(T));
}

// Gradients that no block sets: those that layers share, all of them without rows, and those of
// slices that no layer sees.
template <class T>
void clear(const Spine<T>& s) {
    for (index l = 0; s.wants_weights && l < s.layers; ++l) {
        const Layer<T>& layer = s.layer[l];
        if (layer.shared || s.rows == 0) {
            zero(layer.weight_grad, s.width * layer.columns);
            zero(layer.bias_grad, s.width);
        }
    }
    if (s.wants_weights && s.outputs && (s.rows == 0 || !s.logits_grad)) {
        zero(s.out_weight_grad, s.outputs * s.layers * s.width);
        zero(s.out_bias_grad, s.outputs);
    }
    if (s.layers < s.splits) zero(s.x_grad, s.rows * s.features);
}

// Phase 2.
template <class T>
class WeightGradients {
public:
    WeightGradients(const Spine<T>& s, const Dropout<T>& dropout)
        : s_(s), dropout_(dropout) {
        if (s.wants_weights) panels_ = weight_panels(s);
        for (index l = 0; l < s.layers; ++l) shared_ = shared_ || s.layer[l].shared;
    }

    // What one block adds.
    void block(index block, const T* strips) const {
        for (const Panel& panel : panels_) add(panel, block, strips);
        bias_gradients(s_, block, strips);
    }

    // All blocks, given the strips of each.
    template <class StripsOf>
    void all(int threads, index blocks, const StripsOf& strips_of) const {
        if (shared_) {
            // Panels of different slices add to the same columns of a shared matrix: blocks in order.
            for (index b = 0; b < blocks; ++b) block(b, strips_of(b));
            return;
        }
        const auto panel_phase = [&](index part) {
            for (index b = 0; b < blocks; ++b) {
                part ? add(panels_[part - 1], b, strips_of(b))
                     : bias_gradients(s_, b, strips_of(b));
            }
        };
        run(threads, static_cast<index>(panels_.size()) + 1, panel_phase);
    }

private:
    void add(const Panel& panel, index block, const T* strips) const {
        panel.wide ? panel_gradients<T, kWide<T>>(s_, dropout_, panel, block, strips)
                   : panel_gradients<T, kNarrow<T>>(s_, dropout_, panel, block, strips);
    }

    const Spine<T>& s_;
    const Dropout<T>& dropout_;
    std::vector<Panel> panels_;
    bool shared_ = false;
};

template <class T>
inline index strips_per_row(const Spine<T>& s) {
    return s.wants_weights ? s.layers * s.width + s.outputs : 0;
}

template <class T>
void backward(const Spine<T>& s) {
    clear(s);
    if (s.rows == 0) return;
    const BackwardSpine<T> weights(s);
    const Dropout<T> nothing;
    const WeightGradients<T> weights_phase(s, nothing);
    const index blocks = block_count(s);
    const int threads = useful_threads(s, 2);
    if (threads <= 1) {
        Buffer<T> strips(block_rows(s, 0) * strips_per_row(s));
        for (index block = 0; block < blocks; ++block) {
            backward_rows(s, weights, block, strips.data());
            if (s.wants_weights) weights_phase.block(block, strips.data());
        }
        return;
    }
    Buffer<T> strips(s.rows * strips_per_row(s));
    const auto strips_of = [&](index block) {
        return strips.data() + block * kBackwardRows * strips_per_row(s);
    };
    const auto rows_phase = [&](index block) { backward_rows(s, weights, block, strips_of(block)); };
    run(threads, blocks, rows_phase);
    if (s.wants_weights) weights_phase.all(threads, blocks, strips_of);
}

// Training with dropout or batch norm ---------------------------------------------------------

// Each layer drops inputs of its own, so that nothing is projected ahead; batch norm needs all rows
// of a layer before the next one starts. Hence layer by layer and, within a layer, block by block;
// only without norms does a block go on to the next layer while it is in the caches.

template <class T>
struct Rows {
    const T* values;
    index stride;
};

// Rows times columns of `source`, and zero where they are dropped.
template <class T>
void drop(Rows<T> source, index rows, index columns, const Mask<T>& mask, T* target,
          index target_stride) {
    constexpr int lanes = kWide<T>;
    using V = Vector<T, lanes>;
    for (index n = 0; n < rows; ++n) {
        const T* from = source.values + n * source.stride;
        const std::uint32_t* bits = mask.words + n * mask.stride;
        T* to = target + n * target_stride;
        for (index j = 0; j < columns; j += lanes) {
            const V values = load_first<V>(from + j, columns - j);
            store_first(to + j, masked<T, lanes>(values, bits, j, mask.scale), columns - j);
        }
    }
}

// The same, in scratch memory; without a mask the source itself.
template <class T>
Rows<T> dropped(Rows<T> source, index rows, index columns, const Mask<T>& mask, Buffer<T>& scratch) {
    if (!mask.words) return source;
    const index stride = round_up(columns, kWide<T>);
    scratch = Buffer<T>(rows * stride);
    drop(source, rows, columns, mask, scratch.data(), stride);
    return {scratch.data(), stride};
}

// body(column, load, store) for every vector of a row of `columns` numbers: vectors of the narrower
// kind, since layers often are narrow.
template <class T, class Body>
inline void along_columns(index columns, const Body& body) {
    constexpr int lanes = kNarrow<T>;
    using V = Vector<T, lanes>;
    index j = 0;
    for (; j + lanes <= columns; j += lanes) {
        body(
            j, [](const T* p) { return load<V>(p); }, [](T* p, V v) { store(p, v); });
    }
    if (j < columns) {
        const index tail = columns - j;
        body(
            j, [&](const T* p) { return load_first<V>(p, tail); },
            [&](T* p, V v) { store_first(p, v, tail); });
    }
}

// Mean and sum of squared deviations of each column of a block.
template <class T>
void block_moments(Rows<T> z, index rows, index columns, T* mean, T* squares) {
    std::memset(mean, 0, columns * sizeof(T));
    std::memset(squares, 0, columns * sizeof(T));
    for (index n = 0; n < rows; ++n) {
        const T* row = z.values + n * z.stride;
        along_columns<T>(columns, [&](index j, auto load_at, auto store_at) {
            store_at(mean + j, load_at(mean + j) + load_at(row + j));
        });
    }
    for (index j = 0; j < columns; ++j) mean[j] /= static_cast<T>(rows);
    for (index n = 0; n < rows; ++n) {
        const T* row = z.values + n * z.stride;
        along_columns<T>(columns, [&](index j, auto load_at, auto store_at) {
            const auto off = load_at(row + j) - load_at(mean + j);
            store_at(squares + j, load_at(squares + j) + off * off);
        });
    }
}

// The statistics that a layer normalizes by, from those of its blocks, and the running ones.
template <class T>
void merge_moments(const BatchNorm<T>& norm, index rows, index block_rows, index columns,
                   const T* moments) {
    if (norm.batches) ++*norm.batches;
    for (index j = 0; j < columns; ++j) {
        double count = 0, mean = 0, squares = 0;
        for (index first = 0; first < rows; first += block_rows) {
            const T* block = moments + first / block_rows * 2 * columns;
            const double size = static_cast<double>(rows - first < block_rows ? rows - first
                                                                              : block_rows);
            const double off = block[j] - mean, total = count + size;
            mean += off * size / total;
            squares += block[columns + j] + off * off * count * size / total;
            count = total;
        }
        norm.mean[j] = static_cast<T>(mean);
        norm.inverse[j] = static_cast<T>(1 / std::sqrt(squares / count + norm.epsilon));
        const auto track = [&](T* running, double value) {
            running[j] = static_cast<T>((1 - norm.momentum) * running[j] + norm.momentum * value);
        };
        if (norm.running_mean) track(norm.running_mean, mean);
        if (norm.running_variance) track(norm.running_variance, squares / (count - 1));
    }
}

template <class T>
void use_running_statistics(const BatchNorm<T>& norm, index columns) {
    for (index j = 0; j < columns; ++j) {
        norm.mean[j] = norm.running_mean[j];
        norm.inverse[j] = static_cast<T>(1 / std::sqrt(norm.running_variance[j] + norm.epsilon));
    }
}

// h = act(gain * (z - mean) * inverse + bias)
template <class T>
void normalize(const BatchNorm<T>& norm, Rows<T> z, index rows, index columns, T slope, T* hidden,
               index hidden_stride) {
    Buffer<T> scale(columns), shift(columns);
    for (index j = 0; j < columns; ++j) {
        scale[j] = (norm.gain ? norm.gain[j] : T(1)) * norm.inverse[j];
        shift[j] = (norm.bias ? norm.bias[j] : T(0)) - norm.mean[j] * scale[j];
    }
    for (index n = 0; n < rows; ++n) {
        const T* row = z.values + n * z.stride;
        T* to = hidden + n * hidden_stride;
        along_columns<T>(columns, [&](index j, auto load_at, auto store_at) {
            const auto y = load_at(row + j) * load_at(scale.data() + j) + load_at(shift.data() + j);
            store_at(to + j, activation(y, slope));
        });
    }
}

template <class T>
void forward_regularized(const Spine<T>& s, const Regularization<T>& r) {
    if (s.rows == 0) return;
    const index hidden_stride = s.layers * s.width;
    const Affine<T> affine(s);
    const PackedSpine<T> packed(s, false);
    const Dropout<T> dropout(s, r);
    const index blocks = (s.rows + kForwardRows - 1) / kForwardRows;
    const int threads = useful_threads(s, 1);
    Buffer<T> moments(r.norm ? blocks * 2 * s.width : 0);

    const auto rows_of = [&](index block) {
        const index left = s.rows - block * kForwardRows;
        return left < kForwardRows ? left : kForwardRows;
    };
    const auto layer_block = [&](index l, index block) {
        const index first = block * kForwardRows, rows = rows_of(block);
        const Layer<T>& layer = s.layer[l];
        Buffer<T> slice_copy, chain_copy;
        const Rows<T> x = dropped<T>({s.x + first * s.x_stride + layer.offset, s.x_stride}, rows,
                                     layer.size, dropout.slice(l, first), slice_copy);
        Product<T> products[2] = {{x.values, x.stride, &packed.slices[l], layer.size}};
        T* hidden = s.hidden + first * hidden_stride + l * s.width;
        if (l) {
            const Rows<T> h = dropped<T>({hidden - s.width, hidden_stride}, rows, s.width,
                                         dropout.chain(l, first), chain_copy);
            products[1] = {h.values, h.stride, &packed.chain[l], s.width};
        }
        Finish<T> finish{hidden, hidden_stride};
        affine.apply(s, l, finish);
        if (r.norm) {
            finish.c = r.sums + first * hidden_stride + l * s.width;
            finish.slope = 1;
        }
        rows_product(products, l ? 2 : 1, rows, s.width, finish);
        if (r.norm && !r.norm[l].fixed) {
            T* mean = moments.data() + block * 2 * s.width;
            block_moments<T>({finish.c, hidden_stride}, rows, s.width, mean, mean + s.width);
        }
    };
    const auto normalize_block = [&](index l, index block) {
        const index at = block * kForwardRows * hidden_stride + l * s.width;
        normalize<T>(r.norm[l], {r.sums + at, hidden_stride}, rows_of(block), s.width, s.slope,
                     s.hidden + at, hidden_stride);
    };
    const auto output_block = [&](index block) {
        const index first = block * kForwardRows, rows = rows_of(block);
        Rows<T> hidden{s.hidden + first * hidden_stride, hidden_stride};
        Buffer<T> copy;
        if (r.outputs.words) {
            copy = Buffer<T>(rows * hidden_stride);
            for (index l = 0; l < s.layers; ++l) {
                drop<T>({hidden.values + l * s.width, hidden_stride}, rows, s.width,
                        dropout.output(l, first), copy.data() + l * s.width, hidden_stride);
            }
            hidden.values = copy.data();
        }
        const Product<T> product{hidden.values, hidden_stride, &packed.output, hidden_stride};
        Finish<T> finish{s.logits + first * s.outputs, s.outputs};
        affine.apply(s, s.layers, finish);
        rows_product(&product, 1, rows, s.outputs, finish);
    };

    if (r.norm) {
        for (index l = 0; l < s.layers; ++l) {
            run(threads, blocks, [&](index block) { layer_block(l, block); });
            if (r.norm[l].fixed) {
                use_running_statistics(r.norm[l], s.width);
            } else {
                merge_moments(r.norm[l], s.rows, kForwardRows, s.width, moments.data());
            }
            run(threads, blocks, [&](index block) { normalize_block(l, block); });
        }
    } else {
        run(threads, blocks, [&](index block) {
            for (index l = 0; l < s.layers; ++l) layer_block(l, block);
        });
    }
    if (s.outputs) run(threads, blocks, output_block);
}

// The gradient of what the activation of one layer was given, for the rows of a block.
template <class T>
void activation_gradient(const Spine<T>& s, const BackwardSpine<T>& weights,
                         const Dropout<T>& dropout, index l, index first, index rows,
                         T* gradients) {
    const index hidden_stride = s.layers * s.width;
    const Mask<T> of_output = dropout.output(l, first);
    const Mask<T> of_next = l + 1 < s.layers ? dropout.chain(l + 1, first) : Mask<T>{};
    if (!of_output.words && !of_next.words) {
        return sums_gradient(s, weights, l, first, rows, gradients);
    }
    // Each factor has its own mask: one product after the other, added up in c.
    Finish<T> finish{gradients + l * s.width, hidden_stride};
    if (s.hidden_grad) {
        finish.start = s.hidden_grad + first * s.hidden_grad_stride + l * s.width;
        finish.start_stride = s.hidden_grad_stride;
    }
    const auto add = [&](const Product<T>& product, const Mask<T>& mask) {
        finish.kind = mask.words ? Finish<T>::kDrop : Finish<T>::kStore;
        finish.mask = mask;
        rows_product(&product, 1, rows, s.width, finish);
        finish.start = finish.c, finish.start_stride = finish.stride;
    };
    if (s.logits_grad) {
        add({s.logits_grad + first * s.logits_grad_stride, s.logits_grad_stride,
             &weights.output[l], s.outputs},
            of_output);
    }
    if (l + 1 < s.layers) {
        add({finish.c + s.width, hidden_stride, &weights.chain[l + 1], s.width}, of_next);
    }
    const T* hidden = s.hidden + first * hidden_stride + l * s.width;
    for (index n = 0; n < rows; ++n) {
        T* row = finish.c + n * hidden_stride;
        along_columns<T>(s.width, [&](index j, auto load_at, auto store_at) {
            const auto output = load_at(hidden + n * hidden_stride + j);
            store_at(row + j, gated(load_at(row + j), output, s.slope));
        });
    }
}

// Per column of a block: the sum of the gradients by the norm's results, and of their products with
// the normalized z.
template <class T>
void norm_sums(const BatchNorm<T>& norm, Rows<T> gradient, Rows<T> z, index rows, index columns,
               T* total, T* correlated) {
    std::memset(total, 0, columns * sizeof(T));
    std::memset(correlated, 0, columns * sizeof(T));
    for (index n = 0; n < rows; ++n) {
        const T *g = gradient.values + n * gradient.stride, *row = z.values + n * z.stride;
        along_columns<T>(columns, [&](index j, auto load_at, auto store_at) {
            const auto dy = load_at(g + j);
            const auto off = (load_at(row + j) - load_at(norm.mean + j)) * load_at(norm.inverse + j);
            store_at(total + j, load_at(total + j) + dy);
            store_at(correlated + j, load_at(correlated + j) + dy * off);
        });
    }
}

// The gradient by z, in the place of that by the norm's results dy:
//   gain * inverse * (dy - mean(dy) - normalized z * mean(dy * normalized z))
template <class T>
void norm_gradient(const BatchNorm<T>& norm, index all_rows, const T* sums, Rows<T> z, index rows,
                   index columns, T* gradient, index stride) {
    const T *total = sums, *correlated = sums + columns;
    Buffer<T> scale(columns), drift(columns), shift(columns);
    const T share = norm.fixed ? T(0) : T(1) / static_cast<T>(all_rows);
    for (index j = 0; j < columns; ++j) {
        scale[j] = (norm.gain ? norm.gain[j] : T(1)) * norm.inverse[j];
        drift[j] = scale[j] * norm.inverse[j] * correlated[j] * share;
        shift[j] = -scale[j] * total[j] * share;
    }
    for (index n = 0; n < rows; ++n) {
        const T* row = z.values + n * z.stride;
        T* g = gradient + n * stride;
        along_columns<T>(columns, [&](index j, auto load_at, auto store_at) {
            const auto off = load_at(row + j) - load_at(norm.mean + j);
            const auto dz = load_at(g + j) * load_at(scale.data() + j) + load_at(shift.data() + j);
            store_at(g + j, dz - off * load_at(drift.data() + j));
        });
    }
}

template <class T>
void backward_regularized(const Spine<T>& s, const Regularization<T>& r) {
    clear(s);
    for (index l = 0; r.norm && s.rows == 0 && l < s.layers; ++l) {
        zero(r.norm[l].gain_grad, s.width);
        zero(r.norm[l].bias_grad, s.width);
    }
    if (s.rows == 0) return;
    const index hidden_stride = s.layers * s.width;
    const BackwardSpine<T> weights(s);
    const Dropout<T> dropout(s, r);
    const index blocks = block_count(s);
    const int threads = useful_threads(s, 2);
    Buffer<T> gradients(s.rows * hidden_stride), block_sums(r.norm ? blocks * 2 * s.width : 0);
    Buffer<T> sums(2 * s.width);

    const auto layer_block = [&](index l, index block) {
        const index first = block * kBackwardRows, rows = block_rows(s, block);
        T* gradient = gradients.data() + first * hidden_stride;
        activation_gradient(s, weights, dropout, l, first, rows, gradient);
        if (r.norm) {
            T* partial = block_sums.data() + block * 2 * s.width;
            norm_sums<T>(r.norm[l], {gradient + l * s.width, hidden_stride},
                         {r.sums + first * hidden_stride + l * s.width, hidden_stride}, rows,
                         s.width, partial, partial + s.width);
        }
    };
    const auto merge = [&](index l) {
        for (index j = 0; j < 2 * s.width; ++j) {
            double sum = 0;
            for (index block = 0; block < blocks; ++block) {
                sum += block_sums[block * 2 * s.width + j];
            }
            sums[j] = static_cast<T>(sum);
        }
        const BatchNorm<T>& norm = r.norm[l];
        for (index j = 0; j < s.width; ++j) {
            if (norm.bias_grad) norm.bias_grad[j] = sums[j];
            if (norm.gain_grad) norm.gain_grad[j] = sums[s.width + j];
        }
    };
    const auto norm_block = [&](index l, index block) {
        const index at = block * kBackwardRows * hidden_stride + l * s.width;
        norm_gradient<T>(r.norm[l], s.rows, sums.data(), {r.sums + at, hidden_stride},
                         block_rows(s, block), s.width, gradients.data() + at, hidden_stride);
    };
    const auto input_block = [&](index block) {
        const index first = block * kBackwardRows, rows = block_rows(s, block);
        const T* gradient = gradients.data() + first * hidden_stride;
        if (!r.inputs.words) return input_gradient(s, weights, gradient, first, rows);
        for (index l = 0; l < s.layers; ++l) {
            const Layer<T>& layer = s.layer[l];
            Finish<T> finish{s.x_grad + first * s.features + layer.offset, s.features};
            if (l >= s.splits) finish.start = finish.c, finish.start_stride = finish.stride;
            finish.kind = Finish<T>::kDrop;
            finish.mask = dropout.slice(l, first);
            const Product<T> product{gradient + l * s.width, hidden_stride, &weights.slices[l],
                                     s.width};
            rows_product(&product, 1, rows, layer.size, finish, Keep::kRows);
        }
    };

    if (r.norm) {
        for (index l = s.layers - 1; l >= 0; --l) {
            run(threads, blocks, [&](index block) { layer_block(l, block); });
            merge(l);
            run(threads, blocks, [&](index block) { norm_block(l, block); });
        }
    } else {
        run(threads, blocks, [&](index block) {
            for (index l = s.layers - 1; l >= 0; --l) layer_block(l, block);
        });
    }
    if (s.x_grad) run(threads, blocks, input_block);
    if (!s.wants_weights) return;

    const WeightGradients<T> weights_phase(s, dropout);
    const auto cut = [&](index block, T* strips) {
        cut_strips(s, gradients.data() + block * kBackwardRows * hidden_stride, block, strips);
    };
    if (threads <= 1) {
        Buffer<T> strips(block_rows(s, 0) * strips_per_row(s));
        for (index block = 0; block < blocks; ++block) {
            cut(block, strips.data());
            weights_phase.block(block, strips.data());
        }
        return;
    }
    Buffer<T> strips(s.rows * strips_per_row(s));
    const auto strips_of = [&](index block) {
        return strips.data() + block * kBackwardRows * strips_per_row(s);
    };
    run(threads, blocks, [&](index block) { cut(block, strips_of(block)); });
    weights_phase.all(threads, blocks, strips_of);
}

// Random bits --------------------------------------------------------------------------------

// xoshiro256++ (Blackman and Vigna, "Scrambled linear pseudorandom number generators", 2021) in
// independent lanes, seeded by splitmix64 as its authors advise.
class Generator {
public:
    static constexpr int kLanes = 8;
    using Word = Vector<std::uint64_t, kLanes>;

    explicit Generator(std::uint64_t seed) {
        for (Word& word : state_) {
            for (int lane = 0; lane < kLanes; ++lane) word[lane] = mix(seed);
        }
    }
    // By reference: how such a vector is returned differs between instruction sets.
    void next(Word& result) {
        Word &a = state_[0], &b = state_[1], &c = state_[2], &d = state_[3];
        result = a + d;
        result = (result << 23 | result >> (64 - 23)) + a;
        const Word shifted = b << 17;
        c ^= a, d ^= b, b ^= c, a ^= d, c ^= shifted;
        d = d << 45 | d >> (64 - 45);
    }

private:
    static std::uint64_t mix(std::uint64_t& seed) {
        std::uint64_t z = seed += 0x9e3779b97f4a7c15u;
        z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
        z = (z ^ z >> 27) * 0x94d049bb133111ebu;
        return z ^ z >> 31;
    }

    Word state_[4];
};

// Digits of the binary fraction that a probability is rounded to: as many as a float in [0, 1) has
// that torch draws.
constexpr int kProbabilityBits = 24;

// A bit is one with probability 0.b1 b2 b3 ...: going from the last digit to the first, `or` with a
// random bit where the digit is one and `and` where it is zero halves the probability so far and
// adds the digit. Trailing zeros need no random bit: probability 1/2 takes one.
void draw(std::uint64_t seed, double keep, std::uint32_t* words, index count) {
    constexpr index step = Generator::kLanes * 2;  // words
    const auto digits = static_cast<std::uint32_t>(std::lround(keep * (1 << kProbabilityBits)));
    if (digits == 0 || digits >> kProbabilityBits) {
        std::memset(words, digits ? 0xff : 0, count * sizeof(std::uint32_t));
        return;
    }
    const int first = __builtin_ctz(digits);
    Generator generator(seed);
    Generator::Word bits, random;
    for (index i = 0; i < count; i += step) {
        generator.next(bits);
        for (int digit = first + 1; digit < kProbabilityBits; ++digit) {
            generator.next(random);
            if (digits >> digit & 1) {
                bits |= random;
            } else {
                bits &= random;
            }
        }
        std::memcpy(words + i, &bits, (count - i < step ? count - i : step) * sizeof(*words));
    }
}

double exercise_tile(index repeats) {
    constexpr int lanes = kWide<float>, width = kTileVectors * lanes;
    constexpr index length = 64;
    Buffer<float> a(kTileRows * length), b(length * width), sums(kTileRows * width);
    for (index i = 0; i < kTileRows * length; ++i) a[i] = 1;
    for (index i = 0; i < length * width; ++i) b[i] = 1;
    const Term<float> term{a.data(), 0, b.data(), width, length};
    for (index i = 0; i < repeats; ++i) {
        tile<float, lanes, true>(kTileRows, kTileVectors, &term, 1, sums.data());
        asm volatile("" ::: "memory");  // each round counts
    }
    return static_cast<double>(repeats) * kTileRows * width * length;
}

}  // namespace

void warp(const Warp&);  // warp.cpp
std::string check();     // check.cpp

extern const Kernels kernels;
const Kernels kernels = {
    SPINAL_ARCH_NAME,
    forward<float>,
    backward<float>,
    forward<double>,
    backward<double>,
    forward_regularized<float>,
    backward_regularized<float>,
    forward_regularized<double>,
    backward_regularized<double>,
    draw,
    exercise_tile,
    warp,
    check,
};

}  // namespace SPINAL_ARCH
}  // namespace spinalnet
