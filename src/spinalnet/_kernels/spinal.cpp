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

#include "product.h"

namespace spinalnet {
namespace SPINAL_ARCH {
namespace {

// Rows per block. Forward: x (64 x D), the sums and the hidden outputs share the L2 cache with the
// packed weights. Backward: the panel of x or hidden outputs that a weight gradient multiplies,
// 128 rows x 3 vectors = 24 KiB, has to stay in the L1 cache.
constexpr index kForwardRows = 64;
constexpr index kBackwardRows = 128;

// Up to so many rows a weight is used too seldom to pay for packing it: one if a neuron has few
// inputs (a dot product ends in a sum over lanes, which must be worth its while), more when the
// weights do not fit the L2 cache, so that packing writes and reads back a slower memory.
constexpr index kFewRowsShort = 1, kFewRows = 4, kFewRowsLarge = 16;
constexpr index kShortInputs = 128;
constexpr double kLargeBytes = 1 << 20;
// Slices shorter than this are not projected ahead: keeping the sums would cost more than the
// products.
constexpr index kGroupLength = 16;
// From this many rows on, backward copies whole operands instead of padded last panels.
constexpr index kPackRows = 24;

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
double macs_per_row(const Spine<T>& s) {
    double macs = static_cast<double>(s.layers) * s.width * s.outputs;
    for (index l = 0; l < s.layers; ++l) macs += s.width * (s.layer[l].size + (l ? s.width : 0.0));
    return macs;
}

template <class T>
index few_rows(const Spine<T>& s) {
    if (macs_per_row(s) * sizeof(T) > kLargeBytes) return kFewRowsLarge;
    return s.layer[0].size + s.width < kShortInputs ? kFewRowsShort : kFewRows;
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

// B_l, the columns of W_l that multiply the previous layer.
template <class T>
inline const T* chained(const Spine<T>& s, index l) {
    return s.layer[l].weight + s.layer[l].columns - s.width;
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
    explicit PackedSpine(const Spine<T>& s) : grouped(grouping_pays(s)), sums_at(s.layers) {
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
    const PackedSpine<T> packed(s);
    const auto block = [&](index part) {
        const index first = part * kForwardRows;
        const index rows = s.rows - first < kForwardRows ? s.rows - first : kForwardRows;
        forward_block(s, packed, affine, first, rows);
    };
    run(useful_threads(s, 1), (s.rows + kForwardRows - 1) / kForwardRows, block);
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
inline index block_rows(const Spine<T>& s, index block) {
    const index left = s.rows - block * kBackwardRows;
    return left < kBackwardRows ? left : kBackwardRows;
}

// Phase 1: gradients of the sums z of every layer, cut into strips for phase 2 (layer by layer,
// then the logits' gradient), and the gradient of x.
template <class T>
void backward_rows(const Spine<T>& s, const BackwardSpine<T>& weights, index block, T* strips) {
    const index hidden_stride = s.layers * s.width;
    const index first = block * kBackwardRows, rows = block_rows(s, block);
    const T* logits_grad = s.logits_grad ? s.logits_grad + first * s.logits_grad_stride : nullptr;
    Buffer<T> sums_grad(rows * hidden_stride);

    for (index l = s.layers - 1; l >= 0; --l) {
        Finish<T> finish{sums_grad.data() + l * s.width, hidden_stride};
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
        if (logits_grad) {
            products[count++] = {logits_grad, s.logits_grad_stride, &weights.output[l], s.outputs};
        }
        if (l + 1 < s.layers) {
            products[count++] = {finish.c + s.width, hidden_stride, &weights.chain[l + 1], s.width};
        }
        rows_product(products, count, rows, s.width, finish);
    }

    if (s.x_grad) {
        for (index split = 0; split < s.splits && split < s.layers; ++split) {
            const Layer<T>& slice = s.layer[split];
            Finish<T> finish{s.x_grad + first * s.features + slice.offset, s.features};
            Product<T> products[kMaxTerms];
            int count = 0;
            const double bytes = 1.0 * members(s, split) * s.width * slice.size * sizeof(T);
            const Keep keep = bytes <= kStreamBytes ? Keep::kRows : Keep::kPanel;
            for (index l = split; l < s.layers; l += s.splits) {
                products[count++] = {sums_grad.data() + l * s.width, hidden_stride,
                                     &weights.slices[l], s.width};
                if (count == kMaxTerms || l + s.splits >= s.layers) {
                    rows_product(products, count, rows, slice.size, finish, keep);
                    finish.start = finish.c, finish.start_stride = finish.stride;
                    count = 0;
                }
            }
        }
    }

    if (s.wants_weights) {
        for (index l = 0; l < s.layers; ++l) {
            interleave(sums_grad.data() + l * s.width, hidden_stride, rows, s.width,
                       strips + rows * l * s.width);
        }
        if (logits_grad) {
            interleave(logits_grad, s.logits_grad_stride, rows, s.outputs,
                       strips + rows * hidden_stride);
        }
    }
}

// What phase 2 hands out: one panel of the columns of x or of the hidden outputs, and every weight
// gradient it is a factor of.
struct Panel {
    index split, layer;  // columns of slice `split`, or (split < 0) of the outputs of `layer`
    index column;
    int vectors;
    bool wide;
};

template <class T>
std::vector<Panel> weight_panels(const Spine<T>& s) {
    std::vector<Panel> panels;
    const auto add = [&](index split, index layer, index columns) {
        const bool wide = use_wide<T>(columns);
        const auto push = [&](index column, int vectors) {
            panels.push_back({split, layer, column, vectors, wide});
        };
        wide ? for_each_panel<kWide<T>>(columns, push) : for_each_panel<kNarrow<T>>(columns, push);
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
void panel_gradients(const Spine<T>& s, const Panel& panel, index block, const T* strips) {
    using V = Vector<T, Lanes>;
    const index hidden_stride = s.layers * s.width;
    const index first = block * kBackwardRows, rows = block_rows(s, block);
    const bool of_x = panel.split >= 0;
    const Layer<T>& layer = s.layer[panel.layer];
    const index columns = of_x ? layer.size : s.width;
    const T* source = of_x ? s.x + first * s.x_stride + layer.offset
                           : s.hidden + first * hidden_stride + panel.layer * s.width;
    const index stride = of_x ? s.x_stride : hidden_stride;

    alignas(64) T copy[kBackwardRows * kTileVectors * Lanes];
    for (index n = 0; n < rows; ++n) {
        for (int v = 0; v < panel.vectors; ++v) {
            const index at = panel.column + v * Lanes;
            store(copy + (n * panel.vectors + v) * Lanes,
                  load_first<V>(source + n * stride + at, columns - at));
        }
    }
    const auto add_to = [&](const T* strip, index height, T* gradient, index gradient_stride,
                            bool shared) {
        columns_product<T, Lanes>(strip, height, copy, panel.vectors * Lanes, rows, panel.vectors,
                                  panel.column, columns, gradient, gradient_stride,
                                  shared || block > 0);
    };
    if (of_x) {
        for (index l = panel.layer; l < s.layers; l += s.splits) {
            const Layer<T>& user = s.layer[l];
            add_to(strips + rows * l * s.width, s.width, user.weight_grad, user.columns,
                   user.shared);
        }
        return;
    }
    if (panel.layer + 1 < s.layers) {
        const Layer<T>& user = s.layer[panel.layer + 1];
        add_to(strips + rows * (panel.layer + 1) * s.width, s.width,
               user.weight_grad + user.columns - s.width, user.columns, user.shared);
    }
    if (s.logits_grad) {
        add_to(strips + rows * hidden_stride, s.outputs, s.out_weight_grad + panel.layer * s.width,
               hidden_stride, false);
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

template <class T>
void backward(const Spine<T>& s) {
    clear(s);
    if (s.rows == 0) return;
    const BackwardSpine<T> weights(s);
    const std::vector<Panel> panels = s.wants_weights ? weight_panels(s) : std::vector<Panel>();
    const index blocks = (s.rows + kBackwardRows - 1) / kBackwardRows;
    const index strips_per_row = s.wants_weights ? s.layers * s.width + s.outputs : 0;
    const int threads = useful_threads(s, 2);

    const auto panel_block = [&](const Panel& panel, index block, const T* strips) {
        panel.wide ? panel_gradients<T, kWide<T>>(s, panel, block, strips)
                   : panel_gradients<T, kNarrow<T>>(s, panel, block, strips);
    };
    const auto weights_phase = [&](index block, const T* strips) {
        for (const Panel& panel : panels) panel_block(panel, block, strips);
        bias_gradients(s, block, strips);
    };
    if (threads <= 1) {
        Buffer<T> strips(block_rows(s, 0) * strips_per_row);
        for (index block = 0; block < blocks; ++block) {
            backward_rows(s, weights, block, strips.data());
            if (s.wants_weights) weights_phase(block, strips.data());
        }
        return;
    }
    Buffer<T> strips(s.rows * strips_per_row);
    const auto strips_of = [&](index block) {
        return strips.data() + block * kBackwardRows * strips_per_row;
    };
    const auto rows_phase = [&](index block) { backward_rows(s, weights, block, strips_of(block)); };
    run(threads, blocks, rows_phase);
    if (!s.wants_weights) return;

    // Panels of different slices add to the same columns of a shared matrix: all blocks in order.
    bool shared = false;
    for (index l = 0; l < s.layers; ++l) shared = shared || s.layer[l].shared;
    if (shared) {
        for (index block = 0; block < blocks; ++block) weights_phase(block, strips_of(block));
        return;
    }
    const auto panel_phase = [&](index part) {
        for (index block = 0; block < blocks; ++block) {
            if (part == 0) {
                bias_gradients(s, block, strips_of(block));
            } else {
                panel_block(panels[part - 1], block, strips_of(block));
            }
        }
    };
    run(threads, static_cast<index>(panels.size()) + 1, panel_phase);
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
    SPINAL_ARCH_NAME, forward<float>, forward<double>, backward<float>,
    backward<double>, exercise_tile,  warp,            check,
};

}  // namespace SPINAL_ARCH
}  // namespace spinalnet
